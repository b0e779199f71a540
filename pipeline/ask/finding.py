"""Which clips matter for a question: by the model that answers it, on few tokens of each.

No second model: each clip is read by itself, with a quarter of its tokens, and the model says how
likely it is that it matters (`Answerer.score_relevance`). Those that seem likeliest are looked at
again with all of their tokens: a quarter may have lost what is asked for. Knows of no budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from aot import recompress
from pipeline.ask.loading import iter_clips, place_of
from pipeline.values.errors import InvalidQuery
from workers.reading import trim_clip

if TYPE_CHECKING:
    from pipeline.ask.prompt import Reading
    from pipeline.store import ClipStore
    from pipeline.values.types import ClipSpan
    from workers.models import VisualSegment
    from workers.types import CompressedClip

COARSE = 4
"""Clips are scored with so many times fewer tokens than they are read with."""
CLOSELY = 16
"""So many of the best are scored again with all; where there are no more, all are at once."""
PARTS = 64
"""Clips that are scored at a time: what is in memory of a long range."""


@dataclass(frozen=True)
class Found:
    """A clip that may matter, and how much."""

    span: ClipSpan
    score: float
    """Higher is more; comparable within one search alone."""


def find_clips(
    store: ClipStore, reading: Reading, spans: Sequence[ClipSpan], most: int | None = None
) -> list[Found]:
    """Those of the clips that can be read and say something, the most relevant first.

    Of equals the earlier comes first.

    Raises:
        InvalidQuery: `most` is below 1.
        StoreError, ModelError: what failed.
    """
    if most is not None and most < 1:
        raise InvalidQuery(f"got {most} results to find, expected at least 1")
    looked: dict[ClipSpan, Found] = {}
    near = list(spans)
    if len(near) > CLOSELY:
        looked = {one.span: one for one in _look(store, reading, spans, COARSE)}
        likeliest = sorted(looked.values(), key=_best_first)[:CLOSELY]
        chosen = {one.span for one in likeliest}
        near = [span for span in spans if span in chosen]
    looked |= {one.span: one for one in _look(store, reading, near, 1)}
    return sorted(looked.values(), key=_best_first)[:most]


def _best_first(one: Found) -> float:
    return -one.score


def _look(
    store: ClipStore, reading: Reading, spans: Sequence[ClipSpan], fewer: int
) -> Iterator[Found]:
    """The clips that can be read and say something, in order, by so many times fewer tokens."""
    by_place = {place_of(span): span for span in spans}
    clips = iter_clips(store, spans, reading.open_clips)
    while batch := list(islice(clips, PARTS)):
        parts = [(clip, _read(reading, clip, fewer)) for clip in batch]
        told = [(clip, part) for clip, part in parts if part]
        scores = reading.model.score_relevance(reading.question.text, [part for _, part in told])
        for (clip, _), score in zip(told, scores, strict=True):
            yield Found(by_place[place_of(clip)], score)


def _read(reading: Reading, clip: CompressedClip, fewer: int) -> list[VisualSegment]:
    """What is read of a clip when it is looked at; nothing where it says nothing."""
    whole = trim_clip(clip, reading.within(clip))
    if not len(whole.tokens):
        return []
    most = min(len(whole.tokens) // fewer, reading.room() // 2)  # beside marks, and another prompt
    [left] = recompress([whole.tokens], max(1, most))
    [(_, segments)] = reading.read([replace(clip, tokens=left)], skip_empty=True)
    return segments
