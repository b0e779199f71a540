"""A stream's compressed clips into the store, under a lease: what a session writes to.

`StoreSinkFactory` is picklable and is opened where the session runs. What happens to the store
meanwhile is `fenced`'s matter. Knows of no worker and no decoder.
"""

import logging
import time
from dataclasses import dataclass, field, replace

from pipeline.ingest.again import has_failed_clips, read_again
from pipeline.ingest.fenced import FencedStream
from pipeline.ingest.identity import (
    TRUNCATED,
    find_change,
    known_info,
    require_same_settings,
    require_same_source,
)
from pipeline.ingest.lease import new_writer, take_lease
from pipeline.ingest.outbox import AWAY, Outbox
from pipeline.store import ClipStore, StoreConfig, open_store
from pipeline.store.retention import Retention, RetentionRules
from pipeline.store.spool import SpoolRules
from pipeline.values.errors import StoreUnavailable
from pipeline.values.types import Gap, Lease, StreamInfo, StreamSegment, StreamStatus
from workers.seams import SessionReport
from workers.tracing.open import TraceSettings, open_tracer
from workers.tracing.spans import NO_TRACER, Tracer, trace_clip
from workers.types import CompressedClip, Cursor, StreamGap

logger = logging.getLogger(__name__)

FLUSH_S = 5.0
"""What may be spent on what the spool still holds when a session ends."""

_STATUS: dict[str, StreamStatus] = {"complete": "complete", "stopped": "paused"}


@dataclass(frozen=True)
class StoreSinkFactory:
    """All it takes to write one stream, from any process of the cluster."""

    store: StoreConfig
    info: StreamInfo
    """As the stream is to be known; of an existing stream only the status changes."""
    lease_s: float = 30.0
    writer: str = field(default_factory=new_writer)
    """Names this writer: one that starts again takes over from itself."""
    kin: str | None = None
    """How names of writers begin from whom it takes over: see `take_lease`."""
    moved: bool = False
    """Accept that an existing stream is known under another source."""
    endless: bool = False
    """When it began only the first run could see: a later one goes on from there."""
    path: str | None = None
    """The source's file, as it is found where the session runs."""
    heal: StoreConfig | None = None
    """Opens the same store, and starts its server again where that is ours to do."""
    retention: RetentionRules | None = None
    """What is removed of the store beside the writing."""
    first_fingerprint: str | None = None
    """Under which the first release would have stored these tokens."""
    spool: SpoolRules | None = None
    """Where clips are kept while the store is away; without it a writer waits."""
    segments: tuple[StreamSegment, ...] = ()
    """Files that become part of a joined stream."""
    tracing: TraceSettings | None = None
    """Where a trace of every clip goes."""

    def open(self) -> "StoreSink":
        """Take the lease and make the stream known.

        Raises:
            LeaseHeld: somebody else writes the stream.
            FingerprintMismatch: it holds tokens of another model or other settings.
            Conflict: it came from another source.
        """
        store = open_store(self.store)
        try:
            lease = take_lease(
                store,
                self.info.stream_id,
                writer=self.writer,
                lease_s=self.lease_s,
                kin=self.kin,
            )
            try:
                info = self._begin(store, lease)
                stream = FencedStream(store, lease, info, writer=self.writer, heal=self.heal)
                outbox = self._outbox(stream)
                return StoreSink(stream, self.retention, outbox, open_tracer(self.tracing))
            except BaseException:
                store.release_lease(lease)
                raise
        except BaseException:
            store.close()
            raise

    def _outbox(self, stream: FencedStream) -> Outbox | None:
        """With what an earlier writer could not store any more in the store."""
        if self.spool is None:
            return None
        outbox = Outbox(stream, self.spool, store=(self.heal or self.store).url)
        outbox.replay()
        return outbox

    def _begin(self, store: ClipStore, lease: Lease) -> StreamInfo:
        asked, known = self.info, known_info(store, self.info.stream_id)
        file, change = None, "grown" if self.segments else None
        if self.path is not None:
            file, change = find_change(known or asked, self.path)
        asked = replace(asked, file=file, writer=lease.holder)
        now_s = time.time()
        if known is None:
            store.put_info(replace(asked, created_at_s=now_s, updated_at_s=now_s), lease=lease)
            store.put_segments(self.segments, lease)
            return store.get_info(asked.stream_id)
        if self.endless and asked.wall_start_s is None:
            asked = replace(asked, wall_start_s=known.wall_start_s)
        asked = replace(asked, fingerprint=self._accepted(known))
        has_more, position = False, store.get_position(known.stream_id)
        if position is not None:
            has_more = require_same_source(known, asked, moved=self.moved, change=change)
            if known.fingerprint != asked.fingerprint:
                require_same_settings(known, asked)
        is_same = known.fingerprint == asked.fingerprint
        done = known.status == "complete" and not has_failed_clips(store, known.stream_id)
        if done and is_same and not has_more:
            return known
        if known.made_with is None and position is not None and position.epoch > 0:
            # Of the first release: that its epochs may count their own seconds is told by this.
            asked = replace(asked, made_with=None, settings=known.settings)
        info = replace(asked, created_at_s=known.created_at_s, updated_at_s=now_s)
        store.put_info(info, lease=lease)
        store.put_segments(self.segments, lease)
        read_again(store, lease)
        return info

    def _accepted(self, known: StreamInfo) -> str:
        """A stream that the first release began with these settings goes on as it was begun."""
        same = known.settings.get("retention") == self.info.settings.get("retention")
        if same and known.fingerprint and known.fingerprint == self.first_fingerprint:
            return known.fingerprint
        return self.info.fingerprint


class StoreSink:
    """An open stream; the only writer of it while the lease holds."""

    def __init__(
        self,
        stream: FencedStream,
        retention: RetentionRules | None = None,
        outbox: Outbox | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._stream, self._outbox, self._tracer = stream, outbox, tracer
        self._retention = Retention(stream.store, stream.stream_id, retention or RetentionRules())

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
