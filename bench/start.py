"""`aot bench start`: what a short command costs before it does anything.

CPU time of a process of its own, user and system, the smallest of all rounds: the commands take
turns, so that a busy machine troubles all alike. Byte code is cached, as after a first use,
whatever the environment says of it. The store is an embedded one, running and empty.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.facts import measured_commit, processor
from bench.folders import own_folder, store_url
from pipeline.store import StoreConfig, open_store

COMMANDS = {
    "help": ("--help",),
    "usage": ("nosuchcommand",),
    "config": ("config",),
    "streams": ("streams",),
    "clips": ("clips", "ls", "nosuchstream"),
}
GOAL_S = 0.35
_ROOT = Path(__file__).parents[1]
_RUN = "import sys; from pipeline.cli import main; sys.exit(main())"


def run(
    *, rounds: int = 10, on_progress: Callable[[str], None] = lambda _: None
) -> dict[str, object]:
    """CPU seconds of each of `COMMANDS`, as `NAME_cpu_s`, and the largest against `GOAL_S`."""
    with own_folder() as folder:
        store = StoreConfig(store_url(folder))
        python = [sys.executable, "-E", "-X", f"pycache_prefix={folder}/bytecode", "-c", _RUN]
        command = [*python, "--store", store.url]
        open_store(store).close()
        on_progress("once to cache byte code")
        for arguments in COMMANDS.values():
            _cpu_s([*command, *arguments])
        on_progress(f"{rounds} rounds")
        times = [{k: _cpu_s([*command, *v]) for k, v in COMMANDS.items()} for _ in range(rounds)]
    best = {name: round(min(each[name] for each in times), 3) for name in COMMANDS}
    return {
        "bench": "start",
        **{f"{name}_cpu_s": value for name, value in best.items()},
        "largest_cpu_s": max(best.values()),
        "goal_s": GOAL_S,
        "commit": measured_commit(),
        "device": processor(),
    }


def _cpu_s(command: list[str]) -> float:
    """User and system seconds of one command.

    Raises:
        RuntimeError: It ended by a signal or an error that is none of its own.
    """
    process = subprocess.Popen(
        command, cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in {0, 1, 2}:
        raise RuntimeError(f"{command[-1]}: exit code {process.returncode}")
    return used.ru_utime + used.ru_stime
