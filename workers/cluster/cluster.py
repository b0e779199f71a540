"""Sessions, compress workers and answer workers on a Ray cluster, local or joined.

`open_cluster` gives a `Cluster`; it starts sessions and answer workers and ends what it started.
The data path never crosses this process: sessions read, workers compress, sinks store.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import ray
from ray.exceptions import RayError

from workers.answer import AnswerSettings
from workers.cluster.actors import OpenCompressor
from workers.cluster.answer import AnswerPlace, ClusterAnswer, open_answer
from workers.cluster.answer_pool import AnswerPool
from workers.cluster.check import check_on_cluster
from workers.cluster.connect import (
    ClusterSettings,
    connect,
    start_local_cluster,
    stop_local_cluster,
)
from workers.cluster.controller import start_controller
from workers.cluster.host import HostSpec, HostWork, ask_hosts, list_hosts
from workers.cluster.pool import Pool, PoolSettings, ask_workers, close_pool, open_pool
from workers.cluster.scaling import Scaling
from workers.cluster.session import (
    SessionHandle,
    SessionSpec,
    find_session,
    list_sessions,
    start_session,
    stop_sessions,
)
from workers.compress import CompressSettings, CompressWorker
from workers.live.session import LiveProgress
from workers.live.tally import PushTally
from workers.seams import SinkFactory, WorkerInfo
from workers.session import CheckSource, OpenClips, SessionSettings
from workers.types import VideoSource

__all__ = [
    "AnswerPlace",
    "Cluster",
    "ClusterSettings",
    "PoolSettings",
    "SessionHandle",
    "open_cluster",
    "start_local_cluster",
    "stop_local_cluster",
]

POOL_PREFIX = "compress-"
"""Of the names of compress workers."""
CHECK_TIMEOUT_S = 30.0
"""Longest wait for a place from which a source can be looked at."""


class Cluster:
    """A connection to Ray with what was started over it; ended by `close`."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self._own_name = uuid.uuid4().hex[:8]
        self._pools: dict[str, Pool] = {}
        self._created: list[Any] = []
        """Handles that keep workers alive."""
        self._sessions: list[SessionHandle] = []
        self._answers: list[ClusterAnswer] = []

    def open_pool(
        self,
        compress: CompressSettings,
        pool: PoolSettings,
        *,
        detached: bool = False,
        tenant: str = "",
        expected: WorkerInfo | None = None,
        open_compressor: OpenCompressor = CompressWorker,
    ) -> tuple[str, WorkerInfo]:
        """Start the compress workers of these settings, once; return the pool's name.

        A detached pool ends by itself when no session uses it; `tenant` is the session to come.

        Raises:
            ModelError: the checkpoint cannot be used, or is not the `expected` one any more.
            WorkerLost: the workers found no place, or did not start in time.
        """
        name = pool_name(compress, "shared" if detached else self._own_name)
        opened = open_pool(
            compress,
            pool,
            name=name,
            detached=detached,
            tenant=tenant or self._own_name,
            expected=expected,
            open_compressor=open_compressor,
        )
        if not detached:
            # Of openings side by side the one that made a worker may end after others, and a later
            # one may have made it anew.
            self._created += opened.created
            mine = self._pools.setdefault(name, opened).handles
            mine[: len(opened.handles)] = opened.handles
        return name, opened.info

    def check_source(self, check: CheckSource, source: VideoSource) -> Any:
        """Look at a source where its session would run: gives and raises what `check` does there.

        Returns None without having looked where the cluster has no place for it in time.
        """
        return check_on_cluster(
            check,
            source,
            cpus=self._settings.session_cpus,
            resources=self._settings.session_resources,
            timeout_s=CHECK_TIMEOUT_S,
        )

    def start_session(
        self,
        source: VideoSource,
        sink: SinkFactory,
        compress: CompressSettings,
        *,
        open_clips: OpenClips,
        settings: SessionSettings | None = None,
        pool: PoolSettings | None = None,
        detached: bool = False,
        expected: WorkerInfo | None = None,
        open_compressor: OpenCompressor = CompressWorker,
        around: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> SessionHandle:
        """Start a stream's session; a detached one goes on when this process ends.

        `around`: what the session's process does around it; crosses to it.

        Workers are started first: a session that took the last core would wait for them forever.
        `expected` is what the stream was described with; other weights are refused.
        """
        spec = SessionSpec(
            source=source,
            sink=sink,
            compress=compress,
            open_clips=open_clips,
            pool_name="",
            settings=settings or SessionSettings(),
            pool=pool or PoolSettings(),
            detached=detached,
            restarts=self._settings.session_restarts,
            open_compressor=open_compressor,
            around=around,
        )
        name, info = self.open_pool(
            compress,
            spec.pool,
            detached=detached,
            tenant=spec.name,
            expected=expected,
            open_compressor=open_compressor,
        )
        session = start_session(
            replace(spec, pool_name=name, info=info),
            cpus=self._settings.session_cpus,
            resources=self._settings.session_resources,
        )
        if not detached:
            self._sessions.append(session)
        return session

    def keep_hosts(
        self,
        work: HostWork,
        compress: CompressSettings,
        pool: PoolSettings,
        *,
        open_compressor: OpenCompressor = CompressWorker,
    ) -> None:
        """Have hosts do this work, as many as it wants, beyond this process's end.

        The workers are started first: what cannot be loaded is raised here. Hosts of an earlier
        version go on until these have taken over.
        """
        name, info = self.open_pool(compress, pool, detached=True, open_compressor=open_compressor)
        settings = self._settings
        start_controller(
            HostSpec(
                work,
                compress,
                name,
                info,
                pool,
                open_compressor,
                cpus=settings.session_cpus,
                resources=settings.session_resources,
            )
        )

    def list_hosts(self) -> list[str]:
        """Names of the hosts there are, also of those that wait for a place."""
        return list_hosts()

    def ask_hosts(self) -> list[LiveProgress]:
        """How far every stream of every host is that answers."""
        return ask_hosts()

    def ask_workers(self) -> dict[str, PushTally]:
        """What every compress worker that answers has counted, by its name."""
        return ask_workers(POOL_PREFIX)

    def count_places(self, pool: PoolSettings) -> int:
        """How many sessions find a CPU beside the workers of such a pool."""
        cpus = ray.cluster_resources().get("CPU", 0.0) - pool.workers * (pool.worker_cpus or 0.0)
        return int(cpus / self._settings.session_cpus) if self._settings.session_cpus else 1

    def find_session(self, stream_id: str) -> SessionHandle | None:
        """The running session of a stream, whoever started it."""
        return find_session(stream_id)

    def list_sessions(self) -> list[str]:
        """Stream ids of the sessions that run in this cluster."""
        return list_sessions()

    def open_answer(
        self, settings: AnswerSettings, place: AnswerPlace | None = None
    ) -> ClusterAnswer:
        """Start an answer worker; see `workers.cluster.answer.open_answer`."""
        answer = open_answer(settings, place)
        self._answers.append(answer)
        return answer

    def open_answers(
        self, settings: AnswerSettings, place: AnswerPlace, scaling: Scaling, *, together: int
    ) -> AnswerPool:
        """As many answer workers as questions take; each answers `together` at one time."""
        return AnswerPool(lambda: open_answer(settings, place), scaling, together=together)

    def close(self, *, stop_s: float = 8.0) -> None:
        """Stop the sessions this connection started and free its workers.

        Sessions that do not commit what they have in work within `stop_s` are ended by force.
        """
        stop_sessions(self._sessions, timeout_s=stop_s)
        for answer in self._answers:
            answer.close()
        for pool in self._pools.values():
            close_pool(pool.handles)


@contextmanager
def open_cluster(settings: ClusterSettings | None = None) -> Iterator[Cluster]:
    """Start a private cluster, or join the one at `settings.address`, and leave it at the end.

    Raises:
        ClusterUnreachable: nothing answers there in time, it wants another token, or it runs
            another version of Ray or Python.
    """
    settings = settings or ClusterSettings()
    connect(settings)
    cluster = Cluster(settings)
    try:
        yield cluster
    finally:
        with suppress(RayError):
            cluster.close()
        ray.shutdown()


def pool_name(compress: CompressSettings, owner: str) -> str:
    """Names the pool of these settings, so that sessions with equal ones share it."""
    digest = blake2b(repr(compress).encode(), digest_size=6).hexdigest()
    return f"{POOL_PREFIX}{owner}-{digest}"
