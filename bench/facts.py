"""What every bench says of itself: which commit was measured, on which processor; its memory."""

import platform
import subprocess
from collections.abc import Callable
from pathlib import Path


def measured_commit() -> str:
    """The commit of the source tree, `-dirty` when files differ from it; `unknown` outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"  # an installed package has no history
    return done.stdout.strip()


def processor() -> str:
    """Model name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def rise_mb(function: Callable[[], object]) -> float | None:
    """Most memory that a call takes beside what the process had, in 10^6 bytes.

    To be asked in a fresh process: the high-water mark of resident memory is reset before, so that
    what the allocator and the matrix library keep is counted, and what an earlier call left warm
    would hide it. None where the system keeps no such mark.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    reset.write_text("5")
    before = _status_kib(status, "VmRSS")
    function()
    return round((_status_kib(status, "VmHWM") - before) * 1024 / 1e6, 1)


def _status_kib(status: Path, name: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
