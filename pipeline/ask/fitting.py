"""What is read of a question's clips, and how closely, so that it fits the budget.

Where all fit they are read as they were stored. Else `choose` leaves clips out; `find` looks
through all and reads those that matter for the question; `recompress` leaves none out: tokens are
merged further over neighbouring clips (`aot.recompress`), each stream's by itself, until the prompt
fits. What is read for that are the levels kept beside the clips (`cover`), so that the cost depends
on the budget and not on the range.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.ask.cover import Part, cover, part_of, read_parts
from pipeline.ask.finding import find_clips
from pipeline.ask.loading import iter_clips, place_of
from pipeline.ask.merging import fit_records
from pipeline.ask.retrieval import Budget, share_budget
from pipeline.ask.windows import Window, Windows
from pipeline.store.pyramid import count_reads
from pipeline.values.errors import QueryTooLarge
from workers.reading import trim_clip
from workers.types import FULL_LEVEL

if TYPE_CHECKING:
    from pipeline.ask.answer import Detail
    from pipeline.ask.prompt import Reading
    from pipeline.store import ClipStore
    from pipeline.values.types import ClipSpan
    from workers.models import VisualSegment

MADE_READS = 640
"""Records that a question reads at most where levels are missing, to make them: those of about an
hour. Over more it reads clips, evenly spaced, until somebody made the levels."""

Groups = Sequence[Sequence["ClipSpan"]]
"""Clips of each stream, in order."""


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
    """Of records; none where the merged window was kept."""


def plan_reading(reading: Reading) -> Plan:
    """The clips to load, by the index alone.

    Raises:
        InvalidQuery: the context leaves no room for video.
        QueryTooLarge: not one clip of each stream fits.
    """
    groups = reading.groups
    found = sum(map(len, groups))
    if reading.question.fit == "choose":
        return Plan(_flat(reading.choose()), merge=False)
    if found > reading.question.max_clips or _num_tokens(groups) > _most_tokens(reading):
        return Plan(_flat(groups), merge=True)
    try:
        chosen = reading.choose()
    except QueryTooLarge:  # whole clips: merged ones may fit
        chosen = []
    if sum(map(len, chosen)) == found:
        return Plan(_flat(chosen), merge=False)
    return Plan(_flat(groups), merge=True)


def load_clips(
    store: ClipStore, reading: Reading, plan: Plan, windows: Windows | None = None
) -> Fitted:
    """Load the clips, and make them fit; what was merged lately is in `windows`.

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
        parts = [part_of(span) for span in _thin(reading, _enough_clips(reading))]
    return _read_merged(store, reading, parts, windows)


def _read_stored(store: ClipStore, reading: Reading, chosen: Sequence[ClipSpan]) -> Fitted:
    spans = {place_of(span): span for span in chosen}
    read, segments = [], []
    for clip, of_clip in reading.read(iter_clips(store, chosen, reading.open_clips), stored=True):
        if of_clip:
            num_tokens = sum(len(segment.tokens) for segment in of_clip)
            detail = "stored" if clip.level == FULL_LEVEL else "faded"
            read.append(ReadClip(spans[place_of(clip)], detail, num_tokens))
            segments += of_clip
    size_bytes = sum(clip.span.size_bytes for clip in read)
    return Fitted(tuple(chosen), tuple(read), tuple(segments), size_bytes)


def _read_merged(
    store: ClipStore, reading: Reading, parts: Sequence[Part], windows: Windows | None = None
) -> Fitted:
    """All clips, by records that tell of one or of several, with as many tokens as fit."""
    key = None if windows is None else _window_key(store, reading, parts)

    def make() -> tuple[Window, bool]:
        made = _merge(store, reading, parts)
        # What was read is what is kept under the key if nothing changed meanwhile.
        is_whole = len(made.nodes) == len(parts)
        return made, is_whole and _window_key(store, reading, parts) == key

    if windows is None or key is None:
        window, is_kept = _merge(store, reading, parts), False
    else:
        window, is_kept = windows.get(key, make)
    read = [
        ReadClip(span, "merged", num_tokens, not part.node.level or num_tokens > 0)
        for part in parts
        if part.node in window.nodes
        for span in part.spans
        for num_tokens in [window.left.get(place_of(span), 0)]
    ]
    chosen = tuple(span for part in parts for span in part.spans)
    return Fitted(chosen, tuple(read), window.segments, 0 if is_kept else window.bytes_read)


def _merge(store: ClipStore, reading: Reading, parts: Sequence[Part]) -> Window:
    """Read the records and merge them."""
    records, size_bytes = [], 0
    for part, record, num_bytes in read_parts(store, parts, reading.open_clips):
        size_bytes += num_bytes
        is_whole = part.node.level > 0
        records.append((part, record if is_whole else trim_clip(record, reading.within(record))))
    fewer, segments = fit_records(reading, records, _most_tokens(reading))
    left = {place_of(clip): len(clip.tokens) for clip in fewer}
    return Window(frozenset(p.node for p, _ in records), tuple(segments), left, size_bytes)


def _window_key(store: ClipStore, reading: Reading, parts: Sequence[Part]) -> Hashable | None:
    """All that the merged window depends on; None where a record has no digest in the server."""
    if any(span.is_open for part in parts if not part.node.level for span in part.spans):
        return None
    digests = store.list_digests(part.node for part in parts)
    if len(digests) < len(parts):
        return None
    told = ((part.node, digests[part.node], [s.start_s for s in part.spans]) for part in parts)
    records = tuple((node, digest, tuple(starts_s)) for node, digest, starts_s in told)
    return records, _terms(reading)


def _terms(reading: Reading) -> Hashable:
    """All that what is read of given records hangs on beside them."""
    ranges = tuple(
        (
            part.stream_id,
            (part.start_s, part.end_s, part.before and part.before.span, len(part.to_read)),
            tuple(sorted(part.timeline.shift_s.items())),
            replace(part.timeline.clock, end_s=0.0, now_s=0.0),
        )
        for part in reading.parts
    )
    costs = (reading.room(), reading.mark_cost, reading.names_cost)
    budget = reading.question.max_visual_tokens
    return reading.model.identity, reading.style, reading.named, costs, budget, ranges


def _find_parts(store: ClipStore, reading: Reading) -> list[Part] | None:
    """Records that tell of all clips; None where more than may be read have to be, or made."""
    most = reading.question.max_clips
    # An open clip is no part of a level: it is read by itself, as one that is cut.
    cut = {
        clip.span
        for part in reading.parts
        for clip in part.to_read
        if part.cuts(clip) or clip.span.is_open
    }
    parts = cover(reading.groups, cut, _expected_tokens(reading), most)
    if parts is None:
        return None
    most = min(most, max(len(parts), MADE_READS))
    reads = count_reads(store, [part.node for part in parts], most=most)
    return None if reads > most else parts


def _enough_clips(reading: Reading) -> int:
    """Clips of which more are of no use: there is not a token for each."""
    return max(len(reading.parts), _expected_tokens(reading))


def _thin(reading: Reading, most: int | None = None) -> tuple[ClipSpan, ...]:
    """As many clips as may be read, `most` of them, evenly spaced."""
    clips = min(sum(map(len, reading.groups)), reading.question.max_clips)
    clips = clips if most is None else min(clips, most)
    return _flat(share_budget(reading.groups, Budget(clips, None, clips), lambda _: 1))


def _most_tokens(reading: Reading) -> int:
    room, given = reading.room(), reading.question.max_visual_tokens
    return room if given is None else min(given, room)


def _expected_tokens(reading: Reading) -> int:
    """About as many as will fit: of the context those whose marks fit too, as clips have them."""
    num_clips, num_tokens = sum(map(len, reading.groups)), _num_tokens(reading.groups)
    share = reading.room() / max(1, reading.cost_of(num_clips, num_tokens))
    return max(1, min(_most_tokens(reading), int(num_tokens * share)))


def _num_tokens(groups: Groups) -> int:
    return sum(span.num_tokens for group in groups for span in group)


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
    if taken:
        fitted = _read_stored(store, reading, in_order)
    else:
        fitted = _read_merged(store, reading, [part_of(span) for span in in_order])
    seen = {one.span for one in found}
    unread = [span for span in searched if span not in seen]
    return replace(fitted, chosen=(*fitted.chosen, *unread))


def _flat(groups: Groups) -> tuple[ClipSpan, ...]:
    return tuple(span for group in groups for span in group)
