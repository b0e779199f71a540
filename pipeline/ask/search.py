"""Where in a range something is: the clips that matter for a question, best first."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.ask.answer import StreamReading
from pipeline.ask.describing import describe_reading
from pipeline.ask.finding import find_clips
from pipeline.ask.prompt import Reading
from pipeline.ask.question import StreamPart
from pipeline.ask.run import Prepared, require_model
from pipeline.store import ClipStore
from pipeline.values.times import write_moment
from pipeline.values.types import ClipSpan
from workers.seams import Answerer


@dataclass(frozen=True)
class Hit:
    """A clip that may matter, on its stream's timeline."""

    stream_id: str
    start_s: float
    end_s: float
    wall_start: str | None
    """The same on the wall clock, ISO 8601 in the stream's zone; None where it has none."""
    wall_end: str | None
    score: float
    """Higher is more; comparable within one search alone."""
    span: ClipSpan


@dataclass(frozen=True)
class SearchResult:
    """What was found, and what was looked through."""

    hits: tuple[Hit, ...]
    """The most relevant first."""
    streams: tuple[StreamReading, ...]
    searched: int
    """Clips that were looked through."""


def search_prepared(
    store: ClipStore, model: Answerer, prepared: Prepared, most: int = 5
) -> SearchResult:
    """Look through a question's ranges.

    Raises:
        InvalidQuery: `most` is below 1.
        FingerprintMismatch: a stream's tokens are of another model.
        StoreError, ModelError: what failed.
    """
    for part in prepared.parts:
        require_model(part.info, model)
    parts = tuple(part for part in prepared.parts if part.to_read)
    reading = Reading(prepared.question, parts, model)
    spans = [span for part in parts for span in part.spans]
    spans = spans[-prepared.question.max_clips :]
    hits = [_hit(parts, one.span, one.score) for one in find_clips(store, reading, spans, most)]
    streams = tuple(describe_reading(part, ()) for part in prepared.parts)
    return SearchResult(tuple(hits), streams, len(spans))


def _hit(parts: Sequence[StreamPart], span: ClipSpan, score: float) -> Hit:
    [timeline] = [part.timeline for part in parts if part.stream_id == span.stream_id]
    placed = timeline.place(span)
    first, last = (write_moment(timeline.clock, s) for s in (placed.start_s, placed.end_s))
    return Hit(span.stream_id, placed.start_s, placed.end_s, first, last, score, span)
