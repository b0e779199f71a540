"""The in-memory twin of the Redis store: the same contract in one process, nothing kept.

It stores the same records, so that a test against it sees what a stored clip really looks like.
"""

import secrets
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from pipeline.store import arrow
from pipeline.store.checks import (
    Place,
    in_order,
    lease_held_error,
    may_take,
    require_current,
    require_fingerprint,
    require_not_behind,
    require_own,
    require_range,
    unknown_stream_error,
    unknown_watch_error,
    watch_exists_error,
)
from pipeline.store.cold import open_cold
from pipeline.store.cold.tidying import files_of, remove_all, remove_unused
from pipeline.store.cold.tier import require_cold
from pipeline.store.config import StoreConfig
from pipeline.store.envelope import digest_of
from pipeline.store.expiry import Removal, change_gaps, holds_clip, reach_of
from pipeline.store.keys import Keys
from pipeline.store.levels import Node, nodes_over
from pipeline.store.reads import VerifiedReads
from pipeline.store.writes import REFILLED, Exchange, NewRecord, RecordWrites, span_of
from pipeline.values.errors import CorruptValue, LeaseLost
from pipeline.values.types import (
    EXPIRED,
    ClipSpan,
    DeletedCounts,
    FadedCounts,
    Gap,
    Lease,
    Position,
    StoreHealth,
    StoreStats,
    StreamInfo,
    StreamOverview,
    StreamSegment,
    StreamTotals,
)
from pipeline.values.watch import Event, Watch, WatchState


class _Stream:
    def __init__(self) -> None:
        self.info: StreamInfo | None = None
        self.rows: dict[Place, ClipSpan] = {}
        self.values: dict[Place, bytes] = {}
        self.levels: dict[Node, bytes] = {}
        self.gaps: dict[tuple[int, float, str], Gap] = {}
        self.segments: dict[str, StreamSegment] = {}
        self.position: Position | None = None
        self.lease: Lease | None = None
        self.lease_ends_s = 0.0
        self.fence = 0
        self.open: tuple[Place, bytes] | None = None
        self.watches: dict[str, tuple[Watch, WatchState]] = {}
        self.events: list[Event] = []
        self.mover = ""


class MemoryStore(RecordWrites, VerifiedReads):
    """`ClipStore` in a dictionary. One lock, as Redis has one thread."""

    def __init__(self, config: StoreConfig | None = None) -> None:
        self._config = config or StoreConfig("memory://")
        self._keys = Keys(self._config.namespace)
        self.cold = open_cold(self._config)
        self._streams: dict[str, _Stream] = {}
        self._lock = threading.RLock()

    @property
    def config(self) -> StoreConfig:
        return self._config

    def acquire_lease(
        self, stream_id: str, holder: str, *, ttl_s: float = 30.0, takeover: bool = False
    ) -> Lease:
        with self._lock:
            held = self.get_lease(stream_id)
            if held is not None and not takeover:
                raise lease_held_error(held)
            stream = self._streams.setdefault(stream_id, _Stream())
            stream.fence += 1
            nonce = secrets.token_hex(8)
            stream.lease = Lease(stream_id, holder, stream.fence, nonce, ttl_s, time.time())
            stream.lease_ends_s = time.monotonic() + ttl_s
            return stream.lease

    def acquire_leases(
        self, stream_ids: Collection[str], holder: str, *, ttl_s: float = 30.0, kin: str
    ) -> dict[str, Lease]:
        with self._lock:
            return {
                name: self.acquire_lease(name, holder, ttl_s=ttl_s, takeover=True)
                for name in stream_ids
                if may_take(self.get_lease(name), kin)
            }

    def renew_lease(self, lease: Lease) -> None:
        with self._lock:
            self._fenced(lease.stream_id, lease).lease_ends_s = time.monotonic() + lease.ttl_s

    def release_lease(self, lease: Lease) -> None:
        with self._lock:
            try:
                self._fenced(lease.stream_id, lease).lease = None
            except LeaseLost:
                return  # no longer ours: nothing to give back

    def get_lease(self, stream_id: str) -> Lease | None:
        self._keys.lease(stream_id)  # refuses what is no stream id
        stream = self._streams.get(stream_id)
        alive = stream is not None and time.monotonic() < stream.lease_ends_s
        return stream.lease if stream is not None and alive else None

    def put_info(
        self, info: StreamInfo, *, lease: Lease | None = None, after: Place | None = None
    ) -> None:
        with self._lock:
            if lease is not None:
                self._fenced(info.stream_id, lease)
            stream = self._streams.setdefault(info.stream_id, _Stream())
            if stream.info is not None and stream.rows:
                require_fingerprint(info.stream_id, stream.info.fingerprint, info.fingerprint)
            require_not_behind(info.stream_id, stream.position, after)
            stream.info = info

    def put_watch(self, watch: Watch, state: WatchState) -> None:
        with self._lock:
            watches = self._known(watch.stream_id).watches
            if watch.watch_id in watches:
                raise watch_exists_error(watch)
            watches[watch.watch_id] = watch, state

    def list_watches(self, stream_id: str) -> list[tuple[Watch, WatchState]]:
        with self._lock:
            stream = self._streams.get(stream_id)
            return (
                [] if stream is None else [stream.watches[name] for name in sorted(stream.watches)]
            )

    def remove_watch(self, stream_id: str, watch_id: str) -> None:
        with self._lock:
            stream = self._streams.get(stream_id)
            if stream is None or stream.watches.pop(watch_id, None) is None:
                raise unknown_watch_error(stream_id, watch_id)

    def advance_watch(
        self, watch: Watch, before: WatchState, after: WatchState, event: Event | None
    ) -> bool:
        with self._lock:
            stream = self._streams.get(watch.stream_id)
            if stream is None or stream.watches.get(watch.watch_id) != (watch, before):
                return False
            stream.watches[watch.watch_id] = watch, after
            stream.events += [event] if event is not None else []
            return True

    def list_events(
        self, stream_id: str, *, after: str | None = None, limit: int = 100
    ) -> list[tuple[str, Event]]:
        with self._lock:
            stream = self._streams.get(stream_id)
            begin = 0 if after is None else int(after)
            found = [] if stream is None else stream.events[begin : begin + limit]
            return [(str(begin + number), event) for number, event in enumerate(found, 1)]

    def get_info(self, stream_id: str) -> StreamInfo:
        info = self._known(stream_id).info
        assert info is not None
        return info

    def get_overview(self, stream_id: str) -> StreamOverview:
        with self._lock:
            stream = self._known(stream_id)
            totals = StreamTotals().with_gaps(stream.gaps.values())
            for span in stream.rows.values():
                totals = totals.plus(span)
            writer = self.get_lease(stream_id)
            info = self.get_info(stream_id)
            return StreamOverview(info, totals, len(stream.gaps), stream.position, writer)

    def list_streams(self) -> list[str]:
        with self._lock:
            return sorted(name for name, stream in self._streams.items() if stream.info)

    def delete_stream(self, stream_id: str, *, deep: bool = False) -> DeletedCounts:
        with self._lock:
            stream = self._known(stream_id)
            del self._streams[stream_id]
            size_bytes = sum(span.size_bytes for span in stream.rows.values())
            remove_all(self, stream_id)
            return DeletedCounts(len(stream.rows), len(stream.gaps), size_bytes)

    def delete_range(
        self,
        stream_id: str,
        start_s: float | None = None,
        end_s: float | None = None,
        *,
        epoch: int | None = None,
    ) -> DeletedCounts:
        require_range(start_s, end_s)
        with self._lock:
            stream = self._known(stream_id)
            whole = Removal(start_s, end_s, epoch, (), is_last=True)
            spans = tuple(span for span in stream.rows.values() if whole.takes(span))
            removal = replace(whole, spans=spans)
            reach_s = reach_of(removal)
            gaps = [gap for gap in self.list_gaps(stream_id) if gap.start_s <= reach_s]
            change = change_gaps(removal, gaps)
            for span in spans:
                del stream.rows[in_order(span)]
                stream.values.pop(in_order(span), None)
                _drop_levels(stream, span)
            for gap in change.drop:
                del stream.gaps[gap.identity]
            stream.gaps.update({gap.identity: gap for gap in change.put})
            remove_unused(self, stream_id, files_of(spans))
            num_gaps = sum(gap.reason != EXPIRED for gap in change.drop)
            return DeletedCounts(len(spans), num_gaps, sum(span.size_bytes for span in spans))

    def put_gap(self, gap: Gap, lease: Lease, *, after: Place | None = None) -> None:
        with self._lock:
            stream = self._writable(gap.stream_id, lease, after)
            stream.gaps[gap.identity] = gap

    def _put_open(self, record: NewRecord, lease: Lease) -> None:
        with self._lock:
            stream = self._writable(record.span.stream_id, lease, None)
            stored = self.get_info(record.span.stream_id).fingerprint
            require_fingerprint(record.span.stream_id, stored, record.fingerprint)
            stream.open = record.place, record.blob

    def get_open_record(self, stream_id: str) -> tuple[Place, bytes] | None:
        """As `VerifiedReads.get_open_record`."""
        stream = self._streams.get(stream_id)
        return stream.open if stream else None

    def remove_gap(self, gap: Gap, lease: Lease) -> None:
        with self._lock:
            self._writable(gap.stream_id, lease, None).gaps.pop(gap.identity, None)

    def rewind(
        self, lease: Lease, *, position: Position | None, drop: Iterable[ClipSpan] = ()
    ) -> None:
        with self._lock:
            stream = self._writable(lease.stream_id, lease, None)
            for span in drop:
                stream.rows.pop(in_order(span), None)
                stream.values.pop(in_order(span), None)
                _drop_levels(stream, span)
            stream.position = position

    def _put(self, record: NewRecord, lease: Lease, after: Place | None) -> ClipSpan:
        span, at = record.span, record.place
        with self._lock:
            stream = self._writable(span.stream_id, lease, after)
            stored = self.get_info(span.stream_id).fingerprint
            require_fingerprint(span.stream_id, stored, record.fingerprint)
            if holds_clip(stream.gaps.values(), span.index):
                pass  # it was removed: it is not stored again
            elif record.held_as(self._stored(stream, at)) is not None:
                span = stream.rows[at]
            else:
                stream.values[at], stream.rows[at] = record.blob, span
                _drop_levels(stream, span)
            stream.open = None
            last = stream.position
            if last is None or at > (last.epoch, last.index):
                stream.position = record.position
            stream.gaps = {k: gap for k, gap in stream.gaps.items() if not _is_filled(gap, span)}
            return span

    def _stored(self, stream: _Stream, at: Place) -> bytes | None:
        row = stream.rows.get(at)
        if row is not None and row.cold is not None:
            return require_cold(self.cold, row).read(row)
        return stream.values.get(at)

    def exchange(self, stream_id: str, exchanges: Sequence[Exchange]) -> FadedCounts:
        counts = FadedCounts(0, 0, 0)
        with self._lock:
            stream = self._known(stream_id)
            for one in exchanges:
                at, span = in_order(one.span), one.span
                stored = stream.values.get(at)
                if stream.rows.get(at) != span or stored is None or digest_of(stored) != one.digest:
                    continue
                stream.values[at] = one.blob
                stream.rows[at] = new = span_of(one.clip, len(one.blob))
                _drop_levels(stream, span)
                counts += FadedCounts(
                    1, span.num_tokens - new.num_tokens, span.size_bytes - new.size_bytes
                )
            return counts

    def measure_levels(self, nodes: Iterable[Node]) -> dict[Node, int]:
        """As `VerifiedReads.measure_levels`."""
        return {node: len(blob) for node, blob in self.iter_level_records(nodes) if blob}

    def list_digests(self, nodes: Iterable[Node]) -> dict[Node, str]:
        """As `VerifiedReads.list_digests`."""
        read = self.iter_level_records(nodes)
        return {node: digest_of(blob) for node, blob in read if blob}

    def iter_level_records(self, nodes: Iterable[Node]) -> Iterator[tuple[Node, bytes | None]]:
        """As `VerifiedReads.iter_level_records`."""
        for node in nodes:
            stream = self._streams.get(node.stream_id, _Stream())
            clip = stream.values.get((node.epoch, node.first))
            yield node, stream.levels.get(node) if node.level else clip

    def put_level(
        self, node: Node, blob: bytes, of: dict[Node, str | None], cold: Sequence[ClipSpan] = ()
    ) -> bool:
        arrow.decode_clip(blob, key=node.record_id)
        with self._lock:
            there = dict(self.iter_level_records(of))
            digests = {child: there[child] and digest_of(there[child] or b"") for child in of}
            rows = self._known(node.stream_id).rows
            if digests != of or any(rows.get(in_order(span)) != span for span in cold):
                return False
            self._streams[node.stream_id].levels[node] = blob
            return True

    def remove_levels(self, nodes: Iterable[Node]) -> None:
        with self._lock:
            for node in nodes:
                self._known(node.stream_id).levels.pop(node, None)

    def get_position(self, stream_id: str) -> Position | None:
        stream = self._streams.get(stream_id)
        return stream.position if stream else None

    def iter_rows(
        self, stream_id: str, start_s: float | None = None, end_s: float | None = None
    ) -> Iterator[ClipSpan | CorruptValue]:
        """As `VerifiedReads.iter_rows`; every row of this one reads."""
        require_range(start_s, end_s)
        with self._lock:
            spans = list(self._known(stream_id).rows.values())
        found = (span for span in spans if span.overlaps(start_s, end_s))
        yield from sorted(found, key=lambda span: (span.start_s, in_order(span)))

    def list_gaps(self, stream_id: str) -> list[Gap]:
        stream = self._streams.get(stream_id, _Stream())
        return sorted(stream.gaps.values(), key=lambda gap: (gap.start_s, gap.end_s))

    def list_segments(self, stream_id: str) -> list[StreamSegment]:
        stream = self._streams.get(stream_id, _Stream())
        return sorted(stream.segments.values(), key=lambda segment: segment.place)

    def put_segments(self, segments: Iterable[StreamSegment], lease: Lease) -> None:
        with self._lock:
            stream = self._writable(lease.stream_id, lease, None)
            stream.segments.update({segment.path: segment for segment in segments})

    def get_value(self, span: ClipSpan) -> bytes | None:
        """As `VerifiedReads.get_value`."""
        stream = self._streams.get(span.stream_id, _Stream())
        return stream.values.get((span.epoch, span.index))

    def list_hot(
        self, stream_id: str, *, most_clips: int, from_start: bool = False
    ) -> list[ClipSpan]:
        hot = (span for span in self.iter_spans(stream_id) if span.cold is None)
        return list(islice(hot, most_clips))

    def begin_move(self, stream_id: str) -> str:
        with self._lock:
            self._known(stream_id).mover = token = secrets.token_hex(8)
            return token

    def holds_move(self, stream_id: str, token: str) -> bool:
        return self._streams.get(stream_id, _Stream()).mover == token

    def move_clips(
        self, stream_id: str, moves: Sequence[tuple[ClipSpan, ClipSpan]], token: str
    ) -> int:
        with self._lock:
            if not self.holds_move(stream_id, token):
                return 0
            stream, num_moved = self._streams[stream_id], 0
            for span, new in moves:
                if stream.rows.get(in_order(span)) == span:
                    stream.rows[in_order(span)] = new
                    stream.values.pop(in_order(span), None)
                    if new.keep != span.keep:
                        _drop_levels(stream, span)
                    num_moved += 1
            return num_moved

    def stats(self) -> StoreStats:
        with self._lock:
            streams = list(self._streams.values())
        used = sum(len(blob) for stream in streams for blob in stream.values.values())
        return StoreStats(len(self.list_streams()), used, None)

    def check(self) -> StoreHealth:
        return StoreHealth("memory", ("nothing is kept when the process ends; use embedded://",))

    def close(self) -> None:
        """Nothing to close; the clips stay until the object goes."""

    def _known(self, stream_id: str) -> _Stream:
        self._keys.info(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None or stream.info is None:
            raise unknown_stream_error(stream_id)
        return stream

    def _fenced(self, stream_id: str, lease: Lease) -> _Stream:
        require_own(stream_id, lease)
        require_current(self.get_lease(stream_id), lease)
        return self._streams[stream_id]

    def _writable(self, stream_id: str, lease: Lease, after: Place | None) -> _Stream:
        """The stream, when this writer may write: as `redis.clips` has it."""
        self._fenced(stream_id, lease)
        stream = self._known(stream_id)
        require_not_behind(stream_id, stream.position, after)
        return stream


def _drop_levels(stream: _Stream, span: ClipSpan) -> None:
    for node in nodes_over(span.stream_id, in_order(span)):
        stream.levels.pop(node, None)


def _is_filled(gap: Gap, span: ClipSpan) -> bool:
    is_inside = gap.epoch == span.epoch and span.start_s <= gap.start_s and gap.end_s <= span.end_s
    return gap.reason == REFILLED and is_inside
