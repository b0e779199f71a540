"""Which pictures a sampling rate wants, and at what times; arithmetic on ticks, no packets."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

from workers.types import is_gap

TOLERANCE_S = Fraction(1, 2000)
"""How early a frame may be for its target: half a tick of its clock, and never more than this."""


class SamplingGrid:
    """Which ticks a rate wants: the first frame at or after each target `start_s + k / fps`.

    A frame belongs to slot `k` when it lies in [target k, target k + 1); the first frame of each
    slot that has one is wanted. That is a function of the timestamps alone. Containers round
    timestamps to their ticks, so a frame counts as being on a target up to half a tick (at most
    half a millisecond) before it.

    A picture that stands so long that there would be a gap behind it is wanted again at the target
    of every slot that has no picture of its own.
    """

    def __init__(
        self,
        time_base: Fraction,
        origin: int,
        fps: float | None,
        start_s: float = 0.0,
        end_s: float | None = None,
    ) -> None:
        self.time_base = time_base
        self.origin = origin
        """Tick of stream second 0."""
        tolerance = min(time_base / 2, TOLERANCE_S)
        start = Fraction(start_s).limit_denominator(1_000_000)
        self._first_target = start - tolerance
        rate = Fraction(fps).limit_denominator(1_000_000) if fps is not None else None
        self._first = origin + math.ceil((start - tolerance) / time_base)
        self._end = None
        if end_s is not None:
            end = Fraction(end_s).limit_denominator(1_000_000)
            self._end = origin + math.ceil((end - tolerance) / time_base)
        if rate is not None:
            scale = rate * time_base
            shift = rate * (tolerance - start) - scale * origin
            self._divisor = math.lcm(scale.denominator, shift.denominator)
            self._scale = int(scale * self._divisor)
            self._shift = int(shift * self._divisor)
        self._fps = rate

    def seconds(self, ticks: int) -> float:
        """Stream time of a timestamp."""
        return float((ticks - self.origin) * self.time_base)

    def ticks(self, seconds: float) -> int:
        """The timestamp whose stream time is `seconds`, to the nearest tick."""
        return self.origin + round(Fraction(seconds) / self.time_base)

    def slot(self, ticks: int) -> int | None:
        """Number of the slot a timestamp lies in; None outside the range."""
        if ticks < self._first or self.is_past(ticks):
            return None
        return self._index(ticks)

    def held_targets(self, ticks: int, until: int, last: int | None) -> Iterator[int]:
        """Targets behind the slots of `ticks` and of `last` that a picture held so long meets."""
        if self._fps is None or not is_gap(
            float((until - ticks) * self.time_base), float(1 / self._fps)
        ):
            return
        begin = self._index(ticks if last is None else max(ticks, last)) + 1
        for slot in range(max(0, begin), self._index(until)):
            target_s = self._first_target + slot / self._fps
            target = self.origin + math.ceil(target_s / self.time_base)
            if self.is_past(target):
                return
            yield target

    def _index(self, ticks: int) -> int:
        if self._fps is None:
            return ticks
        return (ticks * self._scale + self._shift) // self._divisor

    def is_past(self, ticks: int) -> bool:
        """Whether a timestamp lies at or behind the end of the range."""
        return self._end is not None and ticks >= self._end


class Sampler:
    """Walks along one epoch in presentation order and says which frames to keep, and when.

    A picture may give several samples, the first at its own time; none if it is not wanted.
    """

    def __init__(self, grid: SamplingGrid, last: int | None = None) -> None:
        self.grid = grid
        self.last = last
        """Time of the last sample (also of the one a resumed run continues after)."""

    def take(self, ticks: int, until: int | None = None) -> list[int]:
        """The samples that a picture shown from `ticks` until `until` gives; remembers them."""
        samples = self._samples(ticks, until, self.last)
        self.last = samples[-1] if samples else self.last
        return samples

    def select(self, shown: Iterable[tuple[int, int | None]]) -> list[int]:
        """The pictures `take` would find samples in, given all of them; remembers nothing."""
        wanted, last = [], self.last
        for ticks, until in sorted(shown):
            if samples := self._samples(ticks, until, last):
                wanted.append(ticks)
                last = samples[-1]
        return wanted

    def _samples(self, ticks: int, until: int | None, last: int | None) -> list[int]:
        own = [ticks] if self._is_next(ticks, last) else []
        held = () if until is None else self.grid.held_targets(ticks, until, last)
        return [*own, *held]

    def is_wanted(self, ticks: int) -> bool:
        """Whether a picture of this time would be a sample, if it were the next that is shown."""
        return self._is_next(ticks, self.last)

    def _is_next(self, ticks: int, last: int | None) -> bool:
        slot = self.grid.slot(ticks)
        if slot is None:
            return False
        if last is None:
            return True
        last_slot = self.grid.slot(last)
        return ticks > last and (last_slot is None or slot > last_slot)
