"""Packets in decode order, placed in time: wraps unwrapped, epochs counted, jumps ahead seen.

Everything is counted in integer ticks of the track's time base, so that the same frame is chosen
whatever path led to it (planned, decoded in full, resumed). Knows no decoder and no pixels.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, Protocol, TypeVar, runtime_checkable

from workers.decode.timeline import Timeline

JUMP_S = 1.0
"""A step back of the decode clock beyond this starts a new epoch, a step ahead beyond the end of
the packet before a new stretch; smaller ones are disorder."""

HALF_WRAP = 1 << 32
"""MPEG timestamps are 33 bits wide (ISO/IEC 13818-1)."""

MPEG_TIME_BASE = Fraction(1, 90_000)


@runtime_checkable
class Timed(Protocol):
    """What the clock reads of a packet, and writes back once unwrapped."""

    pts: int | None
    dts: int | None
    duration: int | None
    is_keyframe: bool

    @property
    def is_discard(self) -> bool:
        """Whether its picture is decoded but not to be shown."""
        ...


T = TypeVar("T", bound=Timed)


@dataclass(frozen=True)
class TimedPacket(Generic[T]):
    """A packet whose timestamps rise through wraps, and the epoch it belongs to."""

    packet: T
    timeline: Timeline
    timed: bool
    """False where the container gave no presentation time, so that one had to be made up."""

    @property
    def epoch(self) -> int:
        """Counts the clocks of the source, from 0."""
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
