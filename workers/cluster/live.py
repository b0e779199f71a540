"""A live session over the workers of a pool: kept up through what passes, for as long as it may.

Its frames share batches with those of all other sessions of the pool: states travel, so that any
worker takes any push.
"""

import logging
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from workers.cluster.pool import Pool
from workers.cluster.pusher import ClusterPusher
from workers.live.session import LiveProgress, LiveSink, run_live_session
from workers.live.spec import LiveSpec
from workers.seams import SinkFactory, StopSignal
from workers.session import Progress
from workers.types import VideoSource

logger = logging.getLogger(__name__)

KEEP_WAIT_S = 10.0
"""Before a session that ended for want of workers or of its store is begun again."""


@runtime_checkable
class Stop(StopSignal, Protocol):
    """A stop signal that can be waited for, as a `threading.Event` can."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait so long, or until it is to end; whether it is."""
        ...


def run_live_on_pool(
    source: VideoSource,
    live: LiveSpec,
    sink: SinkFactory,
    pool: Pool,
    *,
    tenant: str,
    stop: Stop,
) -> Iterator[LiveProgress]:
    """Bring an endless source in until `stop` is set.

    Workers or a store that are away for longer than a session waits end that session; the next one
    goes on where it stood.

    Raises:
        Whatever waiting cannot mend: a source that is refused, a stream that somebody else writes.
    """
    pusher = ClusterPusher(pool, tenant=tenant)
    try:
        while True:
            try:
                yield from _run_once(source, live, sink, pusher, stop)
                return
            except Exception as error:
                if getattr(error, "kind", None) != "unavailable":
                    raise
                logger.warning("stream %s is begun again: %s", source.stream_id, error)
                if stop.wait(KEEP_WAIT_S):
                    raise
    finally:
        pusher.close()


def _run_once(
    source: VideoSource, live: LiveSpec, sink: SinkFactory, pusher: ClusterPusher, stop: Stop
) -> Iterator[LiveProgress]:
    opened = sink.open()
    try:
        if not isinstance(opened, LiveSink):
            raise TypeError(f"{type(opened).__name__} cannot show an open clip")
        yield from run_live_session(
            source, live.settings, pusher.info, pusher, opened, live.open(stop), stop=stop
        )
    finally:
        opened.close()


def as_progress(live: LiveProgress) -> Progress:
    """What any session tells, of a live one."""
    return Progress(
        live.stream_id,
        state=live.state,
        frames=live.encoded,
        clips=live.clips,
        gaps=sum(live.gaps.values()),
        tokens_in=live.tokens_in,
        tokens_out=live.tokens_out,
        stored_bytes=live.stored_bytes,
        position_s=live.position_s,
    )
