"""The levels of a stream read, and made where they are missing.

A level's record is made from four of the level below, read or made in their turn, and kept: what a
question costs the first time it costs no more. Whoever writes a stream may make them as it goes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pipeline.store.checks import in_order
from pipeline.store.keys import record_id
from pipeline.store.levels import FANOUT, HIGHEST, Node, merge_node, node_at
from pipeline.values.errors import CorruptValue, SchemaMismatch

if TYPE_CHECKING:
    from pipeline.store.arrow import ClipRecord
    from pipeline.store.base import ClipStore
    from pipeline.values.types import ClipSpan

logger = logging.getLogger(__name__)

Clips = Sequence["ClipSpan"]
"""Index rows of the clips that a node tells of."""


def read_levels(
    store: ClipStore, asked: Sequence[tuple[Node, Clips]]
) -> Iterator[tuple[Node, ClipRecord | None]]:
    """Records of nodes in their order; None where none of their clips can be read.

    Raises:
        StoreError: what failed.
    """
    clips_of = dict(asked)
    for node, record in store.iter_levels(clips_of):
        yield node, make_level(store, node, clips_of[node]) if record is None else record


def make_level(store: ClipStore, node: Node, clips: Clips) -> ClipRecord | None:
    """A node's record from its children, kept unless they changed meanwhile; None without any.

    Raises:
        StoreError: what failed.
    """
    from pipeline.store.arrow import decode_clip, encode_clip

    children = _children(node, clips)
    read = _read_clips(store, children) if node.level == 1 else read_levels(store, children)
    records = dict(read)
    there = [record for record in records.values() if record is not None]
    if not there:
        return None
    merged, first = merge_node(node, [record.clip for record in there]), there[0]
    blob = encode_clip(merged, fingerprint=first.fingerprint, dtype=first.dtype)
    cold = [span for span in clips if span.cold is not None] if node.level == 1 else []
    away = {in_order(span) for span in cold}
    digests = {
        child: None if record is None or (child.epoch, child.first) in away else record.digest
        for child, record in ((child, records.get(child)) for child in node.children)
    }
    store.put_level(node, blob, digests, cold)
    return decode_clip(blob, key=node.record_id)


def count_reads(store: ClipStore, nodes: Iterable[Node], *, most: int) -> int:
    """Records that are read to have all nodes, with what has to be made; more than `most` of more.

    Clips count whether or not they are there.
    """
    wanted, reads = list(nodes), 0
    while wanted and reads <= most:
        levels = [node for node in wanted if node.level]
        found = store.find_levels(levels)
        missing = [node for node in levels if node not in found]
        reads += len(wanted) - len(missing)
        wanted = [child for node in missing for child in node.children]
    return reads + len(wanted)


def _children(node: Node, clips: Clips) -> list[tuple[Node, Clips]]:
    """The nodes below, each with its clips; of clips those that are there."""
    children = [(c, [s for s in clips if c.first <= s.index < c.end]) for c in node.children]
    return [(child, own) for child, own in children if own or child.level]


def _read_clips(
    store: ClipStore, children: Sequence[tuple[Node, Clips]]
) -> Iterator[tuple[Node, ClipRecord | None]]:
    from pipeline.store.arrow import decode_clip

    for child, [span] in children:
        key = record_id(span.stream_id, span.epoch, span.index)
        try:
            yield child, decode_clip(store.get_record(span), key=key)
        except (CorruptValue, SchemaMismatch) as error:
            logger.warning("left out of a level: %s", error)
            yield child, None


class Pyramid:
    """The levels of one stream, made as far as its clips reach."""

    def __init__(self, store: ClipStore, stream_id: str) -> None:
        self._store, self._stream_id = store, stream_id
        self._done_s = float("-inf")
        """Stream time before which all are there that were to be made."""

    def turn(self, goes_on: Callable[[], bool] = lambda: True) -> int:
        """Make what is missing, in the order of time; how many were made.

        Raises:
            UnknownStream: there is no such stream.
            StoreError: what failed; what was done is kept.
        """
        position, made = self._store.get_position(self._stream_id), 0
        last = -1 if position is None else position.index
        for lowest, clips in self._iter_groups():
            if lowest.end > last + 1 or not goes_on():
                break
            made += self._make_over(lowest, clips)
            self._done_s = clips[0].start_s
        return made

    def _iter_groups(self) -> Iterator[tuple[Node, list[ClipSpan]]]:
        start_s = None if self._done_s == float("-inf") else self._done_s
        group: list[ClipSpan] = []
        for span in self._store.iter_spans(self._stream_id, start_s):
            if group and _lowest(span) != _lowest(group[0]):
                yield _lowest(group[0]), group
                group = []
            group.append(span)
        if group:
            yield _lowest(group[0]), group

    def _make_over(self, lowest: Node, clips: Clips) -> int:
        """The lowest node, and those above it whose group ends with it."""
        above = [
            node_at(self._stream_id, lowest.epoch, lowest.first, level)
            for level in range(2, HIGHEST + 1)
            if lowest.end % FANOUT**level == 0
        ]
        found = self._store.find_levels([lowest, *above])
        made = lowest not in found and make_level(self._store, lowest, clips) is not None
        for node in above:
            if node not in found:
                is_made = len(self._store.find_levels(node.children)) == FANOUT
                own = [] if is_made else self._clips_of(node, clips[-1].end_s)
                made += make_level(self._store, node, own) is not None
        return int(made)

    def _clips_of(self, node: Node, end_s: float) -> list[ClipSpan]:
        spans = self._store.iter_spans(self._stream_id, None, end_s)
        return [s for s in spans if s.epoch == node.epoch and node.first <= s.index < node.end]


def _lowest(span: ClipSpan) -> Node:
    return node_at(span.stream_id, span.epoch, span.index, 1)
