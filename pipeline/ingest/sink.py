"""How a stream is opened for writing: its lease taken, what is known of it compared and made known.

`StoreSinkFactory` is picklable and is opened where the session runs; `open_stream.StoreSink` is
what a session writes to. Knows of no worker and no decoder.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pipeline.ingest.again import has_failed_clips, read_again
from pipeline.ingest.fenced import FencedStream
from pipeline.ingest.identity import (
    find_change,
    known_info,
    require_same_settings,
    require_same_source,
)
from pipeline.ingest.lease import new_writer, take_lease
from pipeline.ingest.open_stream import StoreSink
from pipeline.ingest.outbox import Outbox
from pipeline.store import ClipStore, StoreConfig, open_store
from pipeline.store.retention import RetentionRules
from pipeline.store.spool import SpoolRules, SpoolUse
from pipeline.values.types import Lease, StreamInfo, StreamSegment
from workers.tracing.open import TraceSettings, open_tracer


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
    given: Lease | None = None
    """Its lease, where the writer has taken it already."""
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
    spool_use: SpoolUse | None = None
    """How full that is, as all streams of this process know it; not for another process."""
    segments: tuple[StreamSegment, ...] = ()
    """Files that become part of a joined stream."""
    tracing: TraceSettings | None = None
    """Where a trace of every clip goes."""
    clock: Callable[[], float] = time.monotonic
    """Seconds, by which the rules of retention are applied again."""

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
                given=self.given,
            )
            try:
                info = self._begin(store, lease)
                stream = FencedStream(store, lease, info, writer=self.writer, heal=self.heal)
                outbox = self._outbox(stream)
                tracer = open_tracer(self.tracing)
                return StoreSink(stream, self.retention, outbox, tracer, self.clock)
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
        store = (self.heal or self.store).url
        outbox = Outbox(stream, self.spool, store=store, use=self.spool_use)
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
        asked = replace(asked, clocks=known.clocks)
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
