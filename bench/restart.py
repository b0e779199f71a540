"""What a live ingest costs from its start to its first durable clip: `python -m bench.restart`.

`aot ingest` of a camera in a process of its own, killed (SIGKILL) and started again at once, again
and again. Of each start: seconds until a reader sees the first tokens of new pictures, and until
the first clip of new pictures is durable (what was open at the kill is one before that, and does
not count), and the CPU seconds of the process and its decoder till then. The camera has a keyframe
a second. Byte code is cached, as after a first use, whatever the environment says of it.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.facts import measured_commit, processor
from bench.folders import own_folder, store_url
from bench.live import BUNDLED, CAMERA_FPS, cpu_s, descendants, make_recording
from bench.rtsp_server import serve_apart
from pipeline.store import ClipStore, StoreConfig, open_store

ROOT = Path(__file__).parents[1]
STREAM = "cam"
KILLS = 10
LIMIT_S = 120.0
CONFIG = """
model: {{id: {model}}}
store: {{url: '{store}', appendfsync: always}}
ingest: {{fps: {fps}, clip_frames: {clip_frames}, lease_s: 3}}
live: {{networks: [127.0.0.0/8]}}
ray: {{enabled: false}}
"""


@dataclass(frozen=True)
class Start:
    """One start, in seconds from the moment the process was asked for."""

    tokens_s: float
    """Until tokens of new pictures could be read."""
    clip_s: float
    """Until a clip of them was durable."""
    cpu_s: float
    """Of the process and its decoder, until the tokens could be read."""


def run(
    *,
    kills: int = KILLS,
    fps: float = 1.0,
    clip_frames: int = 8,
    root: Path = ROOT,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, object]:
    """`kills` starts of the sources in `root`; medians and 95th percentiles."""
    starts = []
    for one in iter_starts(kills, fps, clip_frames, root):
        on_progress(f"tokens {one.tokens_s:.2f} s, clip {one.clip_s:.2f} s, CPU {one.cpu_s:.2f} s")
        starts.append(one)
    figures: dict[str, object] = {
        "bench": "restart",
        "commit": measured_commit(),
        "device": processor(),
    }
    for name in ("tokens_s", "clip_s", "cpu_s"):
        values = sorted(getattr(one, name) for one in starts)
        figures[f"{name[:-2]}_p50_s"] = round(statistics.median(values), 2)
        figures[f"{name[:-2]}_p95_s"] = round(values[min(len(values) - 1, int(0.95 * kills))], 2)
    return figures | {"kills": kills, "fps": fps, "clip_frames": clip_frames}


def iter_starts(kills: int, fps: float, clip_frames: int, root: Path) -> Iterator[Start]:
    """Start, see it run, kill it, and measure each of the starts that follow."""
    with serve_apart(make_recording(CAMERA_FPS)) as (url, _), own_folder() as folder:
        config = folder / "aot.yaml"
        text = CONFIG.format(
            model=BUNDLED, store=store_url(folder), fps=fps, clip_frames=clip_frames
        )
        config.write_text(text)
        options = ["-E", "-X", f"pycache_prefix={folder}/bytecode", "-m", "pipeline"]
        command = [sys.executable, *options, "--config", str(config), "ingest", url]
        with open_store(StoreConfig(store_url(folder), appendfsync="always")) as store:
            for number in range(kills + 2):  # one that compiles, one that finds what that left
                with _started([*command, "--stream", STREAM], root) as process:
                    start = _measure(store, process.pid, before=_newest(store))
                if number >= 2:
                    yield start


@contextmanager
def _started(command: list[str], root: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(
        command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            os.kill(process.pid, signal.SIGKILL)


def _measure(store: ClipStore, pid: int, *, before: int) -> Start:
    """Watch a process that has just been started; `before`: the newest clip, closed or open."""
    began_s, tokens_s, used_s = time.monotonic(), 0.0, 0.0
    while (now_s := time.monotonic() - began_s) < LIMIT_S:
        if not tokens_s and _newest(store) > before:
            tokens_s, used_s = now_s, sum(map(cpu_s, descendants(pid)))
        if tokens_s and _durable(store) > before:
            return Start(tokens_s, now_s, used_s)
        time.sleep(0.02)
    raise RuntimeError(f"no clip within {LIMIT_S:g} s")


def _durable(store: ClipStore) -> int:
    """Index of the last clip; -1 before there is one."""
    position = store.get_position(STREAM) if STREAM in store.list_streams() else None
    return -1 if position is None else position.index


def _newest(store: ClipStore) -> int:
    """As `_durable`, of the open clip too."""
    if STREAM not in store.list_streams():
        return -1
    left = store.get_open(STREAM)
    return max(_durable(store), -1 if left is None else left.index)


if __name__ == "__main__":
    print(json.dumps(run(on_progress=lambda line: print(line, flush=True))))
