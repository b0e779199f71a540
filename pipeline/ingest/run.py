"""Path 1: from a video to the store, inline or on Ray, as one stream session.

`ingest` yields the session's progress; everything that was committed stays, whatever happens to
this process. The work is `workers.session.run_session`'s; here the parts are chosen and joined.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import Conflict, FingerprintMismatch, InvalidQuery
from pipeline.ingest.admission import admit
from pipeline.ingest.describe import stream_info, unread_stream_info
from pipeline.ingest.sink import StoreSinkFactory
from pipeline.settings import Settings
from pipeline.store import StoreConfig, open_store
from workers.clips import check_source, open_clips
from workers.cluster.cluster import (
    Cluster,
    open_cluster,
    start_local_cluster,
)
from workers.cluster.session import SessionHandle
from workers.errors import SourceError
from workers.inline import InlineWorkers
from workers.seams import SessionReport, WorkerInfo
from workers.session import CheckSource, OpenClips, Progress, SessionSettings, run_session
from workers.types import VideoSource

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (
    *(".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
)


@dataclass(frozen=True)
class IngestRequest:
    """One video to bring in."""

    source: VideoSource
    resume: bool = False
    """Go on with a stream although its file lies elsewhere now."""


def ingest(
    settings: Settings, requests: list[IngestRequest], *, keep_going: bool = False
) -> Iterator[Progress]:
    """Ingest videos one after the other with workers that are loaded once.

    They are loaded when the first video is found that can be ingested, as far as a look at its
    stream and its file tells. With `keep_going` a video that cannot be read, or whose stream is
    taken, ends in a progress of state `failed` with its error, and the next one follows.

    Raises:
        SourceError, ModelError, StoreError, LeaseHeld, FingerprintMismatch: what stopped it.
            The videos before it are stored, and of this one what came before.
    """
    store = _shared_config(settings.store_config())
    with ExitStack() as stack:
        run = None
        for request in requests:
            try:
                if not _joins_cluster(settings):
                    _admit(settings, store, request)
                run = run or stack.enter_context(_runner(settings, store))
                yield from run(request)
            except (SourceError, Conflict, FingerprintMismatch) as error:
                if not keep_going:
                    raise
                yield Progress(request.source.stream_id, state="failed", error=error)


@contextmanager
def _runner(
    settings: Settings, store: StoreConfig
) -> Iterator[Callable[[IngestRequest], Iterator[Progress]]]:
    """Loaded workers in this process, or a cluster that loads them for its first session."""
    if not settings.ray.enabled:
        with InlineWorkers(settings.compress_settings()) as workers:
            yield lambda request: _run_inline(settings, store, request, workers)
        return
    handler = signal.getsignal(signal.SIGTERM)
    with open_cluster(settings.cluster_settings()) as cluster:
        _restore_handler(handler)
        yield lambda request: _run_on_ray(settings, store, request, cluster)


def _restore_handler(handler: Any) -> None:
    """Ray puts a handler of SIGTERM in place that ends the process before a session is stopped."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _watched(session: SessionHandle) -> Iterator[Progress]:
    """Watch a session to its end and give its place in the cluster to the next one.

    It is asked to stop, not cut off, when the watcher leaves.
    """
    try:
        yield from session.watch()
    except (KeyboardInterrupt, GeneratorExit):
        session.stop()
        raise
    finally:
        session.kill()


def detach(
    settings: Settings, requests: list[IngestRequest], *, keep_going: bool = False
) -> list[str]:
    """Start sessions that go on after this process; return the ids of their streams.

    Without a cluster's address, one is started on this machine; `ray stop` ends it. With
    `keep_going` a video that cannot be read is left out: its stream's status says why.

    Raises:
        SourceError, LeaseHeld, FingerprintMismatch, Conflict: a stream cannot be written as asked.
    """
    store, chosen = _shared_config(settings.store_config()), settings.cluster_settings()
    joins = chosen.address is not None
    if not joins:
        requests = _admit_all(settings, store, requests, keep_going=keep_going)
        if not requests:
            return []
        chosen = start_local_cluster(chosen)
    with open_cluster(chosen) as cluster:
        if joins:
            requests = _admit_all(settings, store, requests, cluster, keep_going=keep_going)
        for request in requests:
            _start_on_ray(settings, store, request, cluster, detached=True)
    return [request.source.stream_id for request in requests]


@contextmanager
def cluster_of(settings: Settings) -> Iterator[Cluster]:
    """The cluster detached sessions run in."""
    address = settings.ray.address or f"127.0.0.1:{settings.ray.local_port}"
    with open_cluster(replace(settings.cluster_settings(), address=address)) as cluster:
        yield cluster


def find_videos(path: str) -> list[str]:
    """A folder's videos by their names' endings, in order; anything else as it is.

    Raises:
        InvalidQuery: a folder without videos.
    """
    folder = Path(path)
    if "://" in path or not folder.is_dir():
        return [path]
    found = sorted(str(file) for file in folder.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise InvalidQuery(
            f"folder {path!r} holds no video, expected files ending in "
            f"{', '.join(sorted(VIDEO_SUFFIXES))}; name the file itself"
        )
    return found


def _joins_cluster(settings: Settings) -> bool:
    """Sessions may then run on another machine, with files of its own."""
    return settings.ray.enabled and settings.ray.address is not None


def _admit(
    settings: Settings, store: StoreConfig, request: IngestRequest, cluster: Cluster | None = None
) -> None:
    """Raise what is wrong with a request as far as it shows without a model; see `admit`.

    The file is looked at from here, or from where the cluster would run its session.
    """
    check: CheckSource = partial(check_source, roots=_roots(settings))
    if cluster is not None:
        check = partial(cluster.check_source, check)
    with open_store(store) as opened:
        admit(
            opened,
            unread_stream_info(request.source, settings),
            partial(check, request.source),
            moved=request.resume,
            lease_s=settings.ingest.lease_s,
        )


def _admit_all(
    settings: Settings,
    store: StoreConfig,
    requests: list[IngestRequest],
    cluster: Cluster | None = None,
    *,
    keep_going: bool,
) -> list[IngestRequest]:
    """Those that can be ingested; with `keep_going` without those whose file is refused."""
    admitted = []
    for request in requests:
        try:
            _admit(settings, store, request, cluster)
            admitted.append(request)
        except SourceError as error:
            if not keep_going:
                raise
            logger.warning("stream %s not started: %s", request.source.stream_id, error)
    return admitted


def _run_inline(
    settings: Settings, store: StoreConfig, request: IngestRequest, workers: InlineWorkers
) -> Iterator[Progress]:
    sink = _sink_factory(settings, store, request, workers.info).open()
    try:
        yield from run_session(
            request.source, SessionSettings(), workers, sink, open_clips=_opener(settings)
        )
    except (KeyboardInterrupt, GeneratorExit):
        sink.finish(SessionReport("stopped"))
        raise
    finally:
        sink.close()


def _run_on_ray(
    settings: Settings, store: StoreConfig, request: IngestRequest, cluster: Cluster
) -> Iterator[Progress]:
    if _joins_cluster(settings):
        _admit(settings, store, request, cluster)
    yield from _watched(_start_on_ray(settings, store, request, cluster))


def _start_on_ray(
    settings: Settings,
    store: StoreConfig,
    request: IngestRequest,
    cluster: Cluster,
    *,
    detached: bool = False,
) -> SessionHandle:
    compress, pool = settings.compress_settings(), settings.pool_settings()
    _, info = cluster.open_pool(compress, pool, detached=detached)
    sink = _sink_factory(settings, store, request, info)
    if detached:  # nobody watches a detached session: what stops it at once is raised here
        sink.open().close()
    return cluster.start_session(
        request.source,
        sink,
        compress,
        open_clips=_opener(settings),
        pool=pool,
        detached=detached,
    )


def _opener(settings: Settings) -> OpenClips:
    return partial(open_clips, roots=_roots(settings))


def _roots(settings: Settings) -> tuple[Path, ...]:
    return tuple(Path(root) for root in settings.ingest.roots)


def _sink_factory(
    settings: Settings, store: StoreConfig, request: IngestRequest, info: WorkerInfo
) -> StoreSinkFactory:
    return StoreSinkFactory(
        store,
        stream_info(request.source, info, settings),
        lease_s=settings.ingest.lease_s,
        moved=request.resume,
    )


def _shared_config(config: StoreConfig) -> StoreConfig:
    """What workers open: an embedded server is started here, once, and joined by them."""
    with open_store(config) as store:
        return store.config
