"""Path 1: from videos to the store, inline or on Ray, as one stream session each.

`ingest` yields the sessions' progress; everything that was committed stays, whatever happens to
this process. The work is `workers.session.run_session`'s; here videos are looked at, and those
that have something new are run, one after the other or side by side.
"""

import logging
import queue
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

from pipeline.ingest.job import IngestJob
from pipeline.ingest.on_ray import open_on_ray
from pipeline.ingest.request import IngestRequest
from pipeline.ingest.runner import Runner, open_inline
from pipeline.settings import Settings
from pipeline.values.errors import StoreFull, StoreReadOnly, StoreUnavailable, StoreUnsafe
from workers.cluster.cluster import Cluster
from workers.errors import ClusterUnreachable, ModelError
from workers.session import Progress

logger = logging.getLogger(__name__)

_CONCERNS_ALL = (
    *(StoreUnavailable, StoreFull, StoreReadOnly, StoreUnsafe),
    *(ModelError, ClusterUnreachable),
)
"""No other video would fare better: they end a batch."""


def ingest(
    settings: Settings, requests: list[IngestRequest], *, keep_going: bool = False
) -> Iterator[Progress]:
    """Ingest videos with workers that are loaded once.

    All are looked at first, as far as stream and file tell without a model; workers are loaded
    where there is a video with something to ingest. With `keep_going` a video that fails, for
    whatever reason of its own, ends in a progress of state `failed` with its error, and the others
    go on; what no video can do without (store, model, cluster) ends all.

    Raises:
        SourceError, ModelError, StoreError, LeaseHeld, FingerprintMismatch: what stopped it.
            What was committed before stays.
    """
    job = IngestJob.of(settings)
    ready: list[IngestRequest] = []
    with ExitStack() as stack:
        if not settings.ray.enabled:
            yield from _look(job, requests, None, ready, keep_going=keep_going)
            runner = stack.enter_context(open_inline(job)) if ready else None
        elif job.joins_cluster:
            runner = stack.enter_context(open_on_ray(job))
            yield from _look(job, requests, runner.cluster, ready, keep_going=keep_going)
        else:
            yield from _look(job, requests, None, ready, keep_going=keep_going)
            runner = stack.enter_context(open_on_ray(job, len(ready))) if ready else None
        if runner is not None:
            yield from _run(runner, ready, keep_going=keep_going)


def _look(
    job: IngestJob,
    requests: list[IngestRequest],
    cluster: Cluster | None,
    ready: list[IngestRequest],
    *,
    keep_going: bool,
) -> Iterator[Progress]:
    """Put what has something to ingest into `ready`; yield the end of all others."""
    for request in requests:
        try:
            request = job.lay_out(request, cluster)
            done = job.admit(request, cluster)
        except Exception as error:
            yield _failed(request, error, keep_going=keep_going)
        else:
            if done is None:
                ready.append(request)
            else:
                yield done


def _run(runner: Runner, requests: list[IngestRequest], *, keep_going: bool) -> Iterator[Progress]:
    width = runner.side_by_side(len(requests)) if requests else 0
    if width > 1:
        yield from _run_side_by_side(runner, requests, width, keep_going=keep_going)
        return
    for request in requests:
        yield from _run_one(runner, request, keep_going=keep_going)


def _run_one(runner: Runner, request: IngestRequest, *, keep_going: bool) -> Generator[Progress]:
    try:
        with closing(runner.run(request)) as progress:
            yield from progress
    except Exception as error:
        yield _failed(request, error, keep_going=keep_going)


def _run_side_by_side(
    runner: Runner, requests: list[IngestRequest], width: int, *, keep_going: bool
) -> Iterator[Progress]:
    """Sessions in threads of their own, `width` at a time; their progress as it comes.

    When this iterator is closed, or one error ends all, those that run are stopped and waited for.
    """
    news: queue.SimpleQueue[Progress | Exception | None] = queue.SimpleQueue()
    leaving = threading.Event()

    def work(request: IngestRequest) -> None:
        try:
            with closing(_run_one(runner, request, keep_going=keep_going)) as progress:
                for value in progress:
                    news.put(value)
                    if leaving.is_set():
                        return
        except Exception as error:
            news.put(error)
        finally:
            news.put(None)

    with ThreadPoolExecutor(width, thread_name_prefix="session") as threads:
        try:
            for request in requests:
                threads.submit(work, request)
            running = len(requests)
            while running:
                value = news.get()
                if isinstance(value, Exception):
                    raise value
                if value is None:
                    running -= 1
                else:
                    yield value
        finally:
            leaving.set()
            threads.shutdown(wait=False, cancel_futures=True)


def _failed(request: IngestRequest, error: Exception, *, keep_going: bool) -> Progress:
    """The end of a video that failed; raises the error where it is to end all."""
    if not keep_going or isinstance(error, _CONCERNS_ALL):
        raise error
    logger.debug("stream %s failed", request.source.stream_id, exc_info=error)
    return Progress(request.source.stream_id, state="failed", error=error)
