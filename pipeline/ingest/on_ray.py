"""Sessions on a Ray cluster: watched to their end, or left to themselves.

A private cluster is started where no address is given. Sessions read, compress and store by
themselves; this process only looks at how far they are.
"""

import logging
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.ingest.job import IngestJob
from pipeline.ingest.live import are_live
from pipeline.ingest.request import IngestRequest
from pipeline.ingest.share import share
from pipeline.settings import Settings
from pipeline.settings.stream_logs import keep_logs
from pipeline.values.errors import InvalidQuery
from workers.cluster.cluster import (
    Cluster,
    open_cluster,
    start_local_cluster,
    stop_local_cluster,
)
from workers.cluster.session import SessionHandle
from workers.session import Progress

if TYPE_CHECKING:
    from pipeline.ingest.metrics import Metrics

logger = logging.getLogger(__name__)


class RayRunner:
    """Sessions on a cluster, as many at one time as it has places for."""

    def __init__(self, job: IngestJob, cluster: Cluster) -> None:
        self._job, self.cluster = job, cluster

    def side_by_side(self, num_videos: int) -> int:
        """As many as have a place beside the workers, and at least one."""
        return max(1, min(num_videos, self.cluster.count_places(self._job.pool)))

    def run(self, request: IngestRequest) -> Generator[Progress]:
        """Watch a session to its end and give its place in the cluster to the next one.

        It is asked to stop, not cut off, when the watcher leaves.
        """
        session = self.start(request)
        try:
            yield from session.watch()
        except (KeyboardInterrupt, GeneratorExit):
            session.stop()
            raise
        finally:
            session.kill()

    def start(self, request: IngestRequest, *, detached: bool = False) -> SessionHandle:
        """Start a session; a detached one goes on when this process ends."""
        job = self._job
        _, info = self.cluster.open_pool(job.compress, job.pool, detached=detached)
        sink = job.sink(request, info)
        if detached:  # nobody watches a detached session: what stops it at once is raised here
            sink.open().close()
        return self.cluster.start_session(
            request.source,
            sink,
            job.compress,
            open_clips=job.open_clips,
            pool=job.pool,
            detached=detached,
            expected=info,
            around=self._around(request.source.stream_id) if detached else nullcontext,
        )

    def _around(self, stream_id: str) -> partial[AbstractContextManager[None]]:
        """What a session that nobody watches says goes into its stream's log."""
        return partial(keep_logs, self._job.settings.stream_logs(), stream_id)


@contextmanager
def open_on_ray(job: IngestJob, num_videos: int = 1) -> Iterator[RayRunner]:
    """Join a cluster, or start a private one that ends with this block."""
    handler = signal.getsignal(signal.SIGTERM)
    with open_cluster(job.cluster(num_videos)) as cluster:
        _restore_handler(handler)
        yield RayRunner(job, cluster)


def _restore_handler(handler: Any) -> None:
    """Ray puts a handler of SIGTERM in place that ends the process before a session is stopped."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def detach(
    settings: Settings, requests: list[IngestRequest], *, keep_going: bool = False
) -> list[str]:
    """Have videos brought in beyond this process's end; return the ids of their streams.

    A file has a session of its own; endless sources are added to those that hosts share. Without a
    cluster's address, one is started on this machine; `ray stop` ends it. It is ended here where
    nothing was started in it. With `keep_going` a video that cannot be ingested is left out: a
    warning says why.

    Raises:
        InvalidQuery: the settings say that nothing is to run on Ray.
        SourceError, LeaseHeld, FingerprintMismatch, Conflict: a stream cannot be written as asked.
    """
    if not settings.ray.enabled:
        raise InvalidQuery(
            "ray.enabled is false, and what is detached runs on Ray; leave --detach out, or enable "
            "Ray (--ray auto, or --ray HOST:PORT)"
        )
    if are_live(requests):
        return share(settings, requests, keep_going=keep_going)
    job = IngestJob.of(settings)
    if job.joins_cluster:
        with open_cluster(job.cluster()) as cluster:
            admitted = _admitted(job, requests, cluster, keep_going=keep_going)
            return list(_start_all(RayRunner(job, cluster), admitted, keep_going=keep_going))
    admitted = _admitted(job, requests, None, keep_going=keep_going)
    if not admitted:
        return []
    chosen, is_new = start_local_cluster(job.cluster())
    started: list[str] = []
    try:
        with open_cluster(chosen) as cluster:
            for stream_id in _start_all(RayRunner(job, cluster), admitted, keep_going=keep_going):
                started.append(stream_id)
    finally:
        if is_new and not started:
            stop_local_cluster(chosen)
    return started


def _admitted(
    job: IngestJob, requests: list[IngestRequest], cluster: Cluster | None, *, keep_going: bool
) -> list[IngestRequest]:
    """Those that have something to ingest; with `keep_going` without those that are refused."""
    admitted = []
    for request in requests:
        try:
            laid_out = job.lay_out(request, cluster)
            if job.admit(laid_out, cluster) is None:
                admitted.append(laid_out)
        except Exception as error:
            if not keep_going:
                raise
            _warn(request, error)
    return admitted


def _start_all(
    runner: RayRunner, requests: list[IngestRequest], *, keep_going: bool
) -> Iterator[str]:
    """Start detached sessions and yield their streams' ids."""
    for request in requests:
        try:
            runner.start(request, detached=True)
        except Exception as error:
            if not keep_going:
                raise
            _warn(request, error)
        else:
            yield request.source.stream_id


def _warn(request: IngestRequest, error: Exception) -> None:
    logger.warning("stream %s not started: %s", request.source.stream_id, error)


@contextmanager
def connect_cluster(settings: Settings) -> Iterator[Cluster]:
    """The cluster detached sessions run in."""
    address = settings.ray.address or f"127.0.0.1:{settings.ray.local_port}"
    with open_cluster(replace(settings.cluster_settings(), address=address)) as cluster:
        yield cluster


def look_at_hosts(cluster: Cluster, metrics: "Metrics", known: set[str]) -> set[str]:
    """Have `metrics` see every endless source that the cluster's hosts read, and their workers;
    the sources' names.

    `known`: those of the look before; what has gone is forgotten.
    """
    found: set[str] = set()
    for progress in cluster.ask_hosts():
        metrics.see(progress)
        found.add(progress.stream_id)
    for stream_id in known - found:
        metrics.forget(stream_id)
    metrics.see_workers(cluster.ask_workers())
    return found
