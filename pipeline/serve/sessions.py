"""Streams that the service brings in, each in a process of its own: no question waits for one.

A process is told the settings and the source over a pipe, so that a password in a URL stands in no
list of processes. What it stores outlives it; of its end only what the store cannot say is kept
here. On Ray the process starts a detached session and is done.
"""

import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from pipeline.ingest.request import IngestRequest
from pipeline.serve.errors import busy_error
from pipeline.settings import Settings
from pipeline.settings.logs import setup_logging
from pipeline.values.errors import Conflict, InvalidQuery
from pipeline.values.plain import one_line
from workers.decode.policy import SourcePolicy, check_url, is_network_url
from workers.errors import SourceRefused
from workers.redact import show_url

logger = logging.getLogger(__name__)

STOP_S = 10.0
"""For a session to commit what is open."""
AGAIN_S = 2.0
APART_S = 120.0
"""For what is done in a process of its own."""
OK, ASKED_TO_END = 0, -signal.SIGTERM
"""How a process ends well; the latter before it listens."""


@dataclass(frozen=True)
class SessionEnd:
    """Why a session ended, where it ended badly."""

    code: str
    message: str


@dataclass
class _Running:
    process: Any
    heard: Any
    """The end of a pipe."""
    end: SessionEnd | None = None

    def look(self) -> None:
        """Take in what it said last; of one that was killed nothing was said."""
        exit_code = self.process.exitcode
        with suppress(EOFError, OSError):
            while self.end is None and self.heard.poll():
                self.end = self.heard.recv()
        if self.end is None and exit_code not in (None, OK, ASKED_TO_END):
            self.end = SessionEnd("SessionKilled", f"its process ended with code {exit_code}")


class Sessions:
    """The sessions of this service by stream."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: dict[str, _Running] = {}
        self._lock = threading.Lock()
        self._spawn = multiprocessing.get_context("spawn")

    def start(self, request: IngestRequest, settings: Settings | None = None) -> None:
        """Begin to bring a source in, as `settings` say where they are others.

        Raises:
            SourceError, Conflict, LeaseHeld: it cannot be, as far as shows without a model.
            TooManyRequests: as many run as may.
        """
        self._check(request)
        stream_id = request.source.stream_id
        with self._lock:
            running = self._running.get(stream_id)
            if running is not None and running.process.is_alive():
                raise Conflict(f"{stream_id} is being brought in already; pause it first")
            alive = sum(one.process.is_alive() for one in self._running.values())
            if alive >= self._settings.serve.sessions:
                raise busy_error(f"{alive} streams are being brought in (serve.sessions)")
            self._running[stream_id] = self._begin(bring_in, settings or self._settings, request)

    def stop(self, stream_id: str) -> bool:
        """End a session of this service, what is open committed; False where there is none."""
        with self._lock:
            running = self._running.get(stream_id)
        if running is None or not running.process.is_alive():
            return False
        _end([running])
        return True

    def is_running(self, stream_id: str) -> bool:
        """Whether this service brings the stream in."""
        running = self._running.get(stream_id)
        return running is not None and running.process.is_alive()

    def end_of(self, stream_id: str) -> SessionEnd | None:
        """Why the stream's last session ended badly."""
        running = self._running.get(stream_id)
        if running is None:
            return None
        running.look()
        return running.end

    def pause_detached(self, stream_id: str) -> None:
        """End a detached session in a cluster, looked for from a process of its own.

        Raises:
            Conflict: it could not be ended; says why.
        """
        running = self._begin(_pause, self._settings, stream_id)
        running.process.join(APART_S)
        is_over = not running.process.is_alive()
        running.look()
        if running.end is not None:
            raise Conflict(f"{running.end.code}: {running.end.message}")
        if not is_over:
            _end([running])
            raise Conflict(
                f"{stream_id} was not ended within {APART_S:.0f} s; see whether its cluster "
                "answers, then pause it again"
            )

    def close(self) -> None:
        """End all of them, side by side."""
        _end([one for one in self._running.values() if one.process.is_alive()])

    def _check(self, request: IngestRequest) -> None:
        """Refuse what the settings do not let in: files, unless their folders are named."""
        source = request.source
        if is_network_url(source.url):
            live = self._settings.live
            policy = SourcePolicy(live.networks, devices=live.devices)
            check_url(source.url, policy, shown=show_url(source.url))
            return
        if not self._settings.ingest.roots:
            raise SourceRefused(
                "files are not read for callers of the service unless ingest.roots names their "
                "folders; name them, or give a network source"
            )
        from pipeline.ingest.job import IngestJob

        IngestJob.of(self._settings).admit(request)

    def _begin(self, work: Callable[..., None], *arguments: Any) -> _Running:
        heard, told = self._spawn.Pipe(duplex=False)
        process = self._spawn.Process(target=_run, args=(told, work, *arguments))
        process.start()
        told.close()
        return _Running(process, heard)


def _end(running: Sequence[_Running]) -> None:
    """Ask to end, more than once: what interrupts a finaliser is lost; then end by force."""
    until_s = time.monotonic() + STOP_S
    while time.monotonic() < until_s and any(one.process.is_alive() for one in running):
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.join(AGAIN_S)
    for one in running:
        one.process.kill()
        one.process.join(AGAIN_S)


def _run(told: Connection, work: Callable[..., None], settings: Settings, *arguments: Any) -> None:
    """In the process: do the work; a stop ends it as it ends a command, an error is told."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service's own to pass on
    setup_logging(settings.log.level, settings.log.format)
    try:
        work(settings, *arguments)
    except KeyboardInterrupt:
        return
    except Exception as error:
        logger.debug("a session ended badly", exc_info=error)
        told.send(SessionEnd(getattr(error, "code", type(error).__name__), one_line(error)))


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def bring_in(settings: Settings, request: IngestRequest) -> None:
    """Bring a source in until it ends or this process is asked to."""
    from pipeline.ingest.live import LiveEnd, ingest_live
    from pipeline.ingest.on_ray import detach
    from pipeline.ingest.run import ingest

    if is_network_url(request.source.url):
        for news in ingest_live(settings, [request], stop=threading.Event()):
            if isinstance(news, LiveEnd) and news.error is not None:
                raise news.error
    elif settings.ray.enabled:
        detach(settings, [request])
    else:
        for _ in ingest(settings, [request]):
            pass


def _pause(settings: Settings, stream_id: str) -> None:
    from pipeline.api.sessions import pause

    if pause(settings, stream_id) is None:
        raise InvalidQuery(f"nobody brings {stream_id} in")
