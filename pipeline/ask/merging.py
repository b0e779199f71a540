"""Records with as many tokens as fit: merged once, until tokens and the marks before them fit.

What a mark takes is shared by the tokens behind it, so that how many tokens fit is known when they
are merged and not before: `aot.recompress` asks after every merge what is left takes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from aot import recompress
from pipeline.ask.cover import NEAR_S, Part, split_level
from pipeline.ask.prompt import MAX_TRIES
from pipeline.ask.retrieval import share_evenly
from pipeline.values.errors import QueryTooLarge
from workers.reading import RunCosts, placeholder

if TYPE_CHECKING:
    from pipeline.ask.prompt import Reading
    from workers.models import VisualSegment
    from workers.types import CompressedClip

Records = Sequence[tuple[Part, "CompressedClip"]]
"""What is read, and of which clips it tells."""


def fit_records(
    reading: Reading, records: Records, most_tokens: int
) -> tuple[list[CompressedClip], list[VisualSegment]]:
    """The clips that are told of, with as many tokens as fit, and what is read of them.

    Raises:
        QueryTooLarge: not one token of each stream fits.
    """
    if not records:
        return [], []
    room = reading.room()
    places = room - reading.names_cost
    for _ in range(MAX_TRIES):
        fewer = merge_records(reading, records, most_tokens, places)
        clips = [clip for part, record in fewer for clip in split_level(record, part)]
        segments = [
            segment
            for _, of_clip in reading.read(
                [clip for clip in clips if len(clip.tokens)], skip_empty=True
            )
            for segment in of_clip
        ]
        over = _count(reading, segments) - room
        if over <= 0:
            return clips, segments
        places -= over  # marks took more than those that were measured
    raise _no_room_error(room)


def merge_records(
    reading: Reading, records: Records, most_tokens: int, places: int
) -> list[tuple[Part, CompressedClip]]:
    """The records with so many tokens and places together; each stream's with its share.

    Raises:
        QueryTooLarge: less than a token for each stream.
    """
    streams = [stream for stream in _by_stream(reading, records) if stream.num_tokens]
    tokens = [stream.num_tokens for stream in streams]
    if len(streams) > most_tokens:
        raise QueryTooLarge(
            f"the budget is {most_tokens} visual tokens, expected at least one for each of "
            f"{len(streams)} streams; raise the budget, or ask fewer streams"
        )
    needs = [stream.cost.count() for stream in streams]
    least = [stream.cost.least for stream in streams]
    if sum(least) > places:
        raise _no_room_error(places)
    shares = zip(
        streams,
        share_evenly(tokens, most_tokens, [1] * len(streams)),
        share_evenly(needs, places, least),
        strict=True,
    )
    return [one for stream, budget, room in shares for one in stream.merge(budget, room)]


def _by_stream(reading: Reading, records: Records) -> list[_Stream]:
    groups: dict[str, list[tuple[Part, CompressedClip]]] = {}
    for part, record in records:
        groups.setdefault(record.stream_id, []).append((part, record))
    return [_Stream(reading, group) for group in groups.values()]


@dataclass(frozen=True)
class _Stream:
    """One stream's records."""

    reading: Reading
    records: Records

    @property
    def num_tokens(self) -> int:
        return sum(len(record.tokens) for _, record in self.records)

    @cached_property
    def cost(self) -> RunCosts:
        """What their tokens take in a prompt."""
        told = [(record, _clips_of_frames(part, record)) for part, record in self.records]
        return RunCosts(told, self.reading.style, self.reading.mark_cost)

    def merge(self, budget: int, room: int) -> list[tuple[Part, CompressedClip]]:
        """The records with so many tokens at most, that take so many places."""
        fewer = recompress(
            [record.tokens for _, record in self.records],
            budget,
            fits=lambda stays: self.cost.count(stays) <= room,
        )
        return [
            (part, replace(record, tokens=tokens))
            for (part, record), tokens in zip(self.records, fewer, strict=True)
        ]


def _clips_of_frames(part: Part, record: CompressedClip) -> list[int]:
    """Which of the clips with tokens in a record each frame is of, as `split_level` has it."""
    if not part.node.level:
        return [0] * len(record.pts_s)
    starts_s = [span.start_s for span in part.spans]
    clips = [max(0, bisect_right(starts_s, pts_s + NEAR_S) - 1) for pts_s in record.pts_s]
    number = {clip: at for at, clip in enumerate(dict.fromkeys(clips))}
    return [number[clip] for clip in clips]


def _count(reading: Reading, segments: Sequence[VisualSegment]) -> int:
    return reading.count(
        [placeholder(s.mark, s.num_positions) if s.num_positions else s for s in segments]
    )


def _no_room_error(room: int) -> QueryTooLarge:
    return QueryTooLarge(
        f"got {room} places of context, which a mark for each of the streams takes; ask fewer "
        "streams, or a model with a longer context"
    )
