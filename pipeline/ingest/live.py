"""Endless sources into the store: a session a source, one model for all of them.

Each session has a thread, and its decoder a process; their frames share the pusher's batches. A
session that fails ends by itself, the others go on. Stopping commits what is open.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.ingest.identity import known_info
from pipeline.ingest.job import IngestJob
from pipeline.ingest.request import IngestRequest
from pipeline.settings import Settings, stream_url
from pipeline.store import open_store
from pipeline.values.errors import InvalidQuery
from workers.decode.policy import SourcePolicy, check_url, is_network_url
from workers.errors import SourceError
from workers.live.child import Request
from workers.live.process import DecoderProcess
from workers.live.push import InlinePusher
from workers.live.session import LiveProgress, LiveSettings, run_live_session
from workers.live.source import LiveSource
from workers.live.stillness import StillnessRule
from workers.redact import show_url
from workers.seams import Pusher, WorkerInfo
from workers.types import VideoSource

logger = logging.getLogger(__name__)

STOP_S = 10.0
"""How long sessions may take, all together, to commit what is open."""
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


def named_streams(settings: Settings) -> list[IngestRequest]:
    """What the settings' `streams` ask for.

    Raises:
        InvalidQuery: there are none, or one is a file.
        InvalidSettings: a URL's variable is not set.
    """
    requests = [
        IngestRequest(
            VideoSource(stream_url(stream), stream.name, stream.fps or settings.ingest.fps),
            zone=settings.ingest.zone,
            hold_still=stream.hold_still,
        )
        for stream in settings.streams
    ]
    if not requests:
        raise InvalidQuery("the settings name no streams; list them: streams: [{name, url}]")
    for request in requests:
        if not is_network_url(request.source.url):
            raise InvalidQuery(
                f"stream {request.source.stream_id} is a file; `aot ingest` takes files"
            )
    return requests


def ingest_live(
    settings: Settings,
    requests: Sequence[IngestRequest],
    *,
    stop: threading.Event,
    keep: bool = False,
) -> Iterator[LiveProgress | LiveEnd]:
    """Bring endless sources in until `stop` is set; progress as it comes, ends as they happen.

    `keep`: a stream that fails is told as such, and begun again after a wait. One that is not kept
    ends at once where its URL is refused or its host has no address: a name that nobody knows is
    a name mistyped, while a camera that is known and away is waited for.

    Raises:
        ModelError, StoreError: what no source can do without.
    """
    ends = [] if keep else [_check_source(settings, request) for request in requests]
    refused = [end for end in ends if end.error is not None]
    yield from refused
    names = {end.stream_id for end in refused}
    wanted = [request for request in requests if request.source.stream_id not in names]
    if not wanted:
        return
    job = IngestJob.of(settings)
    with InlinePusher(job.compress) as pusher:
        yield from _run_all(job, wanted, pusher, pusher.info, stop, keep)


def _check_source(settings: Settings, request: IngestRequest) -> LiveEnd:
    source = request.source
    policy = SourcePolicy(settings.live.networks)
    try:
        check_url(source.url, policy, shown=show_url(source.url))
    except SourceError as error:
        return LiveEnd(source.stream_id, error)
    return LiveEnd(source.stream_id)


def _run_all(
    job: IngestJob,
    requests: Sequence[IngestRequest],
    pusher: Pusher,
    info: WorkerInfo,
    stop: threading.Event,
    keep: bool,
) -> Iterator[LiveProgress | LiveEnd]:
    news: queue.SimpleQueue[LiveProgress | LiveEnd] = queue.SimpleQueue()
    threads = [
        threading.Thread(
            target=_run_kept if keep else _run_one,
            args=(job, request, pusher, info, stop, news.put),
            daemon=True,
        )
        for request in requests
    ]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            value = news.get()
            running -= isinstance(value, LiveEnd)
            yield value
    finally:
        stop.set()
        until_s = time.monotonic() + STOP_S
        for thread in threads:
            thread.join(max(0.0, until_s - time.monotonic()))


def _run_kept(
    job: IngestJob,
    request: IngestRequest,
    pusher: Pusher,
    info: WorkerInfo,
    stop: threading.Event,
    tell: Callable[[LiveProgress | LiveEnd], None],
) -> None:
    def hear(value: LiveProgress | LiveEnd) -> None:
        ends.append(value) if isinstance(value, LiveEnd) else tell(value)

    while True:
        ends: list[LiveEnd] = []
        _run_one(job, request, pusher, info, stop, hear)
        error = ends[0].error
        if error is not None:
            why = f"{type(error).__name__}: {error}"
            tell(LiveProgress(request.source.stream_id, state="failed", outage=why))
        if error is None or stop.wait(KEEP_WAIT_S):
            tell(ends[0])
            return


def _run_one(
    job: IngestJob,
    request: IngestRequest,
    pusher: Pusher,
    info: WorkerInfo,
    stop: threading.Event,
    tell: Callable[[LiveProgress | LiveEnd], None],
) -> None:
    stream_id = request.source.stream_id
    try:
        request = _as_begun(job, request)
        factory = job.sink(request, info)
        sink = replace(factory, path=None, spool=job.settings.spool_rules()).open()
        try:
            source = open_source(job.settings, request, stop)
            live = live_settings(job.settings, request)
            for progress in run_live_session(
                request.source, live, info, pusher, sink, source, stop=stop
            ):
                tell(progress)
        finally:
            sink.close()
        tell(LiveEnd(stream_id))
    except Exception as error:
        logger.error("stream %s failed: %s", stream_id, error)
        tell(LiveEnd(stream_id, error))


def _as_begun(job: IngestJob, request: IngestRequest) -> IngestRequest:
    """A stream that goes on counts from where it began, which only the first run could see."""
    source = request.source
    with open_store(job.store) as store:
        known = known_info(store, source.stream_id)
    if known is None or known.wall_start_s is None or source.wall_start_s is not None:
        return request
    return replace(request, source=replace(source, wall_start_s=known.wall_start_s))


def live_settings(settings: Settings, request: IngestRequest) -> LiveSettings:
    """What a session decides by itself."""
    hold = settings.live.hold_still if request.hold_still is None else request.hold_still
    return LiveSettings(stillness=StillnessRule() if hold else None)


def open_source(settings: Settings, request: IngestRequest, stop: threading.Event) -> LiveSource:
    """A source that is connected to, again and again, until `stop` is set."""
    live, source = settings.live, request.source
    wanted = Request(
        url=source.url,
        shown=show_url(source.url),
        fps=source.fps,
        networks=live.networks,
        transport=live.transport,
        open_timeout_s=live.open_timeout_s,
        memory_bytes=live.decoder_memory_mb << 20,
    )
    return LiveSource(lambda: DecoderProcess(wanted, stall_s=live.stall_s, stop=stop), stop=stop)
