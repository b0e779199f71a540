"""How long each picture of an epoch is shown, from its packets alone, in ticks of the track."""

import bisect
from dataclasses import dataclass
from fractions import Fraction

TOLD_HOLD_S = 600.0
"""How long a picture is shown at most where the container says that it is."""

UNTOLD_HOLD_S = 120.0
"""How long a picture is shown at most where the container does not say that it is."""


class Timeline:
    """When the packets of one epoch are shown, as far as they were read.

    A picture is shown until the next one. The packets alone say when that is, whether the picture
    behind it can be decoded or not, so that planned, full and resumed decodes agree on it.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._shown: list[tuple[int, int, int]] = []
        """(tick, stretch, duration) of every packet not yet forgotten, by tick."""

    def add(self, tick: int, stretch: int, duration: int) -> None:
        """`stretch` counts the jumps of the decode clock before the packet."""
        bisect.insort(self._shown, (tick, stretch, duration))

    def look_up(self, tick: int) -> tuple[int | None, bool, int]:
        """(when the next picture comes, whether the clock ran on until then, declared duration)."""
        behind = bisect.bisect_left(self._shown, (tick + 1,))
        _, stretch, duration = self._shown[behind - 1] if behind else (tick, 0, 0)
        if behind == len(self._shown):
            return None, True, duration
        next_tick, next_stretch, _ = self._shown[behind]
        return next_tick, stretch == next_stretch, duration

    def forget_before(self, tick: int) -> None:
        """Drop what no picture from `tick` on asks for."""
        del self._shown[: bisect.bisect_left(self._shown, (tick,))]


@dataclass(frozen=True)
class HoldLimits:
    """How long a picture may stand for the stream, in ticks; without a bound a lost camera would
    be a very still one."""

    told: int
    """Where the container says that it is shown so long."""
    untold: int
    """Where nothing comes for a while and the container does not say why. 0 where durations can be
    relied on (MP4, and MPEG as far as it has any): there it is a loss."""

    @classmethod
    def of(cls, container: str, time_base: Fraction, max_hold_s: float | None) -> "HoldLimits":
        """For FFmpeg's name of a container; `max_hold_s` where somebody knows better."""
        told_s = TOLD_HOLD_S if max_hold_s is None else max_hold_s
        untold_s = UNTOLD_HOLD_S if max_hold_s is None else max_hold_s
        tells = container.startswith(("mpeg", "mov"))
        return cls(
            round(told_s / float(time_base)), 0 if tells else round(untold_s / float(time_base))
        )

    def end(self, timeline: Timeline, tick: int) -> int:
        """When the picture at `tick` ends: at the next one, or where it can stand no longer."""
        next_tick, ran_on, duration = timeline.look_up(tick)
        if next_tick is not None and ran_on:
            return min(next_tick, tick + self.told)
        longest = tick + max(min(duration, self.told), 0 if next_tick is None else self.untold)
        return longest if next_tick is None else min(next_tick, longest)
