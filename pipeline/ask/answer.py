"""What comes back from a question: pieces of text as they are written, and last the answer."""

from dataclasses import dataclass
from typing import Literal

from pipeline.values.types import ClipSpan, Gap

Detail = Literal["stored", "faded", "merged"]
"""How closely a clip is read: with the tokens it was stored with, with those that are left of it
since it faded, or with fewer than there are (`fit`)."""
DETAILS: tuple[Detail, ...] = ("stored", "faded", "merged")


@dataclass(frozen=True)
class Piece:
    """Some text of the answer, as soon as it is certain."""

    text: str
    kind: Literal["piece"] = "piece"


@dataclass(frozen=True)
class Timings:
    """Where the time of an answer went, in wall seconds; loading the model is not in it."""

    index_s: float
    load_s: float
    first_token_s: float
    """From the question to the first piece of text, index, load and wait included."""
    total_s: float
    wait_s: float = 0.0
    """Until it was its turn, before index and load and between them; 0 where nobody else asks."""


@dataclass(frozen=True)
class LevelReading:
    """Clips of a stream that were read alike."""

    detail: Detail
    clips: int
    tokens_before: int
    """Of these clips, as they are stored."""
    tokens_read: int


@dataclass(frozen=True)
class StreamReading:
    """What of one stream was asked about, what there is of it and what was read."""

    stream_id: str
    start_s: float
    """The range that the question's times were resolved to, in seconds of the stream."""
    end_s: float
    wall_start: str | None
    """The same on the wall clock, ISO 8601 in the stream's zone; None where it has none."""
    wall_end: str | None
    coverage: float
    """Share of the range that has footage, 0 to 1; a held stretch is footage."""
    clips_found: int
    clips_read: int
    gaps: tuple[Gap, ...] = ()
    """Stretches of the range without footage, each with its reason."""
    held_s: float = 0.0
    """Seconds of the range in which the source was seen and nothing changed."""
    phrase: str | None = None
    """What of the question the range was taken from; None where it was given, or is everything."""
    levels: tuple[LevelReading, ...] = ()
    """How closely the clips were read, from those as they were stored to the coarsest."""

    clips_faded: int = 0
    """Of the clips found, those that hold less than they once did."""

    @property
    def read_fraction(self) -> float:
        """Share of the clips found that were read; below 1 when the budget left some out."""
        return self.clips_read / self.clips_found if self.clips_found else 0.0


@dataclass(frozen=True)
class Citation(ClipSpan):
    """A clip that was read: its index row, with its seconds on the stream's line of time."""

    wall_start: str | None = None
    """When it begins on the wall clock, ISO 8601 in the stream's zone; None where it has none."""
    wall_end: str | None = None


@dataclass(frozen=True)
class Answer:
    """A question's answer and what it rests on."""

    text: str
    citations: tuple[Citation, ...]
    """The clips that were read."""
    coverage: float
    """Share of the asked ranges that has footage, 0 to 1, over all streams."""
    read_fraction: float
    """Share of the ranges' clips that were read; below 1 when the budget left some out."""
    partial: bool
    """True when clips named by the index could not be read, or were removed meanwhile."""
    visual_tokens: int
    prompt_tokens: int
    timings: Timings
    streams: tuple[StreamReading, ...] = ()
    """The same for each stream, in the order asked."""
    without_footage: tuple[str, ...] = ()
    """Streams that have no clip in the range; the others were asked."""
    removed: int = 0
    """Clips that were removed between the look at the index and the reading."""
    bytes_read: int = 0
    """Of the records that were read: clips, or levels over them."""
    kind: Literal["answer"] = "answer"
