"""An open stream of the store: where a session's clips, gaps and end go, under its lease.

What happens to the store meanwhile is the matter of `fenced` and `outbox`. Knows of no worker and
no decoder.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from pipeline.ingest.fenced import FencedStream
from pipeline.ingest.identity import TRUNCATED
from pipeline.ingest.outbox import AWAY, Outbox
from pipeline.store.retention import Retention, RetentionRules
from pipeline.values.errors import StoreUnavailable
from pipeline.values.types import Gap, StreamStatus
from workers.names import ClockSource
from workers.seams import SessionReport
from workers.tracing.spans import NO_TRACER, Tracer, trace_clip
from workers.types import CompressedClip, Cursor, StreamGap

logger = logging.getLogger(__name__)

FLUSH_S = 5.0
"""What may be spent on what the spool still holds when a session ends."""
_STATUS: dict[str, StreamStatus] = {"complete": "complete", "stopped": "paused"}


class StoreSink:
    """An open stream; the only writer of it while the lease holds."""

    def __init__(
        self,
        stream: FencedStream,
        retention: RetentionRules | None = None,
        outbox: Outbox | None = None,
        tracer: Tracer = NO_TRACER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._outbox, self._tracer = stream, outbox, tracer
        rules = retention or RetentionRules()
        self._retention = Retention(stream.store, stream.stream_id, rules, clock=clock)

    @property
    def spooled_bytes(self) -> int:
        """Bytes that wait on disk for a store that is away."""
        return 0 if self._outbox is None else self._outbox.waiting_bytes

    def position(self) -> Cursor | None:
        """The last stored clip; complete when the source was read to its end."""
        if self._outbox is not None:
            limit_s = self._stream.store.config.outage_s
            if not self._outbox.flush(limit_s=limit_s):
                raise StoreUnavailable(f"the store is away for more than {limit_s:g} s; start it")
        position = self._stream.position()
        if position is None:
            return None
        return Cursor(
            epoch=position.epoch,
            index=position.index,
            last_pts_s=position.last_pts_s,
            end_s=position.end_s,
            complete=self._stream.info.status == "complete",
        )

    def put(self, clip: CompressedClip) -> int:
        """Store a clip; return the bytes of its record. Errors: `FencedStream.write`, and
        `SinkFull` where there is a spool."""
        with trace_clip(self._tracer, clip):
            return self._put(clip)

    def _put(self, clip: CompressedClip) -> int:
        stream, outbox = self._stream, self._outbox
        if outbox is not None:
            size_bytes = outbox.put_clip(clip)
            if not outbox.is_away:
                self._retention.after_write()
            return size_bytes
        span = stream.write(
            lambda lease, after: stream.store.put_clip(
                clip, lease, fingerprint=stream.info.fingerprint, after=after
            )
        )
        stream.told((span.epoch, span.index))
        self._retention.after_write()
        return span.size_bytes

    def put_open(self, clip: CompressedClip) -> int:
        """Show a live stream's open clip; see `LiveSink.put_open`.

        A store that is away, or takes nothing, is not waited for: the clip itself comes soon, and
        waits.
        """
        stream = self._stream
        if self._outbox is not None and self._outbox.is_away:
            self._outbox.keep_open(clip)
            return 0
        try:
            return stream.write(
                lambda lease, _: stream.store.put_open(
                    clip, lease, fingerprint=stream.info.fingerprint
                ),
                limit_s=0.0,
            )
        except AWAY as error:
            logger.info("%s: the open clip is not shown: %s", clip.stream_id, error)
            return 0

    def recover_open(self) -> Cursor | None:
        """Make a clip of what an earlier writer left open, and say where the stream stands."""
        stream = self._stream
        left = stream.store.get_open(stream.stream_id)
        stands = self.position()
        if left is not None and (stands is None or left.index > stands.index):
            logger.info("%s: clip %d was left open; kept", left.stream_id, left.index)
            self.put(left)
            stands = self.position()
        gaps = stream.store.list_gaps(stream.stream_id)
        if not gaps:
            return stands
        last = max(gaps, key=lambda gap: gap.end_s)
        stands = stands or Cursor(epoch=last.epoch, index=-1, last_pts_s=0.0, end_s=0.0)
        return replace(
            stands, epoch=max(stands.epoch, last.epoch), end_s=max(stands.end_s, last.end_s)
        )

    def tell_clock(self, epoch: int, clock: ClockSource) -> None:
        """Whose wall clock counts from an epoch on; see `LiveSink.tell_clock`."""
        stream = self._stream
        if stream.info.clock == clock:
            return
        stream.info = stream.info.with_clock(epoch, clock)
        try:
            if self._outbox is None or not self._outbox.is_away:
                stream.put_info(limit_s=0.0, updated_at_s=time.time())
        except AWAY as error:  # it goes with what is put of the stream next
            logger.info("%s: its clock is told later: %s", stream.stream_id, error)

    def covered_s(self) -> float:
        """Stream time up to which the store accounts for it; see `LiveSink.covered_s`."""
        return self._stream.covered_s()

    def fix_wall_start(self, wall_start_s: float) -> float:
        """Unix time of stream second 0; see `LiveSink.fix_wall_start`."""
        known_s = self._stream.info.wall_start_s
        if known_s is not None:
            return known_s
        self._stream.put_info(wall_start_s=wall_start_s, updated_at_s=time.time())
        return wall_start_s

    def put_gap(self, gap: StreamGap) -> None:
        """Store a gap."""
        stored = Gap(gap.stream_id, gap.epoch, gap.start_s, gap.end_s, gap.reason)
        if self._outbox is not None:
            self._outbox.put_gap(stored)
            if not self._outbox.is_away:
                self._retention.after_write()
            return
        stream = self._stream
        stream.write(lambda lease, after: stream.store.put_gap(stored, lease, after=after))
        self._retention.after_write()

    def finish(self, report: SessionReport) -> None:
        """Keep how the session ended as the stream's status.

        Where the store is away and there is a spool, the status is left as it is: a stream that
        nobody writes is seen to be interrupted.
        """
        if self._outbox is not None and not self._outbox.flush(limit_s=FLUSH_S):
            logger.warning("%s: its end is not recorded: the store is away", self._stream.stream_id)
            return
        error = None if report.error is None else f"{report.error_code}: {report.error}"
        if report.truncated:
            error = f"{TRUNCATED}the source ended before the end it declares; what came is kept"
        elif report.damaged and error is None:
            error = f"DamagedPackets: {report.damaged} frames were damaged in the source"
        status = _STATUS.get(report.state, "failed")
        self._stream.put_info(status=status, error=error, updated_at_s=time.time())

    def close(self) -> None:
        """Give the stream back."""
        self._retention.close()
        if self._outbox is not None:
            self._outbox.close()
        self._stream.close()
        self._tracer.close()
