"""How many workers a pool should have: by what waits for one, within bounds, and not too often.

One more is asked for once work has waited for a while, one goes once fewer would have done for a
longer while: what lies between changes nothing. An actor that is asked for and finds no place waits
in Ray as demand, by which its autoscaler adds a machine.
"""

from collections import deque
from dataclasses import dataclass

from workers.errors import InvalidSettings


@dataclass(frozen=True)
class Scaling:
    """Bounds of a pool, and how slowly it follows."""

    least: int = 1
    most: int = 1
    grow_after_s: float = 2.0
    """Work waits for so long before another worker is asked for; where there is none, not at
    all."""
    idle_after_s: float = 120.0
    """Fewer must do for so long before one is let go."""

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most or self.most < 1:
            raise InvalidSettings(
                f"got at least {self.least} and at most {self.most} workers; expected 0 or more, "
                "and at most 1 or more of them"
            )

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to decide."""
        return self.least == self.most


class Demand:
    """Follows one pool: asked every moment, it says what to do."""

    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling
        self._surplus_since_s: float | None = None

    def decide(self, now_s: float, *, there: int, needed: int, waited_s: float | None) -> int:
        """1 to ask for a worker, -1 to let one go, else 0.

        `there` are those that work and those that start, `needed` would do for what is at work,
        `waited_s` is how long the oldest work has waited for a worker; None where none waits.
        """
        rule = self._scaling
        if there < rule.least:
            return 1
        if waited_s is not None:
            self._surplus_since_s = None
            is_due = there == 0 or waited_s >= rule.grow_after_s
            return int(is_due and there < rule.most)
        if there == rule.least or needed >= there:
            self._surplus_since_s = None
            return 0
        if self._surplus_since_s is None:
            self._surplus_since_s = now_s
        if now_s - self._surplus_since_s < rule.idle_after_s:
            return 0
        self._surplus_since_s = None
        return -1


SPARE = 0.7
"""How busy the others may get by what one that goes leaves to them."""


class Busyness:
    """Whether a worker that is the `number`th of its pool, from 0, is not needed any more.

    It looks at itself alone: what it has done would make each of the others, which had as much to
    do, busy for less than `SPARE` of the time.
    """

    def __init__(self, number: int, scaling: Scaling) -> None:
        self._share = SPARE * number / (number + 1)
        self._is_spare = number >= scaling.least
        self._window_s = scaling.idle_after_s
        self._seen: deque[tuple[float, bool]] = deque()

    def note(self, now_s: float, *, is_busy: bool) -> bool:
        """Take note of a moment, of many at equal distances; whether it may go."""
        if not self._is_spare:
            return False
        seen = self._seen
        seen.append((now_s, is_busy))
        if now_s - seen[0][0] < self._window_s:
            return False
        while now_s - seen[0][0] > self._window_s:
            seen.popleft()
        return not is_busy and sum(busy for _, busy in seen) < self._share * len(seen)
