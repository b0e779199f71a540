"""Clips of a question: those of the index from the store, an open one as it was found.

The open clip is what a live stream is at. It is replaced with every push and goes when it closes,
so that it is read once, before the index, and kept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from pipeline.store.checks import in_order
from pipeline.values.errors import CorruptValue, SchemaMismatch

if TYPE_CHECKING:
    from pipeline.store import ClipStore
    from pipeline.values.types import ClipSpan, Position
    from workers.types import CompressedClip

logger = logging.getLogger(__name__)

ClipPlace = tuple[str, int, int]
"""Stream, epoch and index of a clip."""
OpenClip = tuple["ClipSpan", "CompressedClip"]


def place_of(clip: ClipSpan | CompressedClip) -> ClipPlace:
    """Which clip it is, told alike by its row in the index and by its record."""
    return clip.stream_id, clip.epoch, clip.index


def find_open(store: ClipStore, stream_id: str) -> OpenClip | None:
    """A live stream's open clip; to be looked for before the index is."""
    try:
        return store.read_open(stream_id)
    except (CorruptValue, SchemaMismatch) as error:
        logger.warning("%s: the open clip is left out: %s", stream_id, error)
        return None


def has_closed(found: OpenClip, position: Position | None, listed: Sequence[ClipSpan]) -> bool:
    """Whether the index, looked at since, has an open clip already."""
    place = in_order(found[0])
    stands = position is not None and place <= (position.epoch, position.index)
    return stands or any(in_order(span) == place for span in listed)


def iter_clips(
    store: ClipStore, spans: Sequence[ClipSpan], open_clips: Mapping[ClipPlace, CompressedClip]
) -> Iterator[CompressedClip]:
    """The clips that can be read, in order."""
    for is_open, run in groupby(spans, key=lambda span: span.is_open):
        if is_open:
            yield from (open_clips[place_of(span)] for span in run)
        else:
            yield from store.iter_clips(list(run), on_corrupt="skip")
