"""What every store does, and the parts that are the same in all of them.

`ClipStore` is the seam the rest of the pipeline is written against; `redis.RedisStore` is the real
one, `memory.MemoryStore` its in-memory twin for tests and dry runs, and one set of contract tests
runs on both. Both put records (`arrow.encode_clip`) beside a time index (`ClipSpan`). Nothing here
knows of Redis.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeAlias

from pipeline.errors import (
    Conflict,
    CorruptValue,
    FingerprintMismatch,
    InvalidQuery,
    LeaseHeld,
    LeaseLost,
    MissingValue,
    SchemaMismatch,
    UnknownStream,
)
from pipeline.store import arrow
from pipeline.store.keys import DEFAULT_NAMESPACE, record_id
from pipeline.types import (
    ClipSpan,
    DeletedCounts,
    Gap,
    Lease,
    Position,
    StoreHealth,
    StoreStats,
    StreamInfo,
    VerifyReport,
    without_credentials,
)

if TYPE_CHECKING:
    from pipeline.store.arrow import ClipRecord, TokenDtype
    from workers.types import CompressedClip

logger = logging.getLogger(__name__)

OnCorrupt = Literal["raise", "skip"]

Stored = bytes | memoryview | CorruptValue
"""What a store has of a clip, unverified; the error where it has nothing that could be one."""
Read: TypeAlias = "ClipRecord | CorruptValue | SchemaMismatch"
"""What reading one clip gave."""


@dataclass(frozen=True)
class StoreConfig:
    """Everything needed to open a store: small, picklable, the same on every machine."""

    url: str
    """`embedded:///folder`, `unix:///socket`, `redis://`, `rediss://` or `memory://`."""
    namespace: str = DEFAULT_NAMESPACE
    dtype: TokenDtype = "bf16"
    """How tokens of new clips are stored; every record says its own."""
    timeout_s: float = 5.0
    """Longest wait for one answer of the server."""
    connect_timeout_s: float = 2.0
    appendfsync: Literal["everysec", "always"] = "everysec"
    """Embedded server only: what a power cut may cost, up to a second of clips or none."""

    def __repr__(self) -> str:
        return f"StoreConfig({without_credentials(self.url)}, {self.namespace}, {self.dtype})"


class ClipStore(Protocol):
    """Compressed clips by stream and time. Every write is idempotent; all raise `StoreError`s.

    Streams are written under a lease, one writer at a time: a write with a lease that ended or was
    taken over raises `LeaseLost` and changes nothing. Reads need no lease and see whole clips only.
    """

    @property
    def config(self) -> StoreConfig:
        """What opens this same data again, from another process of this machine."""
        ...

    def acquire_lease(
        self, stream_id: str, holder: str, *, ttl_s: float = 30.0, takeover: bool = False
    ) -> Lease:
        """The right to write `stream_id`. `LeaseHeld` names who has it, unless `takeover`."""
        ...

    def renew_lease(self, lease: Lease) -> None:
        """`ttl_s` more from now. `LeaseLost` when it ended before."""
        ...

    def release_lease(self, lease: Lease) -> None:
        """Give it back; nothing happens when it is no longer ours."""
        ...

    def get_lease(self, stream_id: str) -> Lease | None:
        """Who writes the stream now."""
        ...

    def put_info(self, info: StreamInfo, *, lease: Lease | None = None) -> None:
        """Make the stream, or change what is known of it; fenced where a lease is given.

        `FingerprintMismatch` when the stream has clips of another fingerprint.
        """
        ...

    def get_info(self, stream_id: str) -> StreamInfo:
        """`UnknownStream` when there is none."""
        ...

    def list_streams(self) -> list[str]:
        """Ids in alphabetical order."""
        ...

    def put_clip(self, clip: CompressedClip, lease: Lease, *, fingerprint: str) -> ClipSpan:
        """Store value, index row and position in one transaction.

        `Conflict` when the key holds another clip, `FingerprintMismatch` when the stream's is
        another, `UnknownStream` before the first `put_info`.
        """
        ...

    def put_record(self, key: str, blob: bytes, lease: Lease) -> ClipSpan:
        """The same for a record as `get_record` or an import gives it."""
        ...

    def put_gap(self, gap: Gap, lease: Lease) -> None:
        """Record that a stretch of time has no clip."""
        ...

    def get_position(self, stream_id: str) -> Position | None:
        """The end of the last stored clip; None before the first."""
        ...

    def list_spans(
        self, stream_id: str, start_s: float | None = None, end_s: float | None = None
    ) -> list[ClipSpan]:
        """Every clip with a part in [start_s, end_s), in order; reads the index alone."""
        ...

    def list_gaps(self, stream_id: str) -> list[Gap]:
        """In order of time."""
        ...

    def get_record(self, span: ClipSpan) -> bytes:
        """The record as stored, unverified. `MissingValue` when it is gone."""
        ...

    def get_clip(self, span: ClipSpan) -> CompressedClip:
        """One clip, verified."""
        ...

    def iter_clips(
        self, spans: Iterable[ClipSpan], *, on_corrupt: OnCorrupt = "raise"
    ) -> Iterator[CompressedClip]:
        """Clips in the order of `spans`, verified, a few values in memory at a time.

        With `skip`, a clip that cannot be read is logged and left out: compare with `spans`.
        """
        ...

    def verify(self, stream_id: str) -> VerifyReport:
        """Read and check every record of the stream."""
        ...

    def delete_stream(self, stream_id: str) -> DeletedCounts:
        """Fence off any writer and remove everything of the stream. `UnknownStream`."""
        ...

    def stats(self) -> StoreStats: ...

    def check(self) -> StoreHealth:
        """Ask the server, and say what is set up so that records could be lost or read."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None: ...


class VerifiedReads(ABC):
    """The reading half of a store, from `get_record` and `list_spans` alone."""

    @abstractmethod
    def get_record(self, span: ClipSpan) -> bytes:
        """As `ClipStore.get_record`."""

    @abstractmethod
    def list_spans(
        self, stream_id: str, start_s: float | None = None, end_s: float | None = None
    ) -> list[ClipSpan]:
        """As `ClipStore.list_spans`."""

    @abstractmethod
    def close(self) -> None:
        """As `ClipStore.close`."""

    def get_clip(self, span: ClipSpan) -> CompressedClip:
        return decode_span(span, self.get_record(span)).clip

    def iter_clips(
        self, spans: Iterable[ClipSpan], *, on_corrupt: OnCorrupt = "raise"
    ) -> Iterator[CompressedClip]:
        for span, read in self._iter_reads(spans):
            if not isinstance(read, (CorruptValue, SchemaMismatch)):
                yield read.clip
            elif on_corrupt == "raise":
                raise read
            else:
                logger.warning("%s clip %d left out: %s", span.stream_id, span.index, read)

    def verify(self, stream_id: str) -> VerifyReport:
        """Read every clip of a stream and report those that are not what was written."""
        spans = self.list_spans(stream_id)
        return VerifyReport(
            stream_id=stream_id,
            num_clips=len(spans),
            num_tokens=sum(span.num_tokens for span in spans),
            size_bytes=sum(span.size_bytes for span in spans),
            corrupt=tuple(
                (span, str(read))
                for span, read in self._iter_reads(spans)
                if isinstance(read, (CorruptValue, SchemaMismatch))
            ),
        )

    def _iter_records(self, spans: Iterable[ClipSpan]) -> Generator[tuple[ClipSpan, Stored]]:
        """The records of `spans`, unverified; a store with a faster way than GETs overrides it."""
        for span in spans:
            yield span, self._record_of(span)

    def _record_of(self, span: ClipSpan) -> Stored:
        try:
            return self.get_record(span)
        except CorruptValue as error:
            return error

    def _iter_reads(self, spans: Iterable[ClipSpan]) -> Iterator[tuple[ClipSpan, Read]]:
        with closing(self._iter_records(spans)) as records:
            for span, stored in records:
                try:
                    if isinstance(stored, CorruptValue):
                        raise stored
                    read = decode_span(span, stored)
                except (CorruptValue, SchemaMismatch) as error:
                    read = error
                yield span, read

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def decode_span(span: ClipSpan, blob: bytes | memoryview) -> ClipRecord:
    """The verified record of an index row, which it must agree with."""
    record = arrow.decode_clip(blob, key=record_id(span.stream_id, span.epoch, span.index))
    if (record.clip.start_s, record.clip.end_s) != (span.start_s, span.end_s):
        raise CorruptValue(
            f"{record_id(span.stream_id, span.epoch, span.index)}: the record runs from "
            f"{record.clip.start_s} to {record.clip.end_s} s, the index says {span.start_s} to "
            f"{span.end_s}; delete and ingest again"
        )
    return record


def span_of(clip: CompressedClip, size_bytes: int) -> ClipSpan:
    """The index row of a clip whose record has `size_bytes`."""
    return ClipSpan(
        stream_id=clip.stream_id,
        epoch=int(clip.epoch),
        index=int(clip.index),
        start_s=float(clip.start_s),
        end_s=float(clip.end_s),
        num_tokens=len(clip.tokens),
        size_bytes=size_bytes,
        wall_start_s=None if clip.wall_start_s is None else float(clip.wall_start_s),
    )


def missing_value(span: ClipSpan) -> MissingValue:
    """The index names it, the store does not have it."""
    return MissingValue(
        f"{record_id(span.stream_id, span.epoch, span.index)}: the index names this clip but its "
        "value is gone; ingest again to restore it"
    )


def require_range(start_s: float | None, end_s: float | None) -> None:
    """Raise `InvalidQuery` for NaN."""
    if any(bound is not None and math.isnan(bound) for bound in (start_s, end_s)):
        raise InvalidQuery(f"range {start_s} to {end_s} s is not a number; pass seconds or nothing")


def in_order(span: ClipSpan) -> tuple[int, int]:
    """Sort key: the order in which the stream was seen."""
    return span.epoch, span.index


def require_own(stream_id: str, lease: Lease) -> None:
    """Raise `LeaseLost` unless the lease is for this stream."""
    if lease.stream_id != stream_id:
        raise LeaseLost(
            f"the lease is for stream {lease.stream_id}, the write for {stream_id}; "
            "acquire a lease for it"
        )


def require_current(held: Lease | None, lease: Lease) -> None:
    """Raise `LeaseLost` unless what the store has now is this lease."""
    if held is None:
        raise LeaseLost(
            f"{lease.stream_id}: the lease of {lease.holder} (token {lease.token}) ended after "
            f"{lease.ttl_s:g} s without renewal; acquire it again and go on from the position"
        )
    if (held.token, held.nonce) != (lease.token, lease.nonce):
        raise LeaseLost(
            f"{lease.stream_id}: the lease of {lease.holder} (token {lease.token}) was taken over "
            f"by {held.holder} (token {held.token}); stop writing"
        )


def require_fingerprint(stream_id: str, stored: str, given: str) -> None:
    """Raise `FingerprintMismatch` naming both."""
    if stored != given:
        raise FingerprintMismatch(
            f"{stream_id} holds tokens of fingerprint {stored}, got {given}; use the model and "
            "settings of the stream, or another stream id"
        )


def holds_already(stored: bytes | None, blob: bytes, span: ClipSpan) -> bool:
    """Whether the stored record is this clip; `Conflict` when it is another one.

    A stored record that is damaged holds nothing: putting its clip again repairs it.
    """
    if stored is None:
        return False
    key = record_id(span.stream_id, span.epoch, span.index)
    try:
        same = arrow.same_content(stored, blob, key=key)
    except CorruptValue as error:
        logger.warning("replacing a damaged record: %s", error)
        return False
    if not same:
        raise Conflict(
            f"{key} holds another clip already ({len(stored)} bytes, got {len(blob)}); "
            "nothing was written; delete the stream or use another id"
        )
    return True


def lease_held(held: Lease) -> LeaseHeld:
    """Who has it and what to do."""
    return LeaseHeld(
        f"{held.stream_id} is being written by {held.holder} (token {held.token}, since "
        f"{held.acquired_at_s:.0f}); stop it, wait {held.ttl_s:g} s after it died, or take over"
    )


def unknown_stream(stream_id: str) -> UnknownStream:
    """What there is not."""
    return UnknownStream(f"no stream {stream_id!r} in the store; ingest it first, or list streams")
