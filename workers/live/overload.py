"""What a live stream gives up, step by step, when the workers cannot keep up.

A ladder with hysteresis: down when frames have waited too long for some time, up again only after
a longer calm. Frames that piled up, while a model was loaded or a store was away, are no overload
as long as they are caught up with: slowly, where no worker was there meanwhile. Every step is told,
so that it can be written into the record. Files are never shed: they wait. A pure rule over a clock
that is given to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from workers.decode.live import Pace


@dataclass(frozen=True)
class Rung:
    """How much of a stream is read."""

    name: str
    fps_share: float = 1.0
    """Of the rate that was asked for."""
    pace: Pace = "all"
    takes_clips: bool = True
    """False drops whole clips, which become gaps of reason `overload`."""


LADDER = (
    Rung("full"),
    Rung("half-rate", fps_share=0.5),
    Rung("keyframes", fps_share=0.25, pace="keyframes"),
    Rung("dropping", fps_share=0.25, pace="keyframes", takes_clips=False),
)


CATCHING_UP = 0.5
"""Seconds that the wait shrinks by in a second: twenty are caught up with in forty."""
CATCHING_UP_AWAY = 0.1
"""The same, of what piled up while no worker was there, which says nothing of how fast they are."""

MOST_EXCUSED_S = 30.0
"""Of that; beyond it, as where workers die all the time, frames are late."""


@dataclass(frozen=True)
class OverloadRule:
    """When to step."""

    down_wait_s: float = 2.0
    """A frame that waited longer than this is late."""
    down_after_s: float = 3.0
    """Frames late for so long, and not being caught up with: one rung down."""
    up_after_s: float = 30.0
    """None late for so long: one rung up."""


class OverloadLadder:
    """Where one stream stands; `observe` is called with every frame that was done."""

    def __init__(
        self, rule: OverloadRule | None = None, *, ladder: Sequence[Rung] = LADDER
    ) -> None:
        self._rule, self._ladder = rule or OverloadRule(), tuple(ladder)
        self._at = 0
        self._late: tuple[float, float] | None = None
        """Since when, and how long frames had waited then."""
        self._calm_since_s: float | None = None
        self._away: tuple[float, float] = 0.0, 0.0
        """Until when, and how long, no worker was there the last time."""

    @property
    def rung(self) -> Rung:
        """How much of the source is decoded and encoded now."""
        return self._ladder[self._at]

    def observe(self, waited_s: float, now_s: float, *, away_s: float = 0.0) -> bool:
        """Take note of a frame's wait, for `away_s` of which no worker was there; whether that
        changed the rung."""
        before = self._at
        if away_s:
            self._away = now_s, min(MOST_EXCUSED_S, away_s + self._excused_s(now_s))
        if self._rule.down_wait_s < waited_s <= self._rule.down_wait_s + self._excused_s(now_s):
            self._late = None  # neither late nor calm: it is caught up with
        elif waited_s > self._rule.down_wait_s:
            self._calm_since_s = None
            since_s, had_waited_s = self._late = self._late or (now_s, waited_s)
            if now_s - since_s >= self._rule.down_after_s:
                self._late = now_s, waited_s
                if had_waited_s - waited_s < CATCHING_UP * (now_s - since_s):
                    self._move(1)
        else:
            self._late = None
            self._calm_since_s = now_s if self._calm_since_s is None else self._calm_since_s
            if now_s - self._calm_since_s >= self._rule.up_after_s:
                self._calm_since_s = now_s
                self._move(-1)
        return self._at != before

    def _excused_s(self, now_s: float) -> float:
        """What a frame may wait longer, since no worker was there."""
        until_s, away_s = self._away
        return max(0.0, away_s - CATCHING_UP_AWAY * (now_s - until_s))

    def _move(self, step: int) -> None:
        self._at = min(max(self._at + step, 0), len(self._ladder) - 1)
