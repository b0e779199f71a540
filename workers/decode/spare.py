"""Packets of a live source that need not be decoded: the tail of a GOP behind its last sample.

What lies between a sampled picture and the next keyframe is decoded by who decodes all, and shown
to nobody. Whether a sample lies there is only known once the keyframe is there: so such packets
wait, compressed, and are let go when it comes; where a picture is wanted before, they are decoded
then, in order, as if they had been at once. What is sampled is the same, picture for picture.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from av.packet import Packet

from workers.decode.gop import Bitstream

MAX_GOP_S = 5
"""Keyframes further apart are not waited for. One that comes a second or more behind the last
decoded picture is decoded, wanted or not: by pictures a source that lives is told from another."""
MAX_WAITING_BYTES = 8 << 20
GOPS_KNOWN = 4
"""The longest of the last so many says when the next keyframe is expected."""
DISTRUSTED_GOPS = 2
"""For so many nothing waits after a keyframe did not come when it should have."""


@dataclass
class SparedPackets:
    """Says which packets of a track to decode now."""

    codec: Bitstream
    interval: int
    """Ticks from picture to picture."""
    second: int
    """Ticks of one."""
    count: int = 0
    """Packets that were let go."""
    _waiting: list[Packet] = field(default_factory=list)
    _size_bytes: int = 0
    _sent: int | None = None
    """The latest picture that was given to the decoder."""
    _start: int | None = None
    """The last keyframe that nothing behind it reaches over."""
    _gops: deque[int] = field(default_factory=partial(deque, maxlen=GOPS_KNOWN))
    """Ticks from such a keyframe to the next."""
    _distrust: int = 0

    def take(self, packet: Packet, is_wanted: Callable[[int], bool]) -> list[Packet]:
        """The packets to decode now, in order, of which this one is the last that came.

        `is_wanted`: whether a picture of this tick would be sampled.
        """
        tick = packet.pts if packet.pts is not None else packet.dts
        begins = packet.is_keyframe and self.codec.starts_closed_gop(packet)
        if tick is not None and begins:
            self._begin_gop(tick)
        if tick is not None and self._may_wait(tick, is_wanted, begins=begins):
            self._waiting.append(packet)
            self._size_bytes += packet.size
            return []
        if self._waiting:
            self._distrust = DISTRUSTED_GOPS
        due, self._waiting, self._size_bytes = [*self._waiting, packet], [], 0
        ticks = [one.pts if one.pts is not None else one.dts for one in due]
        self._sent = max((t for t in (self._sent, *ticks) if t is not None), default=None)
        return due

    def restart(self) -> None:
        """What comes is of another clock, or needs nothing of what came."""
        self.count += len(self._waiting)
        self._waiting, self._size_bytes = [], 0
        self._sent = self._start = None
        self._gops.clear()

    def _begin_gop(self, tick: int) -> None:
        """Nothing behind this keyframe needs what waits."""
        self.count += len(self._waiting)
        self._waiting, self._size_bytes = [], 0
        if self._start is not None:
            self._gops.append(tick - self._start)
        self._start = tick
        self._distrust = max(0, self._distrust - 1)

    def _may_wait(self, tick: int, is_wanted: Callable[[int], bool], *, begins: bool) -> bool:
        """Whether neither this picture nor one in the decoder is wanted, nor any before the
        keyframe that is expected."""
        if self._start is None or self._sent is None or not self._gops or self._distrust:
            return False
        gop = max(self._gops)
        if not 0 < gop <= MAX_GOP_S * self.second or self._size_bytes > MAX_WAITING_BYTES:
            return False
        if begins and tick - self._sent >= self.second:
            return False
        last = self._start + gop - self.interval
        return not any(is_wanted(one) for one in (tick, self._sent, last))
