"""Where old clips lie: a folder a stream, in it files named by the stretch of time they hold.

    URL/NAMESPACE/STREAM/86400-90000-3fa85f64.parquet

A file is written whole and never changed. That a clip lies in it is said by the clip's index row,
`86400-90000-3fa85f64@1048660`, and by nothing else: a file that no row names holds nothing. The
last part of the name is drawn by chance, so that a file is named by the rows of its writer alone.

Arrow is loaded with the first file that is written or read.
"""

import math
import secrets
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from pipeline.store.config import StoreConfig
from pipeline.store.keys import record_id
from pipeline.values.errors import StoreUnavailable
from pipeline.values.types import ClipSpan, Gap, StreamInfo
from workers.redact import redact_url

if TYPE_CHECKING:
    from pipeline.store.arrow.folder import Folder

SUFFIX = ".parquet"
RUN_BYTES = 16 << 20
"""Records that lie one behind another are read at once up to so many bytes."""
NEAR_BYTES = 64 << 10
"""What may lie between two of them: the rest of a page, or one clip that is not wanted."""


@dataclass(frozen=True)
class ColdPlace:
    """Where a record lies."""

    file: str
    offset: int

    @classmethod
    def of(cls, span: ClipSpan) -> "ColdPlace":
        """Of a row that says so."""
        assert span.cold is not None
        file, _, offset = span.cold.rpartition("@")
        return cls(file, int(offset))

    @property
    def text(self) -> str:
        """As an index row has it."""
        return f"{self.file}@{self.offset}"


@dataclass
class _Run:
    """Records of one file that are read at once."""

    file: str
    spans: list[ClipSpan] = field(default_factory=list)
    start: int = 0
    end: int = 0

    def takes(self, span: ClipSpan) -> bool:
        place = ColdPlace.of(span)
        is_next = place.file == self.file and 0 <= place.offset - self.end <= NEAR_BYTES
        is_same = not self.spans or span.stream_id == self.spans[0].stream_id
        return is_next and is_same and place.offset + span.size_bytes - self.start <= RUN_BYTES

    def add(self, span: ClipSpan) -> None:
        self.spans.append(span)
        self.end = ColdPlace.of(span).offset + span.size_bytes


class ColdTier:
    """The files of a store's namespace. Knows of no index: `ClipStore.move_clips` has that."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url, self._namespace = url, namespace

    @cached_property
    def _folder(self) -> "Folder":
        from pipeline.store.arrow.folder import Folder

        return Folder(self._url)

    def write(
        self, records: Sequence[tuple[ClipSpan, bytes]], info: StreamInfo, gaps: Iterable[Gap] = ()
    ) -> list[ColdPlace]:
        """A new file of a stream's records, and where each lies in it.

        The file is read back before this returns: what is said to be there is.

        Raises:
            CorruptValue: a record is not what was written; there is no file then.
            StoreFull, StoreUnavailable: the filesystem.
        """
        from pipeline.store.arrow import write_parquet

        pairs = [(record_id(s.stream_id, s.epoch, s.index), blob) for s, blob in records]
        data, offsets = write_parquet(pairs, info=info, gaps=gaps)
        spans = [span for span, _ in records]
        first_s, last_s = min(s.start_s for s in spans), max(s.end_s for s in spans)
        file = f"{max(0, math.floor(first_s))}-{max(0, math.ceil(last_s))}-{secrets.token_hex(4)}"
        name = self._name(info.stream_id, file)
        self._folder.write(name, data)
        back = self._folder.read(name, 0, len(data) + 1)
        if back is None or bytes(back) != data:
            self._folder.remove(name)
            raise StoreUnavailable(
                f"cold tier {redact_url(self._url)}: {name} reads otherwise than it was written; "
                "nothing was moved; check the disk"
            )
        return [ColdPlace(file, offset) for offset in offsets]

    def read(self, span: ClipSpan) -> bytes | None:
        """The record of one clip, unverified; None where it is not there.

        `StoreUnavailable` where the stream's folder cannot be seen at all.
        """
        ((_, blob),) = self.iter_records([span])
        return None if blob is None else bytes(blob)

    def iter_records(
        self, spans: Iterable[ClipSpan]
    ) -> Generator[tuple[ClipSpan, memoryview | None]]:
        """The same of many, in their order; neighbours are read at once."""
        for run in _runs(spans):
            name = self._name(run.spans[0].stream_id, run.file)
            data = self._folder.read(name, run.start, run.end - run.start)
            if data is None and not self._folder.is_there(self._namespace):
                raise StoreUnavailable(
                    f"cold tier {redact_url(self._url)} cannot be seen; mount it, or correct "
                    "store.cold"
                )
            for span in run.spans:
                at = ColdPlace.of(span).offset - run.start
                part = None if data is None else data[at : at + span.size_bytes]
                yield span, part if part is not None and len(part) == span.size_bytes else None

    def list_files(self, stream_id: str) -> dict[str, float | None]:
        """Every file of a stream, with the Unix time at which it was written."""
        found = self._folder.list(f"{self._namespace}/{stream_id}")
        return {
            one.name.rpartition("/")[2].removesuffix(SUFFIX): one.changed_at_s
            for one in found
            if one.name.endswith(SUFFIX)
        }

    def list_streams(self) -> list[str]:
        """Ids that have a file."""
        found = self._folder.list(self._namespace)
        return sorted({one.name.split("/")[1] for one in found if one.name.count("/") == 2})

    def count_clips(self, stream_id: str, file: str) -> int:
        """How many records a file holds, those that no row names among them."""
        from pipeline.store.arrow.parquet import count_rows

        return count_rows(self._folder, self._name(stream_id, file))

    def remove_file(self, stream_id: str, file: str) -> None:
        """Nothing where it is gone."""
        self._folder.remove(self._name(stream_id, file))

    def remove_stream(self, stream_id: str) -> None:
        """Every file of a stream."""
        self._folder.remove_folder(f"{self._namespace}/{stream_id}")

    def _name(self, stream_id: str, file: str) -> str:
        return f"{self._namespace}/{stream_id}/{file}{SUFFIX}"


def stretch_of(file: str) -> tuple[float, float]:
    """Stream seconds that all clips of a file lie within, as its name tells."""
    start_s, end_s, _ = file.split("-")
    return float(start_s), float(end_s)


def open_cold(config: StoreConfig) -> ColdTier | None:
    """The cold tier of a store; None where none is set."""
    return None if config.cold is None else ColdTier(config.cold, config.namespace)


def require_cold(tier: ColdTier | None, span: ClipSpan) -> ColdTier:
    """The tier in which `span` lies. `StoreUnavailable` where none is set."""
    if tier is None:
        raise StoreUnavailable(
            f"{record_id(span.stream_id, span.epoch, span.index)} lies in the cold tier, and none "
            "is set; set store.cold to the folder it was moved to"
        )
    return tier


def _runs(spans: Iterable[ClipSpan]) -> Iterator[_Run]:
    run: _Run | None = None
    for span in spans:
        if run is not None and run.takes(span):
            run.add(span)
            continue
        if run is not None:
            yield run
        place = ColdPlace.of(span)
        run = _Run(place.file, [span], place.offset, place.offset + span.size_bytes)
    if run is not None:
        yield run
