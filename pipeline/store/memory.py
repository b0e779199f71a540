"""The in-memory twin of the Redis store: the same contract in one process, nothing kept.

It stores the same records, so that a test against it sees what a stored clip really looks like.
"""

from __future__ import annotations

import secrets
import threading
import time
from typing import TYPE_CHECKING

from pipeline.errors import LeaseLost
from pipeline.store import arrow
from pipeline.store.base import (
    StoreConfig,
    VerifiedReads,
    holds_already,
    in_order,
    lease_held,
    missing_value,
    require_current,
    require_fingerprint,
    require_own,
    require_range,
    span_of,
    unknown_stream,
)
from pipeline.store.keys import Keys
from pipeline.types import (
    ClipSpan,
    DeletedCounts,
    Gap,
    Lease,
    Position,
    StoreHealth,
    StoreStats,
    StreamInfo,
)

if TYPE_CHECKING:
    from workers.types import CompressedClip


class _Stream:
    def __init__(self) -> None:
        self.info: StreamInfo | None = None
        self.rows: dict[tuple[int, int], ClipSpan] = {}
        self.values: dict[tuple[int, int], bytes] = {}
        self.gaps: set[Gap] = set()
        self.position: Position | None = None
        self.lease: Lease | None = None
        self.lease_ends_s = 0.0
        self.fence = 0


class MemoryStore(VerifiedReads):
    """`ClipStore` in a dictionary. One lock, as Redis has one thread."""

    def __init__(self, config: StoreConfig | None = None) -> None:
        self._config = config or StoreConfig("memory://")
        self._keys = Keys(self._config.namespace)
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
                raise lease_held(held)
            stream = self._streams.setdefault(stream_id, _Stream())
            stream.fence += 1
            nonce = secrets.token_hex(8)
            stream.lease = Lease(stream_id, holder, stream.fence, nonce, ttl_s, time.time())
            stream.lease_ends_s = time.monotonic() + ttl_s
            return stream.lease

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

    def put_info(self, info: StreamInfo, *, lease: Lease | None = None) -> None:
        with self._lock:
            if lease is not None:
                self._fenced(info.stream_id, lease)
            stream = self._streams.setdefault(info.stream_id, _Stream())
            if stream.info is not None and stream.rows:
                require_fingerprint(info.stream_id, stream.info.fingerprint, info.fingerprint)
            stream.info = info

    def get_info(self, stream_id: str) -> StreamInfo:
        info = self._known(stream_id).info
        assert info is not None
        return info

    def list_streams(self) -> list[str]:
        return sorted(name for name, stream in self._streams.items() if stream.info is not None)

    def delete_stream(self, stream_id: str) -> DeletedCounts:
        with self._lock:
            stream = self._known(stream_id)
            del self._streams[stream_id]
            size_bytes = sum(span.size_bytes for span in stream.rows.values())
            return DeletedCounts(len(stream.rows), len(stream.gaps), size_bytes)

    def put_clip(self, clip: CompressedClip, lease: Lease, *, fingerprint: str) -> ClipSpan:
        blob = arrow.encode_clip(clip, fingerprint=fingerprint, dtype=self._config.dtype)
        return self._put(span_of(clip, len(blob)), blob, clip.pts_s[-1], fingerprint, lease)

    def put_record(self, key: str, blob: bytes, lease: Lease) -> ClipSpan:
        record = arrow.decode_clip(blob, key=key)
        span = span_of(record.clip, len(blob))
        return self._put(span, blob, record.clip.pts_s[-1], record.fingerprint, lease)

    def _put(
        self, span: ClipSpan, blob: bytes, last_pts_s: float, fingerprint: str, lease: Lease
    ) -> ClipSpan:
        with self._lock:
            stream = self._fenced(span.stream_id, lease)
            info = self.get_info(span.stream_id)
            require_fingerprint(span.stream_id, info.fingerprint, fingerprint)
            at = (span.epoch, span.index)
            if holds_already(stream.values.get(at), blob, span):
                return stream.rows[at]
            stream.values[at], stream.rows[at] = blob, span
            last = stream.position
            if last is None or at > (last.epoch, last.index):
                stream.position = Position(*at, span.end_s, last_pts_s)
            return span

    def put_gap(self, gap: Gap, lease: Lease) -> None:
        with self._lock:
            self._fenced(gap.stream_id, lease).gaps.add(gap)

    def get_position(self, stream_id: str) -> Position | None:
        stream = self._streams.get(stream_id)
        return stream.position if stream else None

    def list_spans(
        self, stream_id: str, start_s: float | None = None, end_s: float | None = None
    ) -> list[ClipSpan]:
        require_range(start_s, end_s)
        with self._lock:
            spans = list(self._known(stream_id).rows.values())
        return sorted((span for span in spans if span.overlaps(start_s, end_s)), key=in_order)

    def list_gaps(self, stream_id: str) -> list[Gap]:
        stream = self._streams.get(stream_id, _Stream())
        return sorted(stream.gaps, key=lambda gap: (gap.start_s, gap.end_s))

    def get_record(self, span: ClipSpan) -> bytes:
        stream = self._streams.get(span.stream_id, _Stream())
        blob = stream.values.get((span.epoch, span.index))
        if blob is None:
            raise missing_value(span)
        return blob

    def stats(self) -> StoreStats:
        used = sum(
            len(blob) for stream in self._streams.values() for blob in stream.values.values()
        )
        return StoreStats(len(self.list_streams()), used, None)

    def check(self) -> StoreHealth:
        return StoreHealth("memory", ("nothing is kept when the process ends; use embedded://",))

    def close(self) -> None:
        """Nothing to close; the clips stay until the object goes."""

    def _known(self, stream_id: str) -> _Stream:
        self._keys.info(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None or stream.info is None:
            raise unknown_stream(stream_id)
        return stream

    def _fenced(self, stream_id: str, lease: Lease) -> _Stream:
        require_own(stream_id, lease)
        require_current(self.get_lease(stream_id), lease)
        return self._streams[stream_id]
