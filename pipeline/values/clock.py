"""A stream's seconds and the wall clock, one into the other, where the clock was set anew too.

Knows of no store and of no way in which times are written; that is `pipeline.values.times`.
"""

import time
from dataclasses import dataclass, field
from datetime import datetime, tzinfo


@dataclass(frozen=True)
class Stretch:
    """A part of a stream through which its clock ran on: an epoch."""

    start_s: float
    end_s: float
    wall_start_s: float
    """Unix time of `start_s`."""


@dataclass(frozen=True)
class StreamClock:
    """What turns a written time into seconds of a stream, and those into the wall clock."""

    end_s: float
    """End of what is stored."""
    wall_start_s: float | None = None
    """Unix time of stream second 0."""
    zone: tzinfo | None = None
    """The stream's; None takes this machine's."""
    stretches: tuple[Stretch, ...] = ()
    """In order, where the clock was set anew in the stream's course."""
    now_s: float = field(default_factory=time.time)
    """Unix time of the asking."""

    @property
    def has_wall(self) -> bool:
        """Whether its moments can be told as times of day."""
        return self.wall_start_s is not None or bool(self.stretches)

    def to_wall(self, stream_s: float) -> float | None:
        """Unix time of a second of the stream."""
        if not self.has_wall:
            return None
        part = self._stretches()[0]
        for later in self._stretches()[1:]:
            if later.start_s <= stream_s:
                part = later
        return part.wall_start_s + stream_s - part.start_s

    def to_stream(self, wall_s: float) -> float:
        """Second of the stream at a Unix time; between two stretches where the later begins."""
        parts = self._stretches()
        for part, later in zip(parts, [*parts[1:], None], strict=True):
            seconds_s = part.start_s + wall_s - part.wall_start_s
            if later is None or seconds_s < part.end_s:
                return seconds_s
            if wall_s < later.wall_start_s:
                return later.start_s
        raise AssertionError("a clock has a stretch")

    def local(self, stream_s: float) -> datetime | None:
        """Date and time of day of a second of the stream, in its zone."""
        wall_s = self.to_wall(stream_s)
        return (
            None
            if wall_s is None
            else datetime.fromtimestamp(wall_s, self.zone).astimezone(self.zone)
        )

    def _stretches(self) -> tuple[Stretch, ...]:
        if self.stretches:
            return self.stretches
        if self.wall_start_s is None:
            raise ValueError("the stream has no wall clock")
        return (Stretch(0.0, max(self.end_s, 0.0), self.wall_start_s),)
