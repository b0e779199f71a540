"""Endless sources into the store: a session a source, one model for all of them.

Each session has a thread, and its decoder a process; their frames share the pusher's batches. A
session that fails ends by itself, the others go on. Stopping commits what is open. Sources are
connected to before the model is loaded, which takes longer than that.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pipeline.ingest.fleet import Fleet
from pipeline.ingest.live_source import LiveEnd, SourcesAhead, Wanted, check_live
from pipeline.ingest.request import IngestRequest, request_of
from pipeline.settings import LiveSourceSettings, Settings, StreamSettings
from pipeline.store import arrow
from pipeline.values.errors import InvalidQuery, InvalidSettings, PipelineError
from workers.decode.policy import is_network_url
from workers.errors import SourceError
from workers.imports import collector_paused
from workers.live.forks import Forks

if TYPE_CHECKING:  # what needs torch is loaded once sources are connected to
    from pipeline.ingest.metrics import Metrics
    from workers.live.session import LiveProgress

logger = logging.getLogger(__name__)


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
        InvalidSettings: a URL's variable is not set, or one is for labelled machines alone.
    """
    _require_no_labels(settings.streams)
    requests = [request_of(stream, settings) for stream in settings.streams]
    if not requests and not may_be_none:
        raise InvalidQuery("the settings name no streams; list them: streams: [{name, url}]")
    for request in requests:
        if not is_network_url(request.source.url):
            raise InvalidQuery(
                f"stream {request.source.stream_id} is a file; `aot ingest` takes files"
            )
    return requests


def _require_no_labels(streams: Sequence[StreamSettings]) -> None:
    """Which machine reads a stream is for a cluster to say: here it is this one, without labels."""
    labelled = [stream for stream in streams if stream.label_selector]
    required = [stream.name for stream in labelled if not stream.label_fallback]
    if required:
        raise InvalidSettings(
            f"got label_selector of {_some(required)}, expected streams that any machine may read: "
            "labels are those of a cluster's nodes; say `aot up --detach`, or give them "
            "label_fallback: true, to read them here as well"
        )
    if labelled:
        logger.warning(
            "%s: label_selector says nothing without --detach; read here, as label_fallback allows",
            _some([stream.name for stream in labelled]),
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def ingest_live(
    settings: Settings,
    requests: Sequence[IngestRequest],
    *,
    stop: threading.Event,
    keep: bool = False,
    look: Callable[[], Settings | None] | None = None,
    metrics: "Metrics | None" = None,
) -> "Iterator[LiveProgress | LiveEnd]":
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
    with Forks() as forks, SourcesAhead(forks) as ahead:
        first = _wanted(settings, wanted)
        ahead.begin(one.spec for one in first.values())
        yield from _run_all(
            settings, first, ahead, stop=stop, keep=keep, look=look, metrics=metrics
        )


def _run_all(
    settings: Settings,
    first: dict[str, Wanted],
    ahead: SourcesAhead,
    *,
    stop: threading.Event,
    keep: bool,
    look: Callable[[], Settings | None] | None,
    metrics: "Metrics | None",
) -> "Iterator[LiveProgress | LiveEnd]":
    """Load what all sessions share, and run them."""
    with collector_paused():
        from pipeline.ingest.job import IngestJob
        from pipeline.ingest.live_session import Shared, run_kept, run_one
        from workers.live.push import InlinePusher

        arrow.share_one_heap()
        job = IngestJob.of(settings)
        pusher = InlinePusher(job.compress)
    with pusher:
        shared = Shared(job, pusher, pusher.info, metrics, ahead=ahead, forks=ahead.forks)
        run = partial(run_kept if keep else run_one, shared)
        fleet: Fleet[Wanted, LiveProgress | LiveEnd] = Fleet(run, stop=stop)
        fleet.change(first)
        if metrics is not None:
            metrics.watch_worker("0", lambda: pusher.tally)
        again = None if look is None else partial(_look_again, job.settings, look)
        for news in fleet.news(again):
            if metrics is not None:
                _count(metrics, news)
            yield news


def _count(metrics: "Metrics", news: "LiveProgress | LiveEnd") -> None:
    if isinstance(news, LiveEnd):
        metrics.forget(news.stream_id)
    else:
        metrics.see(news)


def _wanted(settings: Settings, requests: Sequence[IngestRequest]) -> dict[str, Wanted]:
    return {request.source.stream_id: Wanted(request, settings.live) for request in requests}


FIXED = ("model", "ingest", "store", "spool", "ray", "tracing")
"""Groups of settings that all streams share and that are read once."""


def _look_again(begun: Settings, look: Callable[[], Settings | None]) -> dict[str, Wanted] | None:
    """What is wanted from now on; None where nothing changed, or cannot be."""
    settings = look()
    if settings is None:
        return None
    fixed = [name for name in FIXED if getattr(settings, name) != getattr(begun, name)]
    if fixed:
        logger.warning("changes of %s count from the next start on", ", ".join(fixed))
    try:
        requests = named_streams(settings, may_be_none=True)
    except PipelineError as error:
        logger.error("the changed settings are not applied: %s", error)
        return None
    logger.warning(
        "settings read again: streams %s",
        _some([one.source.stream_id for one in requests]) or "none",
    )
    return _wanted(settings, requests)


def _check_source(live: LiveSourceSettings, request: IngestRequest) -> LiveEnd:
    try:
        check_live(live, request)
    except SourceError as error:
        return LiveEnd(request.source.stream_id, error)
    return LiveEnd(request.source.stream_id)
