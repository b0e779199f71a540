"""What every bench says of itself: which commit was measured, on which processor."""

import platform
import subprocess
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
