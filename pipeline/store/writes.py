"""The writing half that is the same in every store: a clip or a record becomes one `_put`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.store import arrow
from pipeline.store.checks import Place, holds_already
from pipeline.store.config import StoreConfig, TokenDtype
from pipeline.store.keys import record_id
from pipeline.values.types import ClipSpan, Lease, Position

if TYPE_CHECKING:
    from workers.types import CompressedClip

REFILLED = "failed"
"""The reason of gaps that go when a clip comes that fills them: one that was tried again."""


@dataclass(frozen=True)
class NewRecord:
    """A record on its way into a store."""

    span: ClipSpan
    blob: bytes
    last_pts_s: float
    fingerprint: str

    @property
    def place(self) -> Place:
        """Epoch and index of its clip."""
        return self.span.epoch, self.span.index

    @property
    def position(self) -> Position:
        """Where the stream ends once this is its last clip."""
        return Position(*self.place, self.span.end_s, self.last_pts_s)

    def held_as(self, stored: bytes | None) -> ClipSpan | None:
        """The row of what is `stored` when it is this clip; `Conflict` when it is another one."""
        if stored is None or not holds_already(stored, self.blob, self.span):
            return None
        span = self.span
        if stored != self.blob:
            read = arrow.decode_clip(stored, key=record_id(span.stream_id, span.epoch, span.index))
            return span_of(read.clip, len(stored))
        return span


@dataclass(frozen=True)
class Exchange:
    """A clip that is to take the place of a finer one."""

    span: ClipSpan
    """The row of what is there."""
    digest: str
    """Of its record."""
    clip: "CompressedClip"
    fingerprint: str
    dtype: TokenDtype

    @property
    def blob(self) -> bytes:
        """The new record."""
        return arrow.encode_clip(self.clip, fingerprint=self.fingerprint, dtype=self.dtype)


class RecordWrites(ABC):
    """`put_clip` and `put_record` of a `ClipWriter`."""

    @property
    @abstractmethod
    def config(self) -> StoreConfig:
        """As `ClipStore.config`."""

    @abstractmethod
    def _put(self, record: NewRecord, lease: Lease, after: Place | None) -> ClipSpan:
        """Value, index row, totals and position at once."""

    @abstractmethod
    def _put_open(self, record: NewRecord, lease: Lease) -> None:
        """The record beside the index, in the place of the last such one."""

    def put_open(self, clip: "CompressedClip", lease: Lease, *, fingerprint: str) -> int:
        blob = arrow.encode_clip(clip, fingerprint=fingerprint, dtype=self.config.dtype)
        self._put_open(
            NewRecord(span_of(clip, len(blob)), blob, clip.pts_s[-1], fingerprint), lease
        )
        return len(blob)

    def put_clip(
        self,
        clip: "CompressedClip",
        lease: Lease,
        *,
        fingerprint: str,
        after: Place | None = None,
    ) -> ClipSpan:
        blob = arrow.encode_clip(clip, fingerprint=fingerprint, dtype=self.config.dtype)
        record = NewRecord(span_of(clip, len(blob)), blob, clip.pts_s[-1], fingerprint)
        return self._put(record, lease, after)

    def put_record(
        self, key: str, blob: bytes, lease: Lease, *, after: Place | None = None
    ) -> ClipSpan:
        read = arrow.decode_clip(blob, key=key)
        span = span_of(read.clip, len(blob))
        return self._put(NewRecord(span, blob, read.clip.pts_s[-1], read.fingerprint), lease, after)


def span_of(clip: "CompressedClip", size_bytes: int) -> ClipSpan:
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
        keep=clip.level.keep,
    )
