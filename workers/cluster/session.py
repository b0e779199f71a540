"""A stream session as an actor: it reads, compresses and commits without the driver.

The session starts in the actor's constructor, because that is what Ray runs again when the actor
dies: the new one asks the sink where the stream stands. A detached session outlives the command
that started it and leaves by itself at its end; the last one to leave ends its worker pool.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
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
from ray.util import list_named_actors

from workers.cluster.pool import (
    ClusterWorkers,
    PoolSettings,
    close_pool,
    create_actor,
    open_pool,
)
from workers.compress import CompressSettings
from workers.errors import WorkerError, WorkerLost, one_line
from workers.seams import SinkFactory
from workers.session import OpenClips, Progress, SessionSettings, run_session
from workers.types import VideoSource

logger = logging.getLogger(__name__)

SESSION_PREFIX = "session-"
"""Of the actor's name; the stream id follows."""

STATUS_TIMEOUT_S = 10.0

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
    settings: SessionSettings = field(default_factory=SessionSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)
    detached: bool = False


class SessionActor:
    """Runs one session in a thread, so that status and stop are answered meanwhile."""

    def __init__(self, spec: SessionSpec) -> None:
        self._spec = spec
        self._progress = Progress(spec.source.stream_id)
        self._stop = threading.Event()
        self._self = ray.get_runtime_context().current_actor
        self._handles: list[Any] = []
        threading.Thread(target=self._run, name="session", daemon=True).start()

    def status(self) -> Progress:
        return self._progress

    def stop(self) -> None:
        """Ask the session to end; `status` tells when it has."""
        self._stop.set()

    def leave(self) -> None:
        """End this process for good: Ray does not start it again."""
        exit_actor()

    def _run(self) -> None:
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
        if self._spec.detached:
            time.sleep(LINGER_S)
            _close_pool_if_last(self._spec, self._handles)
            self._self.leave.remote()

    def _session(self) -> Iterator[Progress]:
        spec = self._spec
        self._handles, info = open_pool(
            spec.compress, spec.pool, name=spec.pool_name, detached=spec.detached
        )
        first = sum(spec.source.stream_id.encode()) % len(self._handles)
        workers = ClusterWorkers(self._handles, info, spec.pool, first=first)
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
            workers.close()
            sink.close()


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


def start_session(
    spec: SessionSpec, *, cpus: float, resources: dict[str, float], max_restarts: int
) -> SessionHandle:
    """Start a session under its stream's name."""
    try:
        actor = create_actor(
            SessionActor,
            spec,
            name=SESSION_PREFIX + spec.source.stream_id,
            lifetime="detached" if spec.detached else None,
            num_cpus=cpus,
            resources=resources,
            max_restarts=max_restarts,
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


def _close_pool_if_last(spec: SessionSpec, handles: list[Any]) -> None:
    others = set(list_sessions()) - {spec.source.stream_id}
    if handles and not others:
        close_pool(handles)


def _picklable(error: Exception) -> Exception:
    """The error itself where it survives the way to the driver, else its text."""
    try:
        pickled = cloudpickle.dumps(error)  # pyright: ignore[reportPrivateImportUsage]
        return cloudpickle.loads(pickled)
    except Exception:
        return WorkerError(f"{type(error).__name__}: {error}")
