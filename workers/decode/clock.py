"""Time: which frames a sampling rate wants, and when a source's clock starts anew.

Everything is counted in integer ticks of the track's time base, so that the same frame is chosen
whatever path led to it (planned, decoded in full, resumed). Knows no decoder and no pixels.
"""

import bisect
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, Protocol, TypeVar, runtime_checkable

from workers.types import is_gap

JUMP_S = 1.0
"""A step back of the decode clock beyond this starts a new epoch, a step ahead beyond the end of
the packet before a new stretch; smaller ones are disorder."""

HALF_WRAP = 1 << 32
"""MPEG timestamps are 33 bits wide (ISO/IEC 13818-1)."""

MPEG_TIME_BASE = Fraction(1, 90_000)

TOLERANCE_S = Fraction(1, 2000)
"""How early a frame may be for its target: half a tick of its clock, and never more than this."""

UNTOLD_HOLD_S = 120.0
"""How long a picture is shown at most where the container does not say that it is."""


@runtime_checkable
class Timed(Protocol):
    """What the clock reads of a packet, and writes back once unwrapped."""

    pts: int | None
    dts: int | None
    duration: int | None
    is_keyframe: bool

    @property
    def is_discard(self) -> bool: ...


T = TypeVar("T", bound=Timed)


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
class TimedPacket(Generic[T]):
    """A packet whose timestamps rise through wraps, and the epoch it belongs to."""

    packet: T
    timeline: Timeline
    timed: bool
    """False where the container gave no presentation time, so that one had to be made up."""

    @property
    def epoch(self) -> int:
        return self.timeline.epoch


def unwrap_packets(
    packets: Iterable[T], time_base: Fraction, interval: int
) -> Iterator[TimedPacket[T]]:
    """Packets in decode order with timestamps that rise through 33-bit wraps, epochs counted.

    FFmpeg is told not to repair wraps (`correct_ts_overflow`): it takes a clock that was set back
    for one. `interval`: ticks between frames, for packets without any timestamp.
    """
    clock = _PacketClock(time_base, interval)
    for packet in packets:
        yield clock.place(packet)


class _PacketClock:
    """Follows the clock of one track: wraps, epochs, and jumps ahead.

    Decode times and presentation times are two clocks: pictures may be shown seconds after they
    are decoded. Matroska's first packets have no decode time. So each is compared with its own
    kind, and presentation times by themselves only at keyframes, before which nothing is shown
    that is decoded later.
    """

    def __init__(self, time_base: Fraction, interval: int) -> None:
        self._second = math.ceil(JUMP_S / time_base)
        self._wraps = time_base == MPEG_TIME_BASE
        self._interval = interval
        self._offset = 0
        self._start_epoch(0)

    def _start_epoch(self, epoch: int) -> None:
        self._timeline = Timeline(epoch)
        self._dts: int | None = None
        """Of the packet before, unwrapped."""
        self._next_dts = 0
        """Where it ends."""
        self._pts: int | None = None
        """The latest so far, unwrapped."""
        self._stretch = 0

    def place(self, packet: T) -> TimedPacket[T]:
        timed = packet.pts is not None
        if packet.pts is None and packet.dts is None:
            packet.pts = packet.dts = self._next_dts - self._offset
        if packet.dts is not None:
            self._follow(packet.dts, self._dts, may_restart=True)
        elif packet.pts is not None:
            self._follow(packet.pts, self._pts, may_restart=packet.is_keyframe)
        if self._offset:
            packet.pts = None if packet.pts is None else packet.pts + self._offset
            packet.dts = None if packet.dts is None else packet.dts + self._offset
        pts, dts = packet.pts, packet.dts
        if self._wraps and pts is not None and dts is not None and pts < dts - HALF_WRAP:
            packet.pts = pts + 2 * HALF_WRAP  # decoded before the wrap, shown behind it
        self._remember(packet)
        return TimedPacket(packet, self._timeline, timed)

    def _follow(self, clock: int, last: int | None, *, may_restart: bool) -> None:
        """Take a step of one of the two clocks: onward, through a wrap, or into a new epoch."""
        back = 0 if last is None else last - (clock + self._offset)
        if self._wraps and back > HALF_WRAP:
            self._offset += 2 * HALF_WRAP
        elif back > self._second and may_restart:
            self._offset = 0
            self._start_epoch(self._timeline.epoch + 1)

    def _remember(self, packet: Timed) -> None:
        duration = packet.duration or self._interval
        if packet.dts is not None:
            if self._dts is not None and packet.dts > self._next_dts + self._second:
                self._stretch += 1
            self._dts, self._next_dts = packet.dts, packet.dts + duration
        elif packet.pts is not None and self._dts is None:
            self._next_dts = packet.pts + duration
        shown = packet.pts if packet.pts is not None else packet.dts
        if shown is not None:
            self._pts = shown if self._pts is None else max(self._pts, shown)
            if not packet.is_discard:
                self._timeline.add(shown, self._stretch, packet.duration or 0)


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
    def of(cls, container: str, time_base: Fraction, max_hold_s: float) -> "HoldLimits":
        """For FFmpeg's name of a container."""
        tells = container.startswith(("mpeg", "mov"))
        untold_s = 0.0 if tells else min(UNTOLD_HOLD_S, max_hold_s)
        return cls(round(max_hold_s / float(time_base)), round(untold_s / float(time_base)))

    def end(self, timeline: Timeline, tick: int) -> int:
        """When the picture at `tick` ends: at the next one, or where it can stand no longer."""
        next_tick, ran_on, duration = timeline.look_up(tick)
        if next_tick is not None and ran_on:
            return min(next_tick, tick + self.told)
        longest = tick + max(min(duration, self.told), 0 if next_tick is None else self.untold)
        return longest if next_tick is None else min(next_tick, longest)


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

    def _is_next(self, ticks: int, last: int | None) -> bool:
        slot = self.grid.slot(ticks)
        if slot is None:
            return False
        if last is None:
            return True
        last_slot = self.grid.slot(last)
        return ticks > last and (last_slot is None or slot > last_slot)
