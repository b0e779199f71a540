"""Endless sources into the store: a session a source, one model for all of them.

Each session has a thread, and its decoder a process; their frames share the pusher's batches. A
session that fails ends by itself, the others go on. Stopping commits what is open.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from pipeline.ingest.fleet import Fleet
from pipeline.ingest.job import IngestJob
from pipeline.ingest.request import IngestRequest, request_of
from pipeline.ingest.sink import StoreSinkFactory
from pipeline.settings import LiveSourceSettings, Settings
from pipeline.settings.logs import about_stream
from pipeline.values.errors import InvalidQuery, PipelineError
from pipeline.values.types import Lease
from workers.decode.policy import SourcePolicy, check_url, is_network_url
from workers.errors import SourceError
from workers.live.child import Request
from workers.live.push import InlinePusher
from workers.live.session import LiveProgress, LiveSettings, run_live_session
from workers.live.source import LiveSource
from workers.live.spec import LiveSpec
from workers.live.stillness import StillnessRule
from workers.redact import show_url
from workers.seams import Pusher, StopSignal, WorkerInfo

if TYPE_CHECKING:
    from pipeline.ingest.metrics import Metrics

logger = logging.getLogger(__name__)

KEEP_WAIT_S = 30.0
"""Before a kept stream that failed is begun again."""


@dataclass(frozen=True)
class LiveEnd:
    """A session's last word."""

    stream_id: str
    error: Exception | None = None


def are_live(requests: Sequence[IngestRequest]) -> bool:
    """Whether these sources are endless ones.

    Raises:
        InvalidQuery: some are and some are not.
    """
    live = [is_network_url(request.source.url) for request in requests]
    if any(live) and not all(live):
        raise InvalidQuery(
            f"got {sum(live)} network sources and {live.count(False)} files; ingest them apart: "
            "a file ends, a network source does not"
        )
    return all(live) and bool(live)


def named_streams(settings: Settings, *, may_be_none: bool = False) -> list[IngestRequest]:
    """What the settings' `streams` ask for.

    Raises:
        InvalidQuery: there are none, or one is a file.
        InvalidSettings: a URL's variable is not set.
    """
    requests = [request_of(stream, settings) for stream in settings.streams]
    if not requests and not may_be_none:
        raise InvalidQuery("the settings name no streams; list them: streams: [{name, url}]")
    for request in requests:
        if not is_network_url(request.source.url):
            raise InvalidQuery(
                f"stream {request.source.stream_id} is a file; `aot ingest` takes files"
            )
    return requests


@dataclass(frozen=True)
class Wanted:
    """One stream to keep, and how sources are opened; another value of it is another session."""

    request: IngestRequest
    live: LiveSourceSettings


def ingest_live(
    settings: Settings,
    requests: Sequence[IngestRequest],
    *,
    stop: threading.Event,
    keep: bool = False,
    look: Callable[[], Settings | None] | None = None,
    metrics: "Metrics | None" = None,
) -> Iterator[LiveProgress | LiveEnd]:
    """Bring endless sources in until `stop` is set; progress as it comes, ends as they happen.

    `keep`: a stream that fails is told as such, and begun again after a wait. One that is not kept
    ends at once where its URL is refused or its host has no address: a name that nobody knows is
    a name mistyped, while a camera that is known and away is waited for.
    `look`: asked now and then for settings that have changed; streams that they add, remove or
    change are begun, ended or begun anew, the others go on.
    `metrics` sees all of it, and is asked nothing.

    Raises:
        ModelError, StoreError: what no source can do without.
    """
    ends = [] if keep else [_check_source(settings.live, request) for request in requests]
    refused = [end for end in ends if end.error is not None]
    yield from refused
    names = {end.stream_id for end in refused}
    wanted = [request for request in requests if request.source.stream_id not in names]
    if not wanted:
        return
    job = IngestJob.of(settings)
    with InlinePusher(job.compress) as pusher:
        shared = Shared(job, pusher, pusher.info, metrics)
        run = _run_kept if keep else _run_one
        fleet = Fleet[Wanted, LiveProgress | LiveEnd](partial(run, shared), stop=stop)
        fleet.change(_wanted(settings, wanted))
        if metrics is not None:
            metrics.watch_worker("0", lambda: pusher.tally)
        for news in fleet.news(None if look is None else partial(_look_again, job, look)):
            if metrics is not None:
                _count(metrics, news)
            yield news


def _count(metrics: "Metrics", news: LiveProgress | LiveEnd) -> None:
    if isinstance(news, LiveEnd):
        metrics.forget(news.stream_id)
    else:
        metrics.see(news)


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


def _wanted(settings: Settings, requests: Sequence[IngestRequest]) -> dict[str, Wanted]:
    return {request.source.stream_id: Wanted(request, settings.live) for request in requests}


FIXED = ("model", "ingest", "store", "spool", "ray", "tracing")
"""Groups of settings that all streams share and that are read once."""


def _look_again(job: IngestJob, look: Callable[[], Settings | None]) -> dict[str, Wanted] | None:
    """What is wanted from now on; None where nothing changed, or cannot be."""
    settings = look()
    if settings is None:
        return None
    fixed = [name for name in FIXED if getattr(settings, name) != getattr(job.settings, name)]
    if fixed:
        logger.warning("changes of %s count from the next start on", ", ".join(fixed))
    try:
        requests = named_streams(settings, may_be_none=True)
    except PipelineError as error:
        logger.error("the changed settings are not applied: %s", error)
        return None
    logger.warning("settings read again: streams %s", ", ".join(_names(requests)) or "none")
    return _wanted(settings, requests)


def _names(requests: Sequence[IngestRequest]) -> list[str]:
    return [request.source.stream_id for request in requests]


def _check_source(live: LiveSourceSettings, request: IngestRequest) -> LiveEnd:
    try:
        check_live(live, request)
    except SourceError as error:
        return LiveEnd(request.source.stream_id, error)
    return LiveEnd(request.source.stream_id)


def check_live(live: LiveSourceSettings, request: IngestRequest) -> None:
    """Raise what is wrong with a source's URL: `SourceRefused`, or a name that nobody knows."""
    url = request.source.url
    policy = SourcePolicy(live.networks, devices=live.devices)
    check_url(url, policy, shown=show_url(url))


def _run_kept(
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
        _run_one(shared, wanted, stop, hear)
        error = ends[0].error
        if error is not None:
            why = f"{type(error).__name__}: {error}"
            tell(LiveProgress(wanted.request.source.stream_id, state="failed", outage=why))
        if error is None or stop.wait(KEEP_WAIT_S):
            tell(ends[0])
            return


def _run_one(
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
    made = live_sink(shared.job, request, shared.info)
    writer = shared.writer or made.writer
    sink = replace(made, writer=writer, kin=shared.kin, given=lease).open()
    if shared.metrics is not None:
        shared.metrics.watch_spool(stream_id, lambda: sink.spooled_bytes)
    try:
        source = open_source(wanted.live, request, stop)
        settings = live_settings(wanted.live, request)
        for progress in run_live_session(
            request.source, settings, shared.info, shared.pusher, sink, source, stop=stop
        ):
            tell(progress)
    finally:
        sink.close()


def live_settings(live: LiveSourceSettings, request: IngestRequest) -> LiveSettings:
    """What a session decides by itself."""
    hold = live.hold_still if request.hold_still is None else request.hold_still
    return LiveSettings(stillness=StillnessRule() if hold else None)


def open_source(live: LiveSourceSettings, request: IngestRequest, stop: StopSignal) -> LiveSource:
    """A source that is connected to, again and again, until `stop` is set."""
    return live_spec(live, request).open(stop)


def live_spec(live: LiveSourceSettings, request: IngestRequest) -> LiveSpec:
    """How a source is opened and read, as the settings say."""
    source = request.source
    wanted = Request(
        url=source.url,
        shown=show_url(source.url),
        fps=source.fps,
        networks=live.networks,
        devices=live.devices,
        transport=live.transport,
        open_timeout_s=live.open_timeout_s,
        memory_bytes=live.decoder_memory_mb << 20,
    )
    return LiveSpec(wanted, live.stall_s, live_settings(live, request))


def live_sink(job: IngestJob, request: IngestRequest, info: WorkerInfo) -> StoreSinkFactory:
    """Where an endless source's clips go: over the spool, where there is one."""
    made = job.sink(request, info)
    return replace(made, endless=True, path=None, spool=job.settings.spool_rules())
