"""The values of the pipeline that hold no tensors: index rows, what is known of a stream, leases.

Times are seconds of the stream unless they say wall (Unix time). Nothing here knows of Redis,
Arrow, Ray or HTTP.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import InvalidRecord
from workers.names import STREAM_ID
from workers.redact import redact_text, redact_url

StreamStatus = Literal["running", "complete", "failed", "paused"]
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
    """What the tokens were made with, for people to read; the fingerprint decides."""
    created_at_s: float = 0.0
    """Unix time."""
    updated_at_s: float = 0.0
    declared_duration_s: float | None = None
    """What the container says; None for live sources."""
    wall_start_s: float | None = None
    """Unix time of stream second 0; None when the wall clock is not known."""
    zone: str | None = None
    """Time zone its clock times are meant in: `Europe/Berlin` or `+02:00`; None: the reader's."""

    def __post_init__(self) -> None:
        require_stream_id(self.stream_id)
        if self.status not in STATUSES:
            raise InvalidRecord(
                f"status of {self.stream_id} is {self.status!r}, expected one of {STATUSES}"
            )
        object.__setattr__(self, "source", redact_url(self.source))
        if self.error is not None:
            object.__setattr__(self, "error", redact_text(self.error))


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
class DeletedCounts:
    """What `delete_stream` removed."""

    clips: int
    gaps: int
    size_bytes: int


@dataclass(frozen=True)
class VerifyReport:
    """What reading every record of a stream showed."""

    stream_id: str
    num_clips: int
    num_tokens: int
    size_bytes: int
    corrupt: tuple[tuple[ClipSpan, str], ...] = ()
    """The clips that cannot be read, each with the error's text."""

    @property
    def ok(self) -> bool:
        """True when every record is what was written."""
        return not self.corrupt


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
