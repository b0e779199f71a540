"""Time: which frames a sampling rate wants, and when a source's clock starts anew.

Everything is counted in integer ticks of the track's time base, so that the same frame is chosen
whatever path led to it (planned, decoded in full, resumed). Knows no decoder and no pixels.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, Protocol, TypeVar, runtime_checkable

JUMP_BACK_S = 1.0
"""A step back in decode time beyond this starts a new epoch; a smaller one is disorder."""

WRAP_BITS = 33
"""MPEG timestamps are this wide (ISO/IEC 13818-1)."""

MPEG_TIME_BASE = Fraction(1, 90_000)

TOLERANCE_S = Fraction(1, 2000)
"""How early a frame may be for its target: half a tick of its clock, and never more than this."""


@runtime_checkable
class Timed(Protocol):
    """What the clock reads of a packet, and writes back once unwrapped."""

    pts: int | None
    dts: int | None
    duration: int | None


T = TypeVar("T", bound=Timed)


@dataclass(frozen=True)
class TimedPacket(Generic[T]):
    """A packet whose timestamps rise through wraps, and the epoch it belongs to."""

    packet: T
    epoch: int
    timed: bool
    """False where the container gave no presentation time, so that one had to be made up."""


def unwrap_packets(
    packets: Iterable[T], time_base: Fraction, interval: int
) -> Iterator[TimedPacket[T]]:
    """Packets in decode order with timestamps that rise through 33-bit wraps, epochs counted.

    FFmpeg repairs the first wrap of a connection by itself; this repairs every later one.
    `interval`: ticks between frames, for packets without any timestamp.
    """
    back, wrap = math.ceil(JUMP_BACK_S / time_base), 1 << WRAP_BITS
    wraps = time_base == MPEG_TIME_BASE
    offset, epoch, last = 0, 0, None
    for packet in packets:
        timed = packet.pts is not None
        clock = packet.dts if packet.dts is not None else packet.pts
        if clock is None:
            clock = (last + (packet.duration or interval) if last is not None else 0) - offset
            packet.pts = packet.dts = clock
        if last is not None and clock + offset < last - back:
            if wraps and last - (clock + offset) > wrap // 2:
                offset += wrap
            else:
                epoch, offset = epoch + 1, 0
        if offset:
            packet.pts = None if packet.pts is None else packet.pts + offset
            packet.dts = None if packet.dts is None else packet.dts + offset
        last = clock + offset
        if wraps and packet.pts is not None and packet.pts < last - wrap // 2:
            packet.pts += wrap  # decoded before the wrap, shown behind it
        yield TimedPacket(packet, epoch, timed)


class SamplingGrid:
    """Which ticks a rate wants: the first frame at or after each target `start_s + k / fps`.

    A frame belongs to slot `k` when it lies in [target k, target k + 1); the first frame of each
    slot that has one is wanted. That is a function of the timestamps alone. Containers round
    timestamps to their ticks, so a frame counts as being on a target up to half a tick (at most
    half a millisecond) before it.
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
        if self._fps is None:
            return ticks
        return (ticks * self._scale + self._shift) // self._divisor

    def is_past(self, ticks: int) -> bool:
        """Whether a timestamp lies at or behind the end of the range."""
        return self._end is not None and ticks >= self._end


class Sampler:
    """Walks along one epoch in presentation order and says which frames to keep."""

    def __init__(self, grid: SamplingGrid, last: int | None = None) -> None:
        self.grid = grid
        self.last = last
        """Timestamp of the last frame kept (also of the one a resumed run continues after)."""

    def choose(self, ticks: int) -> bool:
        """Whether to keep the frame at `ticks`; remembers it if so."""
        if not self._is_next(ticks, self.last):
            return False
        self.last = ticks
        return True

    def select(self, ticks: Iterable[int]) -> list[int]:
        """The timestamps `choose` would keep, given all of them; remembers nothing."""
        kept, last = [], self.last
        for tick in sorted(ticks):
            if self._is_next(tick, last):
                kept.append(tick)
                last = tick
        return kept

    def _is_next(self, ticks: int, last: int | None) -> bool:
        slot = self.grid.slot(ticks)
        if slot is None:
            return False
        if last is None:
            return True
        last_slot = self.grid.slot(last)
        return ticks > last and (last_slot is None or slot > last_slot)
