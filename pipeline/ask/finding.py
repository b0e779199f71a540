"""Which clips matter for a question: by the model that answers it, on few tokens of each.

No second model: each clip is read by itself, with a quarter of its tokens, and the model says how
likely it is that it matters (`Answerer.score_relevance`). Knows of no budget.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    by_place = {place_of(span): span for span in spans}
    found: list[Found] = []
    clips = iter_clips(store, spans, reading.open_clips)
    while batch := list(islice(clips, PARTS)):
        parts = [(clip, _coarse(reading, clip)) for clip in batch]
        told = [(clip, part) for clip, part in parts if part]
        scores = reading.model.score_relevance(reading.question.text, [part for _, part in told])
        for (clip, _), score in zip(told, scores, strict=True):
            found.append(Found(by_place[place_of(clip)], score))
    found.sort(key=lambda one: -one.score)
    return found[:most]


def _coarse(reading: Reading, clip: CompressedClip) -> list[VisualSegment]:
    """What is read of a clip when it is only looked through; nothing where it says nothing."""
    whole = trim_clip(clip, reading.within(clip))
    if not len(whole.tokens):
        return []
    [fewer] = recompress([whole.tokens], max(1, len(whole.tokens) // COARSE))
    [(_, segments)] = reading.read([replace(clip, tokens=fewer)], skip_empty=True)
    return segments
