"""Where a live picture lies: on the stream's own line of seconds, and in the world's time.

A stream's line is the wall clock since its first picture: stream second `x` happened at
`wall_start_s + x`, across reconnects and restarts, so that a question about a time of day finds the
right clips whatever the camera's clock did. Within an epoch the camera's own clock counts, which is
finer than arrivals are; an epoch is laid onto the line by the wall time of its first picture, and
behind all that came before. When a camera's clock has run away from the wall clock, a new epoch is
laid anew.
"""

from collections import deque
from dataclasses import dataclass

from workers.decode.live import Picture
from workers.names import ClockSource

MAX_SENDER_SKEW_S = 60.0
"""A sender's clock further off than this is taken for not set."""
MAX_BEHIND_S = 1.0
"""How far the line may be behind the wall clock before an epoch is laid anew."""
MAX_AHEAD_S: dict[ClockSource, float] = {"source": 1.0, "arrival": 10.0}
"""And ahead of it. A server that begins with some seconds of the past, all at once, puts arrivals
that much behind the line for as long as the connection lasts: that is no clock that runs away."""
DRIFT_PICTURES = 16
"""Drift is the least of so many: one late arrival is not a slow clock."""


@dataclass(frozen=True)
class Place:
    """Where one picture lies."""

    epoch: int
    pts_s: float
    """Stream seconds; rise through all epochs."""
    wall_s: float
    """Unix time of the picture."""
    clock: ClockSource
    starts_epoch: bool = False


class Timeline:
    """Places a stream's pictures; `wall_start_s` is the Unix time of stream second 0.

    `epoch`, `end_s`: where an earlier run ended; this one goes on behind it, in a new epoch.
    """

    def __init__(self, wall_start_s: float, *, epoch: int = -1, end_s: float = 0.0) -> None:
        self.wall_start_s = wall_start_s
        self._epoch, self._end_s = epoch, end_s
        self._of: tuple[int, int] | None = None
        self._offset_s = 0.0
        self._clock: ClockSource = "arrival"
        self._drifts_s: deque[float] = deque(maxlen=DRIFT_PICTURES)

    def place(self, connection: int, picture: Picture, *, interval_s: float) -> Place | None:
        """Where a picture of a connection lies; each speaks for `interval_s` of the stream.

        None for one that lies where others do already: the camera's clock ran ahead of the wall
        clock, which is waited for.
        """
        wall_s, clock = wall_time(picture)
        if self._is_ahead():
            if wall_s - self.wall_start_s < self._end_s:
                return None
            self._of = None
        starts = self._of != (connection, picture.epoch) or self._is_behind()
        if starts:
            start_s = max(wall_s - self.wall_start_s, self._end_s)
            self._open_epoch((connection, picture.epoch), start_s - picture.media_s, clock)
        pts_s = self._offset_s + picture.media_s
        self._drifts_s.append(wall_s - (self.wall_start_s + pts_s))
        self._end_s = max(self._end_s, pts_s + interval_s)
        return Place(self._epoch, pts_s, self.wall_start_s + pts_s, self._clock, starts)

    def _open_epoch(self, of: tuple[int, int], offset_s: float, clock: ClockSource) -> None:
        self._of, self._epoch, self._clock = of, self._epoch + 1, clock
        self._offset_s = offset_s
        self._drifts_s.clear()

    def _is_behind(self) -> bool:
        return self._knows_drift() and min(self._drifts_s) > MAX_BEHIND_S

    def _is_ahead(self) -> bool:
        return self._knows_drift() and max(self._drifts_s) < -MAX_AHEAD_S[self._clock]

    def _knows_drift(self) -> bool:
        return len(self._drifts_s) == DRIFT_PICTURES


def wall_time(picture: Picture) -> tuple[float, ClockSource]:
    """Unix time of a picture, and whose clock says so."""
    sent_s = picture.sent_s
    if sent_s is not None and abs(sent_s - picture.arrived_s) <= MAX_SENDER_SKEW_S:
        return sent_s, "source"
    return picture.arrived_s, "arrival"
