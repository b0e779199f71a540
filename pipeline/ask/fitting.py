"""What is read of a question's clips, and how closely, so that it fits the budget.

Where all fit they are read as they were stored. Else `choose` leaves clips out; `find` looks
through all and reads those that matter for the question; `recompress` leaves none out: tokens are
merged further over neighbouring clips (`aot.recompress`), each stream's by itself, until the prompt
fits. What is read for that are the levels kept beside the clips (`cover`), so that the cost depends
on the budget and not on the range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aot import recompress
from pipeline.ask.cover import Part, cover, read_parts, split_level
from pipeline.ask.finding import find_clips, place_of
from pipeline.ask.prompt import MAX_TRIES
from pipeline.ask.retrieval import Budget, share_budget, share_evenly
from pipeline.store.pyramid import count_reads
from pipeline.values.errors import QueryTooLarge
from workers.reading import placeholder, trim_clip
from workers.types import FULL_LEVEL

if TYPE_CHECKING:
    from pipeline.ask.answer import Detail
    from pipeline.ask.prompt import Reading
    from pipeline.store import ClipStore
    from pipeline.values.types import ClipSpan
    from workers.models import VisualSegment
    from workers.types import CompressedClip


@dataclass(frozen=True)
class Plan:
    """Which clips are read."""

    spans: tuple[ClipSpan, ...]
    merge: bool
    """Whether they are more than fit, so that they are merged further."""


@dataclass(frozen=True)
class ReadClip:
    """A clip that was read, and with how many of its tokens."""

    span: ClipSpan
    detail: Detail
    tokens_read: int
    is_cited: bool = True
    """Whether its own record was read, or something is left of it in a record of several."""


@dataclass(frozen=True)
class Fitted:
    """What is read, and of which clips."""

    chosen: tuple[ClipSpan, ...]
    """Clips that were to be read."""
    read: tuple[ReadClip, ...]
    """Those that could be."""
    segments: tuple[VisualSegment, ...]
    bytes_read: int = 0
    """Of records."""


def plan_reading(reading: Reading) -> Plan:
    """The clips to load, by the index alone.

    Raises:
        InvalidQuery: the context leaves no room for video.
        QueryTooLarge: not one clip of each stream fits.
    """
    groups = [[clip.span for clip in part.to_read] for part in reading.parts]
    found = sum(map(len, groups))
    if reading.question.fit == "choose":
        return Plan(_flat(reading.choose()), merge=False)
    try:
        chosen = reading.choose()
    except QueryTooLarge:  # whole clips: merged ones may fit
        chosen = []
    if sum(map(len, chosen)) == found:
        return Plan(_flat(chosen), merge=False)
    return Plan(_flat(groups), merge=True)


def load_clips(store: ClipStore, reading: Reading, plan: Plan) -> Fitted:
    """Load the clips, and make them fit.

    Raises:
        QueryTooLarge: not one token of each stream fits.
        StoreError: what failed.
    """
    if not plan.merge:
        return _read_stored(store, reading, plan.spans)
    if reading.question.fit == "find":
        return _read_found(store, reading, _thin(reading))
    parts = _find_parts(store, reading)
    if parts is None:
        return _read_merged(store, reading, _thin(reading))
    return _read_parts(store, reading, parts)


def _read_stored(store: ClipStore, reading: Reading, chosen: Sequence[ClipSpan]) -> Fitted:
    spans = {place_of(span): span for span in chosen}
    read, segments = [], []
    for clip, of_clip in reading.read(store.iter_clips(chosen, on_corrupt="skip"), stored=True):
        if of_clip:
            num_tokens = sum(len(segment.tokens) for segment in of_clip)
            detail = "stored" if clip.level == FULL_LEVEL else "faded"
            read.append(ReadClip(spans[place_of(clip)], detail, num_tokens))
            segments += of_clip
    size_bytes = sum(clip.span.size_bytes for clip in read)
    return Fitted(tuple(chosen), tuple(read), tuple(segments), size_bytes)


def _read_merged(store: ClipStore, reading: Reading, chosen: Sequence[ClipSpan]) -> Fitted:
    spans = {place_of(span): span for span in chosen}
    clips = store.iter_clips(chosen, on_corrupt="skip")
    fewer, segments = _fit(reading, [trim_clip(clip, reading.within(clip)) for clip in clips])
    read = [ReadClip(spans[place_of(clip)], "merged", len(clip.tokens)) for clip in fewer]
    size_bytes = sum(clip.span.size_bytes for clip in read)
    return Fitted(tuple(chosen), tuple(read), tuple(segments), size_bytes)


def _read_parts(store: ClipStore, reading: Reading, parts: Sequence[Part]) -> Fitted:
    """All clips, by records that tell of one or of several."""
    clips, told, size_bytes = [], [], 0
    for part, record, num_bytes in read_parts(store, parts):
        size_bytes += num_bytes
        told += [(span, not part.node.level) for span in part.spans]
        clips += [trim_clip(clip, reading.within(clip)) for clip in split_level(record, part)]
    fewer, segments = _fit(reading, clips)
    left = {place_of(clip): len(clip.tokens) for clip in fewer}
    read = [
        ReadClip(span, "merged", num_tokens, is_alone or num_tokens > 0)
        for span, is_alone in told
        for num_tokens in [left.get(place_of(span), 0)]
    ]
    chosen = tuple(span for part in parts for span in part.spans)
    return Fitted(chosen, tuple(read), tuple(segments), size_bytes)


def _find_parts(store: ClipStore, reading: Reading) -> list[Part] | None:
    """Records that tell of all clips; None where more than may be read have to be, or made."""
    most = reading.question.max_clips
    groups = [[clip.span for clip in part.to_read] for part in reading.parts]
    cut = {clip.span for part in reading.parts for clip in part.to_read if part.cuts(clip)}
    parts = cover(groups, cut, _most_tokens(reading), most)
    if parts is None or count_reads(store, [part.node for part in parts], most=most) > most:
        return None
    return parts


def _thin(reading: Reading) -> tuple[ClipSpan, ...]:
    """As many clips as may be read, evenly spaced."""
    groups = [[clip.span for clip in part.to_read] for part in reading.parts]
    clips = min(sum(map(len, groups)), reading.question.max_clips)
    return _flat(share_budget(groups, Budget(clips, None, clips), lambda _: 1))


def _most_tokens(reading: Reading) -> int:
    room, given = reading.room(), reading.question.max_visual_tokens
    return room if given is None else min(given, room)


def _read_found(store: ClipStore, reading: Reading, searched: Sequence[ClipSpan]) -> Fitted:
    """The clips that matter most, as many as fit; one that does not fit by itself is merged."""
    found = find_clips(store, reading, searched)
    room, most = reading.room(), reading.question.max_visual_tokens
    taken: list[ClipSpan] = []
    for span in (one.span for one in found):
        room -= reading.cost(span)
        most = None if most is None else most - span.num_tokens
        if room < 0 or (most is not None and most < 0):
            break
        taken.append(span)
    kept = set(taken) or {one.span for one in found[:1]}
    in_order = [span for span in searched if span in kept]
    fitted = (_read_stored if taken else _read_merged)(store, reading, in_order)
    seen = {one.span for one in found}
    unread = [span for span in searched if span not in seen]
    return replace(fitted, chosen=(*fitted.chosen, *unread))


def _flat(groups: Sequence[Sequence[ClipSpan]]) -> tuple[ClipSpan, ...]:
    return tuple(span for group in groups for span in group)


def _fit(
    reading: Reading, clips: Sequence[CompressedClip]
) -> tuple[list[CompressedClip], list[VisualSegment]]:
    """The clips with as many tokens as fit, and what is read of them."""
    if not clips:
        return [], []
    room, budget = reading.room(), _most_tokens(reading)
    while budget >= 1:
        fewer = merge_clips(clips, budget)
        read = reading.read([clip for clip in fewer if len(clip.tokens)], skip_empty=True)
        segments = [segment for _, of_clip in read for segment in of_clip]
        places = reading.count(
            [placeholder(s.mark, s.num_positions) if s.num_positions else s for s in segments]
        )
        if places <= room:
            return fewer, segments
        # Marks take places too: less by as much as is over, and at least by one token in 16.
        num_tokens = sum(len(segment.tokens) for segment in segments)
        budget = min(budget - max(1, budget // MAX_TRIES // 2), num_tokens * room // places)
    raise QueryTooLarge(
        f"got {room} places of context, which a mark for each of the streams takes; ask fewer "
        "streams, or a model with a longer context"
    )


def merge_clips(clips: Sequence[CompressedClip], budget: int) -> list[CompressedClip]:
    """The clips with `budget` tokens together; each stream's with its share, by itself.

    Raises:
        QueryTooLarge: less than a token for each stream.
    """
    groups: dict[str, list[CompressedClip]] = {}
    for clip in clips:
        groups.setdefault(clip.stream_id, []).append(clip)
    needs = [sum(len(clip.tokens) for clip in group) for group in groups.values()]
    least = [min(1, need) for need in needs]
    if sum(least) > budget:
        raise QueryTooLarge(
            f"the budget is {budget} visual tokens, expected at least one for each of "
            f"{len(groups)} streams; raise the budget, or ask fewer streams"
        )
    merged: list[CompressedClip] = []
    for group, share in zip(groups.values(), share_evenly(needs, budget, least), strict=True):
        fewer = recompress([clip.tokens for clip in group], max(1, share))
        merged += [replace(c, tokens=tokens) for c, tokens in zip(group, fewer, strict=True)]
    return merged
