"""Which records tell of a range as closely as a budget has use for: clips, or levels over them.

Chosen by index rows alone. A level's record is read only where all that it tells of is asked for:
the ends of a range, and what is not yet four clips, are read finer.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING

from aot import split_frames
from pipeline.ask.loading import ClipPlace, iter_clips, place_of
from pipeline.store.levels import FANOUT, HIGHEST, Node, node_at
from pipeline.store.pyramid import read_levels

if TYPE_CHECKING:
    from aot import ClipTokens
    from pipeline.store import ClipStore
    from pipeline.values.types import ClipSpan
    from workers.types import CompressedClip

NEAR_S = 1e-6
AMPLE = FANOUT
"""Records are read that hold so many times the budget at most: what is merged is chosen among more
than fits, and a level holds four times what the next one does."""


@dataclass(frozen=True)
class Part:
    """A record to be read, and the clips it tells of."""

    node: Node
    spans: tuple[ClipSpan, ...]

    @cached_property
    def num_tokens(self) -> int:
        """At most."""
        return max(span.num_tokens for span in self.spans)


def part_of(span: ClipSpan) -> Part:
    """A clip's own record."""
    return Part(Node(span.stream_id, span.epoch, span.index, 0), (span,))


def cover(
    groups: Sequence[Sequence[ClipSpan]], cut: Collection[ClipSpan], budget: int, most: int
) -> list[Part] | None:
    """Records that tell of all clips, the finest that do not hold many more tokens than the budget.

    Args:
        groups: clips of each stream, in order.
        cut: those of them of which a part alone is asked for.
        budget: tokens that are to be left.
        most: records that may be read.

    None where even the coarsest are more.
    """
    num_clips, num_tokens = sum(map(len, groups)), sum(s.num_tokens for g in groups for s in g)
    for level in range(HIGHEST + 1):
        share = FANOUT**level  # of what there is, a level has no less
        if level < HIGHEST and max(num_tokens / (AMPLE * budget), num_clips / most) > share:
            continue
        parts = [part for spans in groups for part in _cover_stream(spans, cut, level)]
        is_ample = sum(part.num_tokens for part in parts) <= AMPLE * budget
        if len(parts) <= most and (is_ample or level == HIGHEST):
            return parts
    return None


def _cover_stream(
    spans: Sequence[ClipSpan], cut: Collection[ClipSpan], level: int
) -> Iterator[Part]:
    if not spans:
        return
    indexes, held = [span.index for span in spans], {span.index for span in cut}
    known = range(indexes[0], indexes[-1] + 1)
    at = 0
    while at < len(spans):
        node, stop = _highest(spans[at], level, known, held), at + 1
        if node.level:
            stop = bisect_left(indexes, node.end, at)
            while spans[stop - 1].epoch != node.epoch:
                stop -= 1
        yield Part(node, tuple(spans[at:stop]))
        at = stop


def _highest(span: ClipSpan, level: int, known: range, held: Collection[int]) -> Node:
    """The highest node over a clip that tells of nothing but what is asked for."""
    for height in range(level, 0, -1):
        node = node_at(span.stream_id, span.epoch, span.index, height)
        is_known = known.start <= node.first and node.end <= known.stop
        if is_known and not any(node.first <= index < node.end for index in held):
            return node
    return Node(span.stream_id, span.epoch, span.index, 0)


def read_parts(
    store: ClipStore,
    parts: Sequence[Part],
    open_clips: Mapping[ClipPlace, CompressedClip] = MappingProxyType({}),
) -> Iterator[tuple[Part, CompressedClip, int]]:
    """The parts that can be read, in their order, with the bytes of each record."""
    for level, run in groupby(parts, key=lambda part: part.node.level > 0):
        some = list(run)
        if level:
            read = read_levels(store, [(part.node, part.spans) for part in some])
            for part, (_, record) in zip(some, read, strict=True):
                if record is not None:
                    yield part, record.clip, record.size_bytes
        else:
            by_place = {place_of(part.spans[0]): part for part in some}
            for clip in iter_clips(store, [p.spans[0] for p in some], open_clips):
                part = by_place[place_of(clip)]
                yield part, clip, part.spans[0].size_bytes


def split_level(told: CompressedClip, part: Part) -> list[CompressedClip]:
    """The clips that a record tells of, each with those of its tokens that are left of it.

    Those of which none is left are left out.
    """
    if not part.node.level:
        return [told]
    starts_s = [span.start_s for span in part.spans]
    of_frame = [max(0, bisect_right(starts_s, pts_s + NEAR_S) - 1) for pts_s in told.pts_s]
    firsts = [
        frame for frame, one in enumerate(of_frame) if not frame or one != of_frame[frame - 1]
    ]
    stops = [*firsts[1:], len(of_frame)]
    return [
        _clip_of(part.spans[of_frame[first]], told, told.pts_s[first:stop], tokens)
        for first, stop, tokens in zip(
            firsts, stops, split_frames(told.tokens, firsts), strict=True
        )
        if len(tokens)
    ]


def _clip_of(
    span: ClipSpan, told: CompressedClip, pts_s: tuple[float, ...], tokens: ClipTokens
) -> CompressedClip:
    return replace(
        told,
        index=span.index,
        start_s=span.start_s,
        end_s=span.end_s,
        wall_start_s=span.wall_start_s,
        pts_s=pts_s,
        tokens=tokens,
    )
