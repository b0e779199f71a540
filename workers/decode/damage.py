"""How far a loss reaches: from the packet that was lost to the picture that is whole again."""

from av import VideoFrame
from av.packet import Packet

from workers.decode.gop import Bitstream, clock_of


class Damage:
    """Whether what comes out of the decoder may show damage: from a loss until it has healed.

    It has at the first picture shown at or behind a point from which decoding could begin.
    """

    def __init__(self, bitstream: Bitstream) -> None:
        self._bitstream = bitstream
        self.clear()

    def clear(self) -> None:
        """Nothing is damaged: at the start, behind a seek, once it has healed."""
        self.lasts = False
        self._packets_left: int | None = None
        """Until the packet whose picture is whole again."""
        self._heals_at: int | None = None

    def begin(self) -> None:
        """Something was lost: all is damaged until a point from which decoding could begin."""
        self.clear()
        self.lasts = True

    def see_packet(self, packet: Packet) -> None:
        """Called before a packet is fed."""
        if packet.is_corrupt:
            self.begin()
        if not self.lasts or self._heals_at is not None:
            return
        if self._packets_left is None and not packet.is_corrupt:
            self._packets_left = self._bitstream.recovers_after(packet)
        if self._packets_left == 0:
            self._heals_at = clock_of(packet)
        elif self._packets_left is not None:
            self._packets_left -= 1

    def reaches(self, picture: VideoFrame, ticks: int | None) -> bool:
        """Whether a picture is to be marked as damaged."""
        if self._heals_at is not None and ticks is not None and ticks >= self._heals_at:
            self.clear()
        if picture.is_corrupt and not self.lasts:
            self.begin()
        return self.lasts
