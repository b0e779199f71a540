"""A stream's clips on one timeline, whatever its clock did on the way.

A clip's seconds are the stream's, through all epochs. In streams of the first release every epoch
counted its own: there one that begins before the end of the one before it is put behind that one.
Works on index rows alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo

from pipeline.values.clock import StreamClock, Stretch
from pipeline.values.errors import InvalidQuery
from pipeline.values.times import parse_zone
from pipeline.values.types import ClipSpan, Gap, Position, StreamInfo


@dataclass(frozen=True)
class Placed:
    """A clip, and where on the stream's timeline it lies."""

    span: ClipSpan
    start_s: float
    end_s: float

    def overlaps(self, start_s: float, end_s: float) -> bool:
        """Whether it has a part in [start_s, end_s)."""
        return self.start_s < end_s and self.end_s > start_s


@dataclass(frozen=True)
class Timeline:
    """The clock of a stream, and how far each epoch was moved to come behind the one before."""

    clock: StreamClock
    shift_s: dict[int, float] = field(default_factory=dict)
    """By epoch; 0 where it has none."""

    def shift_of(self, epoch: int) -> float:
        """Seconds from an epoch's own time to the stream's."""
        return self.shift_s.get(epoch, 0.0)

    def place(self, span: ClipSpan) -> Placed:
        """Where a clip lies."""
        shift_s = self.shift_of(span.epoch)
        return Placed(span, span.start_s + shift_s, span.end_s + shift_s)

    def place_gap(self, gap: Gap) -> tuple[float, float]:
        """Where a gap lies."""
        shift_s = self.shift_of(gap.epoch)
        return gap.start_s + shift_s, gap.end_s + shift_s


def is_on_one_line(info: StreamInfo, position: Position | None) -> bool:
    """Whether a stream's seconds can be taken as they are, without a look at all its rows."""
    return position is None or position.epoch == 0 or info.made_with is not None


def simple_timeline(
    info: StreamInfo, position: Position | None, now: ClipSpan | None = None
) -> Timeline:
    """Of a stream on one line: its seconds as they are; it ends with its open clip."""
    end_s = max(position.end_s if position else 0.0, now.end_s if now else 0.0)
    return Timeline(StreamClock(end_s, info.wall_start_s, _zone_of(info)))


def build_timeline(
    info: StreamInfo, spans: Sequence[ClipSpan], removed: Sequence[Gap] = ()
) -> Timeline:
    """Of a stream whose epochs may count their own seconds, from its rows and what was removed."""
    parts = [*spans, *removed]
    shifts: dict[int, float] = {}
    stretches: list[Stretch] = []
    reached_s = float("-inf")
    for epoch in sorted({part.epoch for part in parts}):
        own = [span for span in parts if span.epoch == epoch]
        first = min(own, key=lambda span: span.start_s)
        last_s = max(span.end_s for span in own)
        shifts[epoch] = max(0.0, reached_s - first.start_s)
        start_s, reached_s = first.start_s + shifts[epoch], last_s + shifts[epoch]
        wall_s = _wall_of(first, start_s, info, stretches)
        if wall_s is not None:
            stretches.append(Stretch(start_s, reached_s, wall_s))
    end_s = max(reached_s, 0.0)
    clock = StreamClock(end_s, info.wall_start_s, _zone_of(info), tuple(stretches))
    return Timeline(clock, shifts)


def covered_s(parts: Iterable[tuple[float, float]], start_s: float, end_s: float) -> float:
    """Seconds of [start_s, end_s) that intervals of one timeline cover; overlaps count once."""
    total_s, reached_s = 0.0, start_s
    for part_start_s, part_end_s in sorted(parts):
        begin_s, stop_s = max(part_start_s, reached_s), min(part_end_s, end_s)
        total_s += max(0.0, stop_s - begin_s)
        reached_s = max(reached_s, stop_s)
    return total_s


def _wall_of(
    first: ClipSpan | Gap, start_s: float, info: StreamInfo, before: Sequence[Stretch]
) -> float | None:
    """Unix time at which an epoch begins: as its clips say, unless that lies back in time."""
    runs_on = None if info.wall_start_s is None else info.wall_start_s + start_s
    if before:
        last = before[-1]
        runs_on = last.wall_start_s + start_s - last.start_s
        ended = last.wall_start_s + last.end_s - last.start_s
        if first.wall_start_s is not None and first.wall_start_s < ended:
            return runs_on
    return runs_on if first.wall_start_s is None else first.wall_start_s


def _zone_of(info: StreamInfo) -> tzinfo | None:
    zone = None if info.made_with is None else info.made_with.source.zone
    try:
        return None if zone is None else parse_zone(zone)
    except InvalidQuery:  # known where it was ingested, and not here
        return None
