"""Presentation times for containers that have none: the order in which pictures come out."""

import heapq
from collections import deque

from av import VideoFrame
from av.packet import Packet


class DecodeOrder:
    """Presentation times where the container has none (AVI): the decode times, in order.

    Each picture gets the earliest that is left. A packet that gives no picture must take its time
    with it, or all that follow would be early: at once where the decoder refuses it or reorders
    nothing, else at the next keyframe, as nothing decoded before that is shown behind it.
    """

    def __init__(self) -> None:
        self._waiting: list[int] = []
        self._keyframes: deque[int] = deque()

    def push(self, packet: Packet) -> None:
        """Called before a packet is fed; its picture will tell by its `pts` where it came from."""
        if packet.dts is None:
            return
        packet.pts = packet.dts
        heapq.heappush(self._waiting, packet.dts)
        if packet.is_keyframe:
            self._keyframes.append(packet.dts)

    def lose(self, packet: Packet) -> None:
        """Called for a packet that the decoder refused: no picture comes of it."""
        if packet.dts in self._waiting:
            self._waiting.remove(packet.dts)
            heapq.heapify(self._waiting)

    def pop(self, picture: VideoFrame, reordered: bool) -> int | None:
        """The presentation time of the picture that comes out next."""
        source = picture.pts
        if source is not None:
            if not reordered:
                self._drop_before(source)
            while self._keyframes and source >= self._keyframes[0]:
                self._drop_before(self._keyframes.popleft())
        return heapq.heappop(self._waiting) if self._waiting else None

    def _drop_before(self, dts: int) -> None:
        while self._waiting and self._waiting[0] < dts:
            heapq.heappop(self._waiting)
