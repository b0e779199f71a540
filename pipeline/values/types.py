"""The values of the pipeline that hold no tensors: index rows, what is known of a stream, leases.

Times are seconds of the stream unless they say wall (Unix time). Nothing here knows of Redis,
Arrow, Ray or HTTP.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.values.errors import InvalidRecord
from pipeline.values.made_with import MadeWith
from workers.names import STREAM_ID, ClockSource
from workers.redact import redact_text, redact_url

StreamStatus = Literal["running", "complete", "failed", "paused"]
HELD = "held"
"""Reason of a gap that is footage: it was seen, and showed nothing new."""
EXPIRED = "expired"
"""Reason of a gap whose clips were removed: by a retention rule, or by hand."""
MAX_CLOCKS = 256
"""Changes of whose clock counts that are known of a stream."""
STATUSES: tuple[StreamStatus, ...] = ("running", "complete", "failed", "paused")


@dataclass(frozen=True)
class ClipSpan:
    """One row of the time index: where a clip lies and what loading it costs."""

    stream_id: str
    epoch: int
    index: int
    """Counts the stream's clips in order, across epochs."""
    start_s: float
    end_s: float
    num_tokens: int
    size_bytes: int
    """Bytes of the stored record."""
    wall_start_s: float | None = None
    """Unix time of `start_s`."""
    cold: str | None = None
    """Where the record lies in the cold tier, `FILE@OFFSET`; None while it is in the server."""
    keep: float = 1.0
    """What it was faded to: a share of the tokens before the reduction; 1 where it was not."""
    is_open: bool = False
    """Whether it is the clip that a live stream is at: not in the index, and not at its end."""

    def overlaps(self, start_s: float | None, end_s: float | None) -> bool:
        """Whether the clip has a part in [start_s, end_s); None is open."""
        return (end_s is None or self.start_s < end_s) and (start_s is None or self.end_s > start_s)


@dataclass(frozen=True)
class Gap:
    """A stretch of stream time with no clip, and why."""

    stream_id: str
    epoch: int
    start_s: float
    end_s: float
    reason: str
    """A short stable word: `disconnected`, `overload`, `damaged`, `paused`, ..."""
    wall_start_s: float | None = None
    first_clip: int | None = None
    """Of `expired`: index of the first clip that was removed, and of the last."""
    last_clip: int | None = None

    @property
    def is_footage(self) -> bool:
        """Whether the source was seen all the while, and nothing changed."""
        return self.reason == HELD

    @property
    def identity(self) -> tuple[int, float, str]:
        """What makes it this gap; told again with another end, it is still the same."""
        return self.epoch, self.start_s, self.reason

    def __post_init__(self) -> None:
        require_stream_id(self.stream_id)
        if not (math.isfinite(self.start_s) and self.start_s <= self.end_s < math.inf):
            raise InvalidRecord(
                f"gap of {self.stream_id} runs from {self.start_s} to {self.end_s} s; "
                "expected finite times with start <= end"
            )


@dataclass(frozen=True)
class Position:
    """The end of the last stored clip: where an ingest goes on."""

    epoch: int
    index: int
    end_s: float
    last_pts_s: float
    """Presentation time of the last frame that went in."""


@dataclass(frozen=True)
class FileIdentity:
    """What a file is, whatever it is called: its size, its age, and digests of three places.

    Each digest is over as many bytes from the file's start, from its middle, and up to its end.
    """

    size_bytes: int
    mtime_s: float
    """Unix time of the last change."""
    head: str
    middle: str
    tail: str


@dataclass(frozen=True)
class StreamSegment:
    """One of the files that make a joined stream: what it is, and where it lies."""

    path: str
    at_s: float
    """Stream time of the file's own second 0."""
    start_s: float
    """Stream time from which it is read; what lies before was in the segment before it."""
    end_s: float
    """Stream time at which it says it ends."""
    clock_end_s: float
    """What its container's clock shows at its end."""
    wall_s: float | None
    """Unix time of its start, where its name or its header tells one that is believed."""
    file: FileIdentity

    @property
    def place(self) -> tuple[float, str]:
        """Segments are read in this order."""
        return self.start_s, self.path


@dataclass(frozen=True)
class StreamTotals:
    """Sums over a stream's index, kept beside it so that they cost nothing to ask for."""

    clips: int = 0
    tokens: int = 0
    size_bytes: int = 0
    footage_s: float = 0.0
    """Lengths of the clips, added up."""
    start_s: float = 0.0
    """Where the earliest clip begins; 0 without clips."""
    end_s: float = 0.0
    """Where the latest clip ends; 0 without clips."""
    held: int = 0
    """Gaps that are footage: stretches in which nothing changed."""
    held_s: float = 0.0
    """Their lengths, added up."""

    def plus(self, span: ClipSpan) -> "StreamTotals":
        """With one clip more."""
        return replace(
            self,
            clips=self.clips + 1,
            tokens=self.tokens + span.num_tokens,
            size_bytes=self.size_bytes + span.size_bytes,
            footage_s=self.footage_s + (span.end_s - span.start_s),
            start_s=min(self.start_s, span.start_s) if self.clips else span.start_s,
            end_s=max(self.end_s, span.end_s) if self.clips else span.end_s,
        )

    def exchanged(self, span: ClipSpan, by: ClipSpan) -> "StreamTotals":
        """With a clip in another size in its own place."""
        return replace(
            self,
            tokens=self.tokens + by.num_tokens - span.num_tokens,
            size_bytes=self.size_bytes + by.size_bytes - span.size_bytes,
        )

    def with_gaps(self, put: Iterable[Gap] = (), dropped: Iterable[Gap] = ()) -> "StreamTotals":
        """With gaps more and gaps less; those that are no footage do not count."""
        more, less = ([gap for gap in gaps if gap.is_footage] for gaps in (put, dropped))
        held = self.held + len(more) - len(less)
        lengths_s = sum(gap.end_s - gap.start_s for gap in more)
        lengths_s -= sum(gap.end_s - gap.start_s for gap in less)
        return replace(self, held=held, held_s=self.held_s + lengths_s if held else 0.0)


@dataclass(frozen=True)
class StreamInfo:
    """What is known of a stream apart from its clips."""

    stream_id: str
    source: str
    """Path or URL, credentials removed on the way in."""
    model_id: str
    fingerprint: str
    """Model, revision, processor, reducer settings and dtype, hashed; one per stream. Empty where
    the source was refused before a model was loaded."""
    status: StreamStatus = "running"
    error: str | None = None
    """One line, when the status is `failed`."""
    settings: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    """What the tokens were made with, for people to read; derived from `made_with`."""
    created_at_s: float = 0.0
    """Unix time."""
    updated_at_s: float = 0.0
    declared_duration_s: float | None = None
    """What the container says; None for live sources."""
    wall_start_s: float | None = None
    """Unix time of stream second 0; None when the wall clock is not known."""
    made_with: MadeWith | None = None
    """All that the stream was asked to be; None in streams of earlier releases."""
    file: FileIdentity | None = None
    """What the source was when it was last read; None where it is no file."""
    writer: str | None = None
    """Who began its last session, as a lease names its holder."""
    clocks: tuple[tuple[int, ClockSource], ...] = ()
    """Of a live stream: (epoch, whose wall clock placed it and those behind it), where it changed;
    none where that is not known, as of files and of earlier releases."""

    @property
    def clock(self) -> ClockSource | None:
        """Whose wall clock placed the last epoch."""
        return self.clocks[-1][1] if self.clocks else None

    def with_clock(self, epoch: int, clock: ClockSource) -> "StreamInfo":
        """With another clock from an epoch on; of many changes the last are kept."""
        return replace(self, clocks=(*self.clocks, (epoch, clock))[-MAX_CLOCKS:])

    def clock_of(self, epoch: int) -> ClockSource | None:
        """Whose wall clock placed an epoch; None where that is not known."""
        before: list[ClockSource] = [clock for since, clock in self.clocks if since <= epoch]
        return before[-1] if before else None

    def __post_init__(self) -> None:
        require_stream_id(self.stream_id)
        self._read_values()
        if self.status not in STATUSES:
            raise InvalidRecord(
                f"status of {self.stream_id} is {self.status!r}, expected one of {STATUSES}"
            )
        object.__setattr__(self, "source", redact_url(self.source))
        if self.error is not None:
            object.__setattr__(self, "error", redact_text(self.error))

    def _read_values(self) -> None:
        """Take what stands in a store, where the values are plain; derive what people read."""
        if isinstance(self.made_with, Mapping):
            object.__setattr__(self, "made_with", MadeWith.from_plain(self.made_with))
        if isinstance(self.file, Mapping):
            object.__setattr__(self, "file", FileIdentity(**self.file))
        clocks = tuple((int(epoch), whose) for epoch, whose in self.clocks)
        object.__setattr__(self, "clocks", clocks)
        if self.made_with is not None:
            object.__setattr__(self, "settings", self.made_with.for_people())


@dataclass(frozen=True)
class Lease:
    """The right to write one stream, as given by the store."""

    stream_id: str
    holder: str
    """Who, for people: host, process, session."""
    token: int
    """Fencing token: rises with every lease of the stream."""
    nonce: str
    """Tells two leases of equal token apart after a stream was deleted and made anew."""
    ttl_s: float
    acquired_at_s: float
    """Unix time, for people."""


@dataclass(frozen=True)
class StreamOverview:
    """What a list of streams shows of one: asked for at once, at a cost that does not grow."""

    info: StreamInfo
    totals: StreamTotals
    num_gaps: int
    position: Position | None
    writer: Lease | None
    """Who writes it now."""


@dataclass(frozen=True)
class BrokenStream:
    """A stream that does not read, in its place of a list."""

    stream_id: str
    error: str
    """`code: text`, on one line."""


@dataclass(frozen=True)
class DeletedCounts:
    """What `delete_stream` or `delete_range` removed."""

    clips: int
    gaps: int
    size_bytes: int

    def __add__(self, other: "DeletedCounts") -> "DeletedCounts":
        return DeletedCounts(
            self.clips + other.clips, self.gaps + other.gaps, self.size_bytes + other.size_bytes
        )


@dataclass(frozen=True)
class FadedCounts:
    """What fading changed."""

    clips: int
    tokens: int
    """That went."""
    size_bytes: int
    """That went."""

    def __add__(self, other: "FadedCounts") -> "FadedCounts":
        return FadedCounts(
            self.clips + other.clips, self.tokens + other.tokens, self.size_bytes + other.size_bytes
        )


@dataclass(frozen=True)
class VerifyReport:
    """What reading every record of a stream showed."""

    stream_id: str
    num_clips: int
    num_tokens: int
    size_bytes: int
    corrupt: tuple[tuple[ClipSpan, str], ...] = ()
    """The clips that cannot be read, each with the error's text."""
    bad_rows: tuple[str, ...] = ()
    """What of the index does not read, a line each: the clip behind it is out of reach."""
    num_levels: int = 0
    """Records of several clips together."""
    bad_levels: tuple[str, ...] = ()
    """Those that do not read, a line each: they are made anew when they are needed."""

    @property
    def ok(self) -> bool:
        """True when every record is what was written."""
        return not (self.corrupt or self.bad_rows or self.bad_levels)


@dataclass(frozen=True)
class StoreHealth:
    """What the doctor asks of a store."""

    server: str
    """Name and version."""
    problems: tuple[str, ...] = ()
    """One line each: what was found, what was expected, how to mend it."""


@dataclass(frozen=True)
class StoreStats:
    """How full a store is."""

    num_streams: int
    used_bytes: int
    limit_bytes: int | None
    """None where the server has no limit of its own."""


def require_stream_id(stream_id: str) -> None:
    """Raise `InvalidRecord` unless it is 1 to 64 of A-Z a-z 0-9 . _ -"""
    if not STREAM_ID.fullmatch(stream_id):
        raise InvalidRecord(
            f"stream id {stream_id[:80]!r} is not 1 to 64 of A-Z a-z 0-9 . _ -; rename it"
        )
