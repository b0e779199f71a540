"""Decoders of one process, all forked from one that has loaded what they need.

That one is started with the first of them, and again where it is gone. Where a decoder died of what
it read, later ones come from a new one: their addresses in memory are others then.
"""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from workers.live.fork_server import REQUEST, STATUS

logger = logging.getLogger(__name__)

ASK_S = 60.0
"""For the process that forks to take a request: it loads what decoders need first."""
LOOK_S = 1.0
"""How often a wait looks whether another thread heard what it waits for."""


class Fork:
    """One decoder's process, as its supervisor knows it; for any number of threads."""

    def __init__(self, told: socket.socket) -> None:
        told.setblocking(False)
        self._told, self._lock = told, threading.Lock()
        self._pid: int | None = None
        self._process: int | None = None
        """A descriptor of it: its id may be somebody else's once it has ended."""
        self.returncode: int | None = None
        self.has_ended = False

    def get_pid(self, limit_s: float = 0.0) -> int | None:
        """Its id; None where it did not begin within so long, or never does."""
        self._hear(limit_s, lambda: self._pid is not None)
        return self._pid

    @property
    def is_running(self) -> bool:
        """Whether its id is its own: one that has ended, told of or not, may have passed it on."""
        with self._lock:
            if self._process is None:
                return False
            poll = select.poll()
            poll.register(self._process, select.POLLIN)
            return not poll.poll(0)

    def wait(self, limit_s: float) -> bool:
        """Whether it ended within so long; `returncode` tells how, None where nobody knows."""
        self._hear(limit_s, lambda: False)
        return self.has_ended

    def kill(self, limit_s: float) -> bool:
        """End it at once, and let go of it; whether it ended within so long."""
        if self.get_pid(limit_s) is not None:
            with self._lock:
                if self._process is not None:
                    # One that has ended is told of in a moment.
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(self._process, signal.SIGKILL)
        is_gone = self.wait(limit_s)
        with self._lock:
            self._told.close()
            self._end()
        return is_gone

    def _hear(self, limit_s: float, is_enough: Callable[[], bool]) -> None:
        """What is told, until it has ended, or that is enough."""
        until_s = time.monotonic() + limit_s
        while not self.has_ended and not is_enough():
            with self._lock:
                if self.has_ended or self._take():
                    continue
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            poll = select.poll()
            poll.register(self._told, select.POLLIN)
            poll.poll(1000 * min(left_s, LOOK_S))

    def _take(self) -> bool:
        """Whether there was something to hear, of which note is taken."""
        try:
            data, fds, _, _ = socket.recv_fds(self._told, STATUS.size, 1)
        except BlockingIOError:
            return False
        if fds:
            [self._pid], [self._process] = STATUS.unpack(data), fds
        else:
            self.returncode = STATUS.unpack(data)[0] if data else None
            self._end()
        return True

    def _end(self) -> None:
        self.has_ended = True
        if self._process is not None:
            os.close(self._process)
            self._process = None


class Forks:
    """Starts decoders; for any number of threads. A context manager, and usable without."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: socket.socket | None = None

    def start(self, fds: tuple[int, ...]) -> Fork:
        """A decoder with these: stdin, stdout and stderr, memory and free slots. Begins soon.

        Raises:
            OSError: no process can be had.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._ask([*fds, theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return Fork(ours)

    def _ask(self, fds: list[int]) -> None:
        with self._lock:
            for is_last in (False, True):
                requests = self._requests or _start_server()
                self._requests = requests
                try:
                    socket.send_fds(requests, [REQUEST], fds)
                    return
                except OSError as error:
                    self._let_go()
                    if is_last:
                        raise
                    logger.warning("decoders are forked from a new process: %s", error)

    def renew(self) -> None:
        """Have later decoders come from another process; those that are there go on."""
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        """The process ends once its decoders have."""
        if self._requests is not None:
            self._requests.close()
            self._requests = None

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.renew()


def _start_server() -> socket.socket:
    """The process dies with the thread that starts it, which therefore does nothing else."""
    ours, theirs = socket.socketpair()
    ours.settimeout(ASK_S)
    begun: Future[None] = Future()
    thread = threading.Thread(target=_own_server, args=(theirs, begun), name="forks", daemon=True)
    thread.start()
    try:
        begun.result(ASK_S)
    except BaseException:
        ours.close()
        raise
    return ours


def _own_server(theirs: socket.socket, begun: "Future[None]") -> None:
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.live.fork_server", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
                pass_fds=[theirs.fileno()],
            )
    except BaseException as error:
        begun.set_exception(error)
        return
    begun.set_result(None)
    code = process.wait()
    if code:
        logger.warning("the process that decoders are forked from ended with %d", code)


def _environment() -> dict[str, str]:
    """What a decoder needs to start, and no secret of its parent's."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return {"PYTHONPATH": paths, "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}
