"""The reading half of a store, from its records and its index alone."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain, groupby
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipeline.store import arrow
from pipeline.store.base import OnCorrupt
from pipeline.store.checks import Place, in_order, missing_value_error
from pipeline.store.cold import ColdTier
from pipeline.store.cold.tier import require_cold
from pipeline.store.keys import record_id
from pipeline.store.levels import Node, nodes_of
from pipeline.store.writes import span_of
from pipeline.values.errors import (
    CorruptValue,
    MissingValue,
    SchemaMismatch,
    UnknownStream,
)
from pipeline.values.plain import one_line
from pipeline.values.types import BrokenStream, ClipSpan, StreamOverview, VerifyReport

if TYPE_CHECKING:
    from pipeline.store.arrow import ClipRecord
    from workers.types import CompressedClip

logger = logging.getLogger(__name__)

MOVES = 4
"""Places in which a record is looked for: it may be moved while it is."""
Stored = bytes | memoryview | CorruptValue
"""What a store has of a clip, unverified; the error where it has nothing that could be one."""


class VerifiedReads(ABC):
    """`StreamIndex` and `ClipReader` on top of the few calls a store has of its own."""

    cold: ColdTier | None
    """As `ClipStore.cold`."""

    @abstractmethod
    def get_value(self, span: ClipSpan) -> bytes | None:
        """What the server itself has of a clip, unverified; None where it has nothing."""

    @abstractmethod
    def iter_rows(
        self, stream_id: str, start_s: float | None = None, end_s: float | None = None
    ) -> Iterator[ClipSpan | CorruptValue]:
        """`StreamIndex.iter_spans` with the rows that do not read in their places."""

    @abstractmethod
    def iter_level_records(self, nodes: Iterable[Node]) -> Iterator[tuple[Node, bytes | None]]:
        """Records of nodes, unverified; None where there is none."""

    @abstractmethod
    def measure_levels(self, nodes: Iterable[Node]) -> dict[Node, int]:
        """As `Levels.measure_levels`."""

    @abstractmethod
    def list_digests(self, nodes: Iterable[Node]) -> dict[Node, str]:
        """As `Levels.list_digests`."""

    @abstractmethod
    def list_streams(self) -> list[str]:
        """As `StreamIndex.list_streams`."""

    @abstractmethod
    def get_overview(self, stream_id: str) -> StreamOverview:
        """As `StreamIndex.get_overview`."""

    @abstractmethod
    def get_open_record(self, stream_id: str) -> tuple[Place, bytes] | None:
        """The place and the record of the open clip, unverified."""

    @abstractmethod
    def close(self) -> None:
        """As `ClipStore.close`."""

    def get_record(self, span: ClipSpan) -> bytes:
        at: ClipSpan | None = span
        for _ in range(MOVES):
            if at is None:
                break
            found = self.get_value(at) if at.cold is None else require_cold(self.cold, at).read(at)
            if found is not None:
                return found
            now = self._find_row(at)  # moved since it was listed, or listed by its place alone
            at = now if now is not None and now.cold != at.cold else None
        raise missing_value_error(span)

    def _find_row(self, span: ClipSpan) -> ClipSpan | None:
        """The row that the index has of a clip now: where it began, or anywhere."""
        for bounds in ((span.start_s, span.end_s), (None, None)):
            try:
                for row in self.iter_rows(span.stream_id, *bounds):
                    if isinstance(row, ClipSpan) and in_order(row) == in_order(span):
                        return row
            except UnknownStream:
                return None
            if span.num_tokens or self.cold is None:
                break  # it was listed once, and would be where it was; or no other has it
        return None

    def iter_overviews(self) -> Iterator[StreamOverview | BrokenStream]:
        for stream_id in self.list_streams():
            try:
                yield self.get_overview(stream_id)
            except UnknownStream:
                continue  # deleted since, or an id that a crash left behind: nothing to show
            except (CorruptValue, SchemaMismatch) as error:
                yield BrokenStream(stream_id, f"{error.code}: {one_line(error)}")

    def iter_spans(
        self, stream_id: str, start_s: float | None = None, end_s: float | None = None
    ) -> Iterator[ClipSpan]:
        for row in self.iter_rows(stream_id, start_s, end_s):
            if isinstance(row, ClipSpan):
                yield row
            else:
                logger.warning("left out of the index: %s", row)

    def list_spans(
        self, stream_id: str, start_s: float | None = None, end_s: float | None = None
    ) -> list[ClipSpan]:
        return sorted(self.iter_spans(stream_id, start_s, end_s), key=in_order)

    def get_clip(self, span: ClipSpan) -> "CompressedClip":
        return decode_span(span, self.get_record(span)).clip

    def get_open(self, stream_id: str) -> "CompressedClip | None":
        found = self.read_open(stream_id)
        return None if found is None else found[1]

    def read_open(self, stream_id: str) -> "tuple[ClipSpan, CompressedClip] | None":
        found = self.get_open_record(stream_id)
        if found is None:
            return None
        place, blob = found
        clip = arrow.decode_clip(blob, key=record_id(stream_id, *place)).clip
        return replace(span_of(clip, len(blob)), is_open=True), clip

    def iter_clips(
        self, spans: Iterable[ClipSpan], *, on_corrupt: OnCorrupt = "raise"
    ) -> Iterator["CompressedClip"]:
        for span, read in self._iter_reads(spans):
            if not isinstance(read, (CorruptValue, SchemaMismatch)):
                yield read.clip
            elif on_corrupt == "raise":
                raise read
            elif isinstance(read, MissingValue) and self.list_removed([span]):
                logger.info("%s clip %d was removed meanwhile", span.stream_id, span.index)
            else:
                logger.warning("%s clip %d left out: %s", span.stream_id, span.index, read)

    def find_levels(self, nodes: Iterable[Node]) -> set[Node]:
        return set(self.measure_levels(nodes))

    def iter_levels(self, nodes: Iterable[Node]) -> Iterator["tuple[Node, ClipRecord | None]"]:
        for node, blob in self.iter_level_records(nodes):
            try:
                read = None if blob is None else arrow.decode_clip(blob, key=node.record_id)
            except (CorruptValue, SchemaMismatch) as error:
                logger.warning("a level is left out: %s", error)
                read = None
            yield node, read

    def _bad_levels(self, spans: Iterable[ClipSpan]) -> tuple[int, list[tuple[Node, str]]]:
        """How many levels there are of a stream's clips, and those that do not read."""
        found, bad = self.find_levels(nodes_of(spans)), []
        for node, blob in self.iter_level_records(sorted(found, key=lambda n: (n.first, n.level))):
            try:
                if blob is not None:
                    arrow.decode_clip(blob, key=node.record_id)
            except (CorruptValue, SchemaMismatch) as error:
                bad.append((node, str(error)))
        return len(found), bad

    def list_removed(self, spans: Iterable[ClipSpan]) -> list[ClipSpan]:
        return [span for span in spans if not self._is_listed(span)]

    def _is_listed(self, span: ClipSpan) -> bool:
        try:
            there = self.iter_rows(span.stream_id, span.start_s, span.end_s)
            return any(isinstance(r, ClipSpan) and in_order(r) == in_order(span) for r in there)
        except UnknownStream:
            return False

    def verify(self, stream_id: str) -> VerifyReport:
        """Read every clip of a stream and report those that are not what was written."""
        rows = list(self.iter_rows(stream_id))
        spans = sorted((row for row in rows if isinstance(row, ClipSpan)), key=in_order)
        bad = [
            (span, read)
            for span, read in self._iter_reads(spans)
            if isinstance(read, (CorruptValue, SchemaMismatch))
        ]
        removed = set(self.list_removed(s for s, read in bad if isinstance(read, MissingValue)))
        spans = [span for span in spans if span not in removed]
        num_levels, bad_levels = self._bad_levels(spans)
        return VerifyReport(
            stream_id=stream_id,
            num_clips=len(spans),
            num_tokens=sum(span.num_tokens for span in spans),
            size_bytes=sum(span.size_bytes for span in spans),
            corrupt=tuple((span, str(read)) for span, read in bad if span not in removed),
            bad_rows=tuple(str(row) for row in rows if not isinstance(row, ClipSpan)),
            num_levels=num_levels,
            bad_levels=tuple(text for _, text in bad_levels),
        )

    def _iter_records(self, spans: Iterable[ClipSpan]) -> Generator[tuple[ClipSpan, Stored]]:
        """The records of `spans`, unverified, from the server or from the cold tier."""
        for is_cold, run in groupby(spans, key=lambda span: span.cold is not None):
            read = self._iter_cold if is_cold else self._iter_values
            yield from read(run)

    def _iter_values(self, spans: Iterable[ClipSpan]) -> Generator[tuple[ClipSpan, Stored]]:
        """Those in the server; a store with a faster way than GETs overrides it."""
        for span in spans:
            yield span, self._record_of(span)

    def _iter_cold(self, spans: Iterable[ClipSpan]) -> Generator[tuple[ClipSpan, Stored]]:
        first, rest = next(iter(spans)), spans
        tier = require_cold(self.cold, first)
        for span, blob in tier.iter_records(chain([first], rest)):
            yield span, self._record_of(span) if blob is None else blob

    def _record_of(self, span: ClipSpan) -> Stored:
        try:
            return self.get_record(span)
        except CorruptValue as error:
            return error

    def _iter_reads(
        self, spans: Iterable[ClipSpan]
    ) -> Iterator[tuple[ClipSpan, "ClipRecord | CorruptValue | SchemaMismatch"]]:
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


def decode_span(span: ClipSpan, blob: bytes | memoryview) -> "ClipRecord":
    """The verified record of an index row, which it must agree with."""
    record = arrow.decode_clip(blob, key=record_id(span.stream_id, span.epoch, span.index))
    if (record.clip.start_s, record.clip.end_s) != (span.start_s, span.end_s):
        raise CorruptValue(
            f"{record_id(span.stream_id, span.epoch, span.index)}: the record runs from "
            f"{record.clip.start_s} to {record.clip.end_s} s, the index says {span.start_s} to "
            f"{span.end_s}; `aot clips repair {span.stream_id}` and ingest again"
        )
    return record
