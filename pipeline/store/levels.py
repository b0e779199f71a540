"""A pyramid in time beside a stream's clips: records of 4, 16, 64, ... clips, each of one's size.

A node stands for the clips whose indexes are a group of `FANOUT ** level`, counted from 0, whatever
of them there are. It is made of the four nodes below it (of clips at the lowest level) by merging
their tokens further, and holds as many as the largest of them; so that a question about a day reads
as much as one about ten minutes. A node is only ever what its clips are: it goes with the first of
them that is removed, faded or added, and is made anew when it is needed. Pure; `merge_node`
loads torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.store.checks import Place
from pipeline.store.keys import record_id

if TYPE_CHECKING:
    from aot import ClipTokens
    from pipeline.values.types import ClipSpan
    from workers.types import CompressedClip

FANOUT = 4
HIGHEST = 6
"""4,096 clips: nine hours at eight seconds each."""


@dataclass(frozen=True)
class Node:
    """A group of clips that has one record; of level 0 a clip itself."""

    stream_id: str
    epoch: int
    first: int
    """Index of its first clip, whether or not it is there."""
    level: int

    @property
    def clips(self) -> int:
        """How many indexes it stands for."""
        return FANOUT**self.level

    @property
    def end(self) -> int:
        """Index behind its last clip."""
        return self.first + self.clips

    @property
    def record_id(self) -> str:
        """What its record's digest says it is."""
        return record_id(self.stream_id, self.epoch, self.first, self.clips)

    @property
    def children(self) -> tuple[Node, ...]:
        """Those it is made of; none of a clip."""
        if not self.level:
            return ()
        size = self.clips // FANOUT
        return tuple(
            replace(self, first=self.first + size * number, level=self.level - 1)
            for number in range(FANOUT)
        )


def nodes_over(stream_id: str, place: Place) -> Iterator[Node]:
    """The nodes that tell of a clip, from the lowest level on."""
    epoch, index = place
    for level in range(1, HIGHEST + 1):
        yield node_at(stream_id, epoch, index, level)


def nodes_over_all(stream_id: str, places: Iterable[Place]) -> list[Node]:
    """The nodes that tell of any of some clips, each once; quick where they are many."""
    firsts, nodes = set(places), list[Node]()
    for level in range(1, HIGHEST + 1):
        size = FANOUT**level  # what tells of two nodes of one node tells of both of their clips
        firsts = {(epoch, index - index % size) for epoch, index in firsts}
        nodes += (Node(stream_id, epoch, first, level) for epoch, first in sorted(firsts))
    return nodes


def nodes_of(spans: Iterable[ClipSpan]) -> list[Node]:
    """The nodes that may tell of some clips, each once, the lower ones of a clip first."""
    over = (node for span in spans for node in nodes_over(span.stream_id, (span.epoch, span.index)))
    return list(dict.fromkeys(over))


def node_at(stream_id: str, epoch: int, index: int, level: int) -> Node:
    """The node of a level in whose group an index lies."""
    return Node(stream_id, epoch, index - index % FANOUT**level, level)


def merge_node(node: Node, children: Sequence[CompressedClip]) -> CompressedClip:
    """The record of a node, from those of its children that are there; at least one.

    It keeps the times of the frames that still have tokens, and of no others.
    """
    from aot import recompress
    from workers.types import Level

    budget = max(1, max(len(child.tokens) for child in children))
    merged = recompress([child.tokens for child in children], budget)
    told = [_compact(replace(c, tokens=t)) for c, t in zip(children, merged, strict=True)]
    first, last = children[0], children[-1]
    stats = {
        name: sum(getattr(child.stats, name) for child in children)
        for name in ("frames_in", "tokens_in", "tokens_out", "damaged", "shed")
    }
    return replace(
        first,
        index=node.first,
        end_s=last.end_s,
        pts_s=tuple(pts_s for one in told for pts_s in one.pts_s) or first.pts_s[:1],
        tokens=_join(told),
        stats=replace(first.stats, decode_s=0.0, encode_s=0.0, reduce_s=0.0, **stats),
        level=Level(min(child.level.keep for child in children), node.clips),
    )


def _join(told: Sequence[CompressedClip]) -> ClipTokens:
    from aot import join_clips

    return join_clips([one.tokens for one in told], [len(one.pts_s) for one in told])


def _compact(clip: CompressedClip) -> CompressedClip:
    """Without the frames of which no token speaks; temporal patches stay whole."""
    from aot import drop_empty_frames

    tokens, frames = drop_empty_frames(clip.tokens, clip.layout.frames)
    last = len(clip.pts_s) - 1  # a patch that the clip's end cut off is filled up
    return replace(clip, pts_s=tuple(clip.pts_s[min(f, last)] for f in frames), tokens=tokens)
