"""The folder of an embedded server: made private, locked, and read for what the server said.

start.lock     held by whoever starts the server
server.lock    held by the server for as long as it lives, however it ends
server.json    which program wrote the files
redis.sock, redis.pid, redis.log, appendonly...     the server's own
"""

import fcntl
import hashlib
import json
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.values.errors import StoreFull, StoreUnavailable

logger = logging.getLogger(__name__)

MAX_SOCKET_PATH = 100
"""Bytes; the kernel takes 107 on Linux and 103 on macOS."""
POLL_S = 0.02
_NOTE = "server.json"


def make_private(folder: Path) -> Path:
    """Make the folder, readable by its owner alone, and check that it is ours and stays so.

    A store that others could read is closed to them; a folder of other files is not touched.
    """
    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.getuid():
            raise StoreUnavailable(
                f"embedded store {folder}: belongs to user {status.st_uid}, expected "
                f"{os.getuid()}; choose a folder of your own"
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            _close_to_others(folder, stat.S_IMODE(status.st_mode))
    except OSError as error:
        raise unusable_error(folder, error) from error
    return folder


def _close_to_others(folder: Path, mode: int) -> None:
    if not (folder / _NOTE).exists() and any(folder.iterdir()):
        raise StoreUnavailable(
            f"embedded store {folder}: mode {mode:o} and other files in it; expected an empty "
            "folder or one of mode 700; choose another one, or chmod 700"
        )
    folder.chmod(0o700)
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    logger.warning("embedded store %s: was open to others (mode %o), is no more", folder, mode)


def socket_path(folder: Path) -> Path:
    """Where the server of `folder` listens: in it, or in /tmp where that path is too long."""
    inside = folder / "redis.sock"
    if len(os.fsencode(inside)) <= MAX_SOCKET_PATH:
        return inside
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return Path("/tmp") / f"aot-{os.getuid()}-{name}" / "redis.sock"


@contextmanager
def start_lock(folder: Path, deadline_s: float) -> Iterator[None]:
    """One starter at a time; the kernel gives the lock back when a holder dies."""
    while (lock := try_lock(folder / "start.lock")) is None:
        if time.monotonic() > deadline_s:
            raise StoreUnavailable(
                f"embedded store {folder}: another process is still starting the server; "
                f"{last_log_line(folder)}; try again"
            )
        time.sleep(POLL_S)
    try:
        yield
    finally:
        os.close(lock)


def try_lock(path: Path) -> int | None:
    """An open file that holds the lock of `path`, None when somebody else has it."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable_error(path.parent, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def is_free(folder: Path) -> bool:
    """Whether no server lives in the folder."""
    lock = try_lock(folder / "server.lock")
    if lock is not None:
        os.close(lock)
    return lock is not None


def read_note(folder: Path) -> tuple[str | None, tuple[int, ...]] | None:
    """(product, version) of the server that wrote the files; None where no note tells."""
    try:
        note = json.loads((folder / _NOTE).read_text())
        return note.get("product"), tuple(int(part) for part in note["version"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a new folder, or a note that was lost: the server judges its own files


def write_note(folder: Path, product: str, version: tuple[int, ...]) -> None:
    """Keep which program writes the files from now on."""
    path = folder / _NOTE
    try:
        path.write_text(json.dumps({"product": product, "version": version}))
        path.chmod(0o600)
    except OSError as error:
        raise unusable_error(folder, error) from error


def read_pid(folder: Path) -> int | None:
    """Of the server, once it has written it."""
    try:
        return int((folder / "redis.pid").read_text())
    except (OSError, ValueError):
        return None


def last_log_line(folder: Path) -> str:
    """What the server said last."""
    try:
        with (folder / "redis.log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        return f"no log in {folder / 'redis.log'}"
    said = next((line for line in reversed(lines) if line.strip()), "it is empty")
    return f"{folder / 'redis.log'} ends: {said.strip()[:200]}"


def unusable_error(folder: Path, error: OSError) -> StoreUnavailable | StoreFull:
    """The error of a folder that the file system refuses."""
    kind = StoreFull if "No space left" in str(error) else StoreUnavailable
    return kind(
        f"embedded store {folder}: {error.strerror or error}; choose a writable folder on a disk "
        "with free space"
    )
