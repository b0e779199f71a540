"""One connection to a source, decoded in a process of its own: killed from here, never waited for.

A crash, a leak or a hang inside FFmpeg takes that process and nothing else. The watchdog looks at
pictures decoded, not at a socket that lives: a source that sends bytes and no pictures is stalled.
"""

import logging
import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from workers import errors
from workers.decode.live import Pace, Picture
from workers.errors import SourceCrashed, SourceError, SourceRefused, SourceStalled
from workers.live.child import Request
from workers.live.forks import Forks
from workers.live.slots import PictureSlots
from workers.live.wire import Beat, Ended, Message, MessageReader, Opened, Started, WireError
from workers.types import StopSignal

logger = logging.getLogger(__name__)

CPU_BETWEEN_MESSAGES_S = 60
"""CPU seconds a decoder may use without saying anything."""
ALLOW_CPU_S = 1.0
"""How often that is told to the kernel."""
READ_BYTES = 1 << 16
"""Of messages at once; the longest is a quarter of it."""
START_S = 60.0
"""For the process to run at all: a machine that is busy is no source that stalls."""
EXIT_WAIT_S = 5.0
"""How long a process that closed its pipe may take to be gone."""
KILL_WAIT_S = 5.0
STOP_LOOK_S = 1.0
"""How often a wait for a message looks whether it was asked to stop."""
STDERR_BYTES = 2000
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}
"""What a process dies of that wrote where it should not."""


class DecoderProcess:
    """A context manager; iterating gives a source's pictures until it ends.

    Raises, while iterating:
        SourceStalled: no picture was decoded for `stall_s`.
        SourceCrashed: the process died, or said what it must not.
        SourceError: what the process could say itself: refused, unreachable, no video in it.
    The iterator just ends where the source closed the connection, and soon after `stop` is set.
    """

    def __init__(
        self,
        request: Request,
        *,
        stall_s: float = 20.0,
        stop: StopSignal | None = None,
        forks: Forks | None = None,
    ) -> None:
        """`forks`: from where the process comes; None has one of its own for it."""
        self._request, self._stall_s, self.stop = request, stall_s, stop
        self._forks, self._is_alone = forks or Forks(), forks is None
        self._decoded, self._allowed_s = -1, 0.0
        self.opened: Opened | None = None
        self.beat: Beat | None = None
        """What the decoder has counted so far."""
        self.memory_bytes = 0
        """The most that was resident of it, as it says."""
        self._is_closed = False

    def __enter__(self) -> "DecoderProcess":
        _require_linux()
        self._slots = PictureSlots.create()
        try:
            self._start()
        except BaseException:
            self._slots.close()
            self._let_go()
            raise
        self._messages, self._poll = MessageReader(self._slots), select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        try:
            self._stdin.write(self._request.to_json() + b"\n")
        except BrokenPipeError:
            logger.debug("a decoder died before it was asked")
        return self

    def _start(self) -> None:
        pipes = [os.pipe() for _ in range(3)]
        (stdin, self_in), (self_out, stdout), (self_err, stderr) = pipes
        try:
            self._process = self._forks.start((stdin, stdout, stderr, *self._slots.fds))
        except BaseException:
            for fd in (self_in, self_out, self_err):
                os.close(fd)
            raise
        finally:
            for fd in (stdin, stdout, stderr):
                os.close(fd)
        self._stdin, self._stdout = os.fdopen(self_in, "wb", buffering=0), self_out
        self._stderr = _Tail(os.fdopen(self_err, "rb"))

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Id of the process.

        Raises:
            SourceCrashed: there is none.
        """
        pid = self._process.get_pid(START_S)
        if pid is None:
            raise self._crashed(None)
        return pid

    @property
    def shed(self) -> int:
        """Pictures that were dropped because they were not taken in time."""
        return 0 if self.beat is None else self.beat.shed

    def set_pace(self, pace: Pace) -> None:
        """How much of what comes is decoded from now on."""
        try:
            self._stdin.write(pace.encode() + b"\n")
        except OSError:
            logger.debug("a decoder is gone")  # which shows at the next picture

    def kill(self) -> None:
        """End the process at once; what it holds is not worth a wait."""
        if self._is_closed:
            return
        self._is_closed = True
        self._end()
        self._slots.close()
        self._stdin.close()
        os.close(self._stdout)
        self._let_go()

    def _let_go(self) -> None:
        """Of the process it came from, where no other comes from it."""
        if self._is_alone:
            self._forks.renew()

    def _end(self) -> None:
        if not self._process.kill(KILL_WAIT_S):
            logger.warning("%s: its decoder has not ended yet", self._request.shown)

    def __iter__(self) -> Iterator[Picture]:
        until_s = time.monotonic() + START_S
        while True:
            message = self._next(until_s)
            if message is None:
                return
            if isinstance(message, Ended):
                self.memory_bytes = max(self.memory_bytes, message.memory_bytes)
                if message.code is None:
                    return
                raise _typed(message)
            if isinstance(message, Started):
                # It ends by itself when opening takes too long, and says why.
                until_s = time.monotonic() + self._request.open_timeout_s + self._stall_s
            elif isinstance(message, Opened):
                self.opened, until_s = message, time.monotonic() + self._stall_s
            elif isinstance(message, Picture):
                until_s = time.monotonic() + self._stall_s
                yield message
            else:
                self.beat = message
                self.memory_bytes = max(self.memory_bytes, message.memory_bytes)
                if message.decoded > self._decoded:
                    self._decoded = message.decoded
                    until_s = time.monotonic() + self._stall_s

    def _next(self, until_s: float) -> Message | None:
        """The next message; None once `stop` is set."""
        is_late = False
        try:
            while (message := self._messages.take()) is None:
                if self.stop is not None and self.stop.is_set():
                    return None
                if is_late:
                    raise SourceStalled(
                        f"{self._request.shown}: no picture for {self._stall_s:.0f} s; it is "
                        "opened again"
                    )
                left_s = max(0.0, until_s - time.monotonic())
                if self._poll.poll(1000 * min(left_s, STOP_LOOK_S)):
                    self._read()  # all that is there: after the time is up it must be a message
                    is_late = not left_s
                else:
                    is_late = left_s <= STOP_LOOK_S
        except WireError as error:
            raise self._crashed(error) from None
        self._allow_cpu()
        return message

    def _read(self) -> None:
        """Take what is there: a part of a message, or several."""
        data = os.read(self._stdout, READ_BYTES)
        if not data:
            raise self._crashed(None)
        self._messages.feed(data)

    def _allow_cpu(self) -> None:
        """It said something: it may use so many CPU seconds more. Asked of the kernel once a
        second, however many pictures come."""
        now_s = time.monotonic()
        if now_s - self._allowed_s >= ALLOW_CPU_S:
            self._allowed_s = now_s
            pid = self._process.get_pid()
            if pid is not None and self._process.is_running:
                _allow_cpu(pid)

    def _crashed(self, wire: WireError | None) -> SourceCrashed:
        if not self._process.wait(EXIT_WAIT_S):
            self._end()
        code = self._process.returncode
        if code is not None and -code in _FAULTS:
            self._forks.renew()
        how = str(wire) if wire else self._explain(code)
        said = self._stderr.last_line()
        return SourceCrashed(
            f"{self._request.shown}: its decoder died ({how}{': ' if said else ''}{said}); "
            "it is started again"
        )

    def _explain(self, code: int | None) -> str:
        if self._process.get_pid() is None:
            return "no process could be had for it"
        if code is None:
            return "with the process that it was forked from"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


class _Tail:
    """Keeps the end of what a process writes, so that it never waits to be read."""

    def __init__(self, pipe: Any) -> None:
        self._text = b""
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def last_line(self) -> str:
        self._thread.join(timeout=1.0)
        lines = self._text.decode("utf-8", "replace").split("\n")
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")

    def _read(self, pipe: Any) -> None:
        with pipe:
            while part := pipe.read1(STDERR_BYTES):
                self._text = (self._text + part)[-STDERR_BYTES:]


def _require_linux() -> None:
    if sys.platform != "linux":
        raise SourceRefused(
            f"sources that do not end are decoded within limits that Linux alone has, got "
            f"{sys.platform}; bring them in there. Files and questions need none of it"
        )


def _allow_cpu(pid: int) -> None:
    """It may use so many CPU seconds more before it says something again."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            ticks = file.read().rpartition(")")[2].split()[11:13]
        used_s = sum(map(int, ticks)) // os.sysconf("SC_CLK_TCK")
        limit_s = used_s + CPU_BETWEEN_MESSAGES_S
        resource.prlimit(pid, resource.RLIMIT_CPU, (limit_s, resource.RLIM_INFINITY))
    except (OSError, PermissionError, ProcessLookupError):
        logger.debug("decoder %d is gone", pid)


def _typed(ended: Ended) -> SourceError:
    """The error the process named, of the classes that there are."""
    kind = getattr(errors, ended.code or "", None)
    if isinstance(kind, type) and issubclass(kind, SourceError):
        return kind(ended.text)
    return SourceCrashed(f"{ended.code}: {ended.text}")
