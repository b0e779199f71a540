"""One session of an endless source: from its sink's opening to its close, once or kept up."""

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipeline.ingest.job import IngestJob
from pipeline.ingest.live_source import LiveEnd, SourcesAhead, Wanted
from pipeline.ingest.request import IngestRequest
from pipeline.ingest.sink import StoreSinkFactory
from pipeline.settings.logs import about_stream
from pipeline.store.spool import SpoolUse
from pipeline.values.types import Lease
from workers.live.forks import Forks
from workers.live.session import LiveProgress, run_live_session
from workers.seams import Pusher, WorkerInfo

if TYPE_CHECKING:
    from pipeline.ingest.metrics import Metrics

logger = logging.getLogger(__name__)

KEEP_WAIT_S = 30.0
"""Before a kept stream that failed is begun again."""


@dataclass(frozen=True)
class Shared:
    """What all sessions of this process have in common."""

    job: IngestJob
    pusher: Pusher
    info: WorkerInfo
    metrics: "Metrics | None" = None
    writer: str | None = None
    """Who writes them; None gives each session a name of its own."""
    kin: str | None = None
    """How names of writers begin from whom streams are taken over: see `take_lease`."""
    ahead: SourcesAhead | None = None
    """Sources that are connected to already."""
    forks: Forks | None = None
    """Where decoders come from; None has each come from a process of its own."""
    spool_use: SpoolUse = field(default_factory=SpoolUse)
    """How full the spool is."""


def run_kept(
    shared: Shared,
    wanted: Wanted,
    stop: threading.Event,
    tell: Callable[[LiveProgress | LiveEnd], None],
) -> None:
    """Again and again, until it is told to stop."""

    def hear(value: LiveProgress | LiveEnd) -> None:
        ends.append(value) if isinstance(value, LiveEnd) else tell(value)

    while True:
        ends: list[LiveEnd] = []
        run_one(shared, wanted, stop, hear)
        error = ends[0].error
        if error is not None:
            why = f"{type(error).__name__}: {error}"
            tell(LiveProgress(wanted.request.source.stream_id, state="failed", outage=why))
        if error is None or stop.wait(KEEP_WAIT_S):
            tell(ends[0])
            return


def run_one(
    shared: Shared,
    wanted: Wanted,
    stop: threading.Event,
    tell: Callable[[LiveProgress | LiveEnd], None],
) -> None:
    """One session from its start to its end, which is told whatever it is."""
    stream_id = wanted.request.source.stream_id
    with about_stream(stream_id):
        try:
            logger.info("stream %s begins", stream_id)
            run_session(shared, wanted, stop, tell)
        except Exception as error:
            logger.error("stream %s failed: %s", stream_id, error)
            tell(LiveEnd(stream_id, error))
        else:
            logger.info("stream %s has ended", stream_id)
            tell(LiveEnd(stream_id))


def run_session(
    shared: Shared,
    wanted: Wanted,
    stop: threading.Event,
    tell: Callable[[LiveProgress], None],
    *,
    lease: Lease | None = None,
) -> None:
    """From the sink's opening to its close; raises what ended it.

    `lease`: the stream's, where it was taken already.
    """
    request, stream_id = wanted.request, wanted.request.source.stream_id
    spec, made = wanted.spec, live_sink(shared.job, request, shared.info)
    with ExitStack() as stack:
        begun = None if shared.ahead is None else shared.ahead.take(spec)
        if begun is not None:
            stack.callback(begun.kill)
        writer = shared.writer or made.writer
        ours = replace(made, kin=shared.kin, given=lease, spool_use=shared.spool_use)
        sink = replace(ours, writer=writer).open()
        stack.callback(sink.close)
        if shared.metrics is not None:
            shared.metrics.watch_spool(stream_id, lambda: sink.spooled_bytes)
        source = spec.open(stop, begun=begun, forks=shared.forks)
        for progress in run_live_session(
            request.source, spec.settings, shared.info, shared.pusher, sink, source, stop=stop
        ):
            tell(progress)


def live_sink(job: IngestJob, request: IngestRequest, info: WorkerInfo) -> StoreSinkFactory:
    """Where an endless source's clips go: over the spool, where there is one."""
    made = job.sink(request, info)
    return replace(made, endless=True, path=None, spool=job.settings.spool_rules())
