"""A stream session as an actor: it reads, compresses and commits without the driver.

The session starts in the actor's constructor, because that is what Ray runs again when the actor
dies: the new one asks the sink where the stream stands. How often that may happen is bounded per
time, so that a stream of months outlives its machines and a file that crashes the decoder does not
do so for ever; the last death is recorded as the stream's error. A detached session outlives the
command that started it and leaves by itself at its end.
"""

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray import cloudpickle
from ray.actor import exit_actor
from ray.exceptions import (
    ActorAlreadyExistsError,
    ActorUnavailableError,
    GetTimeoutError,
    RayActorError,
)
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.util import list_named_actors

from workers.cluster.actors import OpenCompressor, create_actor
from workers.cluster.feed import ClusterWorkers
from workers.cluster.pool import Pool, PoolSettings, leave_pool, open_pool
from workers.compress import CompressSettings, CompressWorker
from workers.errors import SessionCrashed, WorkerError, WorkerLost, one_line
from workers.seams import SessionReport, SinkFactory, WorkerInfo
from workers.session import OpenClips, Progress, SessionSettings, run_session
from workers.types import VideoSource

logger = logging.getLogger(__name__)

SESSION_PREFIX = "session-"
"""Of the actor's name; the stream id follows."""

STATUS_TIMEOUT_S = 10.0

RESTART_WINDOW_S = 24 * 3600.0
"""Over which the restarts of a session are counted."""

LINGER_S = 3.0
"""How long a detached session that is done still tells its watchers so."""


@dataclass(frozen=True)
class SessionSpec:
    """All that a session needs to start, and to start again; picklable."""

    source: VideoSource
    sink: SinkFactory
    compress: CompressSettings
    open_clips: OpenClips
    pool_name: str
    info: WorkerInfo | None = None
    """What the workers had loaded when the stream was described: no others may go on with it."""
    settings: SessionSettings = field(default_factory=SessionSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)
    detached: bool = False
    restarts: int = 10
    """How often a day the session is started again when it dies."""
    open_compressor: OpenCompressor = CompressWorker
    """What the workers of its pool hold."""
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    """What the session's process does around it: it keeps its log, say."""

    @property
    def name(self) -> str:
        """Of its actor, and of the tenant of a pool."""
        return SESSION_PREFIX + self.source.stream_id


class SessionActor:
    """Runs one session in a thread, so that status and stop are answered meanwhile."""

    def __init__(self, spec: SessionSpec) -> None:
        self._spec = spec
        self._progress = Progress(spec.source.stream_id)
        self._stop = threading.Event()
        self._self = ray.get_runtime_context().current_actor
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler would end the process in the middle of a clip.
            signal.signal(signal.SIGTERM, lambda signum, frame: self._stop.set())
        threading.Thread(target=self._run, name="session", daemon=True).start()

    def status(self) -> Progress:
        """Where the session stands."""
        return self._progress

    def stop(self) -> None:
        """Ask the session to end; `status` tells when it has."""
        self._stop.set()

    def leave(self) -> None:
        """End this process for good: Ray does not start it again."""
        exit_actor()

    def _run(self) -> None:
        with self._spec.around():
            self._run_to_its_end()
        if self._spec.detached:
            time.sleep(LINGER_S)
            self._self.leave.remote()

    def _run_to_its_end(self) -> None:
        try:
            last = self._progress
            for last in self._session():
                if not last.done:
                    self._progress = last
            # Told only now that the sink is closed: who sees the end may end this process.
            self._progress = last
        except Exception as error:
            logger.error("stream %s failed: %s", self._spec.source.stream_id, error)
            self._progress = replace(self._progress, state="failed", error=_picklable(error))

    def _session(self) -> Iterator[Progress]:
        spec = self._spec
        _check_restarts(spec)
        pool = open_pool(
            spec.compress,
            spec.pool,
            name=spec.pool_name,
            detached=spec.detached,
            tenant=spec.name,
            expected=spec.info,
            stop=self._stop,
            open_compressor=spec.open_compressor,
        )
        try:
            yield from self._run_on(pool)
        finally:
            if spec.detached:
                leave_pool(pool, spec.name)

    def _run_on(self, pool: Pool) -> Iterator[Progress]:
        spec = self._spec
        first = sum(spec.source.stream_id.encode()) % len(pool.handles)
        workers = ClusterWorkers(pool, spec.pool, tenant=spec.name, first=first)
        try:
            sink = spec.sink.open()
            try:
                yield from run_session(
                    spec.source,
                    spec.settings,
                    workers,
                    sink,
                    open_clips=spec.open_clips,
                    stop=self._stop,
                )
            finally:
                sink.close()
        finally:
            workers.close()


class SessionHandle:
    """A running session as its starter, or anybody who knows its name, sees it."""

    def __init__(self, actor: Any, stream_id: str) -> None:
        self._actor = actor
        self.stream_id = stream_id

    def status(self, *, timeout_s: float = STATUS_TIMEOUT_S) -> Progress:
        """The session's progress; `starting` while it waits for a place or for a restart.

        Raises:
            WorkerLost: the session is gone and will not be started again.
        """
        try:
            return ray.get(self._actor.status.remote(), timeout=timeout_s)
        except (ActorUnavailableError, GetTimeoutError):
            return Progress(self.stream_id)
        except RayActorError as error:
            raise WorkerLost(
                f"the session of stream {self.stream_id} is gone: {one_line(error)}; "
                "what it stored is kept, start it again to go on"
            ) from None

    def watch(
        self, *, interval_s: float = 0.5, start_timeout_s: float = 600.0
    ) -> Iterator[Progress]:
        """Yield the progress until the session is done.

        Raises:
            WorkerLost: it found no place, or did not come back, within `start_timeout_s`.
            The session's own error, as it was raised there.
        """
        seen_s = time.monotonic()
        while True:
            progress = self.status(timeout_s=min(STATUS_TIMEOUT_S, start_timeout_s))
            if progress.error is not None:
                raise progress.error
            if progress.state != "starting":
                seen_s = time.monotonic()
            elif time.monotonic() - seen_s > start_timeout_s:
                raise WorkerLost(
                    f"the session of stream {self.stream_id} did not start in "
                    f"{start_timeout_s:g} s; it waits for a CPU: stop other sessions or add nodes"
                )
            yield progress
            if progress.done:
                return
            time.sleep(interval_s)

    def ask_to_stop(self) -> None:
        """Let the session end after what it has in work; returns at once."""
        self._actor.stop.remote()

    def stop(self, *, timeout_s: float = 10.0) -> Progress:
        """Let the session commit what is in work and end; past the limit it is ended by force.

        Returns its last progress; `stopped` when it could not tell.
        """
        until_s = time.monotonic() + timeout_s
        self.ask_to_stop()
        progress = Progress(self.stream_id)
        try:
            while not progress.done and (left_s := until_s - time.monotonic()) > 0:
                progress = self.status(timeout_s=max(0.1, left_s))
                time.sleep(0 if progress.done else 0.1)
        except WorkerLost:
            logger.info("the session of stream %s is gone already", self.stream_id)
        self.kill()
        return progress if progress.done else replace(progress, state="stopped")

    def kill(self) -> None:
        """End the session as a crash would; nothing that was committed is lost."""
        ray.kill(self._actor)


def stop_sessions(sessions: Sequence[SessionHandle], *, timeout_s: float) -> None:
    """Stop sessions together, all within one limit."""
    until_s = time.monotonic() + timeout_s
    for session in sessions:
        session.ask_to_stop()
    for session in sessions:
        session.stop(timeout_s=max(0.1, until_s - time.monotonic()))


def start_session(spec: SessionSpec, *, cpus: float, resources: dict[str, float]) -> SessionHandle:
    """Start a session under its stream's name."""
    try:
        actor = create_actor(
            SessionActor,
            spec,
            name=spec.name,
            lifetime="detached" if spec.detached else None,
            num_cpus=cpus,
            resources=resources,
            max_restarts=-1,  # the session itself counts, per time
            max_concurrency=4,
        )
    except ActorAlreadyExistsError:
        raise WorkerError(
            f"stream {spec.source.stream_id} has a running session in this cluster; wait for its "
            "end or stop it first"
        ) from None
    return SessionHandle(actor, spec.source.stream_id)


def find_session(stream_id: str) -> SessionHandle | None:
    """The running session of a stream, whoever started it."""
    try:
        return SessionHandle(ray.get_actor(SESSION_PREFIX + stream_id), stream_id)
    except ValueError:
        return None


def list_sessions() -> list[str]:
    """Stream ids of all sessions in this cluster."""
    return sorted(
        name.removeprefix(SESSION_PREFIX)
        for name in list_named_actors()
        if name.startswith(SESSION_PREFIX)
    )


def _check_restarts(spec: SessionSpec) -> None:
    """Count this start, and refuse it when there were too many within the window.

    The count lies with the cluster, which outlives the session. The stream's record is told: a
    detached session has nobody who watches it.

    Raises:
        SessionCrashed: it died more than `spec.restarts` times within the window.
    """
    key, now_s = f"aot-starts-{spec.name}", time.time()
    found = json.loads(_internal_kv_get(key) or "[]")
    recent = [start_s for start_s in found if now_s - start_s < RESTART_WINDOW_S]
    restarted = ray.get_runtime_context().was_current_actor_reconstructed
    recent = [*recent, now_s] if restarted else []
    _internal_kv_put(key, json.dumps(recent))
    if len(recent) <= spec.restarts:
        return
    _internal_kv_del(key)
    error = SessionCrashed(
        f"the session of stream {spec.source.stream_id} died {len(recent)} times within "
        f"{RESTART_WINDOW_S / 3600:.0f} h, expected at most {spec.restarts}; what it stored is "
        "kept; look at its source, or at the memory of its machine, and start it again"
    )
    sink = spec.sink.open()
    try:
        sink.finish(SessionReport("failed", error_code=error.code, error=str(error)))
    finally:
        sink.close()
    raise error


def _picklable(error: Exception) -> Exception:
    """The error itself where it survives the way to the driver, else its text."""
    try:
        pickled = cloudpickle.dumps(error)  # pyright: ignore[reportPrivateImportUsage]
        return cloudpickle.loads(pickled)
    except Exception:
        return WorkerError(f"{type(error).__name__}: {error}")
