"""Endless sources given to the hosts of a cluster, which share them: all of a list, or a few more.

They go on after this process. Where no host runs, a controller is started that keeps as many as it
takes; where no cluster runs, one on this machine.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.ingest.host import HOST_PREFIX, HostRules
from pipeline.ingest.hosted import (
    HostedStreams,
    add_streams,
    open_roster,
    put_streams,
    require_alike,
    settings_version,
)
from pipeline.ingest.job import IngestJob
from pipeline.ingest.live_session import live_sink
from pipeline.ingest.live_source import check_live
from pipeline.ingest.request import IngestRequest, request_of, stream_of
from pipeline.settings import Settings
from pipeline.store import open_store
from pipeline.store.roster import Roster
from pipeline.values.errors import InvalidQuery
from workers.cluster.cluster import (
    Cluster,
    open_cluster,
    start_local_cluster,
    stop_local_cluster,
)
from workers.seams import WorkerInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """What became of the list that hosts share."""

    streams: tuple[str, ...]
    """Those on it."""
    ended: tuple[str, ...]
    """Those that were on it before."""


def up(settings: Settings) -> Kept:
    """Have the cluster's hosts read the streams that the settings name, and no others.

    They go on after this process, and through the loss of any machine but the store's. Hosts that
    read by other settings hand their streams over, one by one. Without a cluster's address, one is
    started on this machine; `ray stop` ends it.

    Raises:
        InvalidQuery: the settings say that nothing is to run on Ray.
        SourceRefused: a URL that is not to be opened.
        ModelError: the checkpoint cannot be used.
    """
    if not settings.ray.enabled:
        raise InvalidQuery("ray.enabled is false, and what is detached runs on Ray; enable it")
    for stream in settings.streams:
        if stream.url is not None:  # a variable may be set on the machines that read it alone
            check_live(settings.live, request_of(stream, settings))
    with _open_fleet(settings) as fleet:
        ended = put_streams(fleet.roster, settings)
        fleet.keep()
    return Kept(tuple(stream.name for stream in settings.streams), tuple(sorted(ended)))


def share(settings: Settings, requests: list[IngestRequest], *, keep_going: bool) -> list[str]:
    """Add endless sources to those that hosts share; the ids of those that were added."""
    wanted: list[IngestRequest] = []
    for request in requests:
        try:
            stream_of(request)
            check_live(settings.live, request)
            wanted.append(request)
        except Exception as error:
            if not keep_going:
                raise
            logger.warning("stream %s not started: %s", request.source.stream_id, error)
    if not wanted:
        return []
    with open_roster(settings.store_config()) as roster:
        require_alike(roster, settings)  # before anything is started and loaded
    with _open_fleet(settings) as fleet:
        for request in wanted:
            fleet.require_free(request)
        add_streams(fleet.roster, settings, map(stream_of, wanted))
        fleet.keep()
    return [request.source.stream_id for request in wanted]


@dataclass(frozen=True)
class _Fleet:
    """The hosts of a cluster, and the list that they share."""

    job: IngestJob
    roster: Roster
    cluster: Cluster
    info: WorkerInfo

    def keep(self) -> None:
        """Have as many hosts as it takes, by these settings."""
        ray, version = self.job.settings.ray, settings_version(self.job.settings)
        rules = HostRules(most=ray.streams_per_session, silent_s=ray.session_silent_s)
        work = HostedStreams(self.job, version, rules, most_hosts=ray.max_sessions)
        self.cluster.keep_hosts(work, self.job.compress, self.job.pool)

    def require_free(self, request: IngestRequest) -> None:
        """Raise what would stop a stream at once, which nobody would see who is not there."""
        with open_store(self.job.store) as store:
            held = store.get_lease(request.source.stream_id)
        if held is None or not held.holder.startswith(HOST_PREFIX):
            live_sink(self.job, request, self.info).open().close()


@contextmanager
def _open_fleet(settings: Settings) -> Iterator[_Fleet]:
    """The workers are loaded first: what is wrong with a model changes no list.

    A cluster that was started for it is ended where it was in vain.
    """
    job = IngestJob.of(settings)
    with open_roster(job.store) as roster:
        place, is_new = job.cluster(), False
        if not job.joins_cluster:
            place, is_new = start_local_cluster(place)
        try:
            with open_cluster(place) as cluster:
                _, info = cluster.open_pool(job.compress, job.pool, detached=True)
                yield _Fleet(job, roster, cluster, info)
        except BaseException:
            if is_new:
                stop_local_cluster(place)
            raise
