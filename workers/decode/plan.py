"""One GOP in, the frames a sampler wants out, decoding no more of it than is proved enough.

The plan: choose the wanted timestamps from the packets alone, feed the decoder up to the last
wanted packet, let it leave out unwanted pictures that nothing refers to. It applies to a closed,
fully timed, undamaged GOP whose follower needs nothing from it. Everything else is decoded in
full; so is a GOP whose plan turns out wrong on the way, from its start. The decoder is drained and
reset where a sound GOP ends, so that what the next one gives depends on its own packets alone; it
goes on without a reset after a damaged one, because it hides damage with what it saw before.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from av import VideoFrame
from av.error import FFmpegError
from av.packet import Packet

from workers.decode.clock import Sampler
from workers.decode.gop import GopPart
from workers.decode.track import OpenTrack
from workers.errors import TooLarge

MAX_BROKEN_PLANS = 3
"""After so many GOPs in a row whose plan failed, no further one is tried."""


@dataclass(frozen=True)
class DecodedFrame:
    """A wanted picture in its own size and pixel format."""

    picture: VideoFrame
    ticks: int
    """Presentation time in ticks of the track, as unwrapped."""
    damaged: bool


@dataclass
class DecodeTally:
    """What was done so far; counted as it happens."""

    decoded: int = 0
    """Pictures that came out of the decoder, wanted or not."""
    refused_packets: int = 0
    """Packets the decoder would not take."""
    refused_in_a_row: int = 0
    """Packets refused since a picture last came out."""
    corrupt_packets: int = 0
    """Packets the demuxer marked as damaged."""
    gops_skipped: int = 0
    gops_planned: int = 0
    gops_whole: int = 0
    fell_back: str | None = None
    """Why the first GOP that was decoded in full was, where a plan was asked for."""


class _PlanBroken(Exception):
    """The decoder did not do what the plan expects of a sound closed GOP."""


class GopDecoder:
    """Feeds GOPs to one decoder and gives the frames the sampler chooses, in its order."""

    def __init__(self, track: OpenTrack, tally: DecodeTally, *, plan: bool = True) -> None:
        self._context = track.stream.codec_context
        self._track = track
        self._tally = tally
        self._plan = plan
        self._broken_in_a_row = 0
        self._damaged = False
        self._fed = False
        self._order: list[int] = []
        """Decode times of fed packets, where presentation times follow from the order."""

    def decode(self, part: GopPart, sampler: Sampler) -> Iterator[DecodedFrame]:
        """The wanted frames of a part; its last ones may come with the next part or `drain`."""
        if part.closed:
            self._damaged = False
        self._tally.corrupt_packets += sum(p.is_corrupt for p in part.packets)
        reason = self._why_not_planned(part) if self._plan else "no plan was asked for"
        if reason is None:
            try:
                yield from self._decode_planned(part, sampler)
                self._broken_in_a_row = 0
                return
            except _PlanBroken as broken:
                reason = str(broken)
                self._broken_in_a_row += 1
                self._damaged = False
                self._reset()
        if self._plan:
            self._tally.fell_back = self._tally.fell_back or reason
        self._tally.gops_whole += 1
        yield from self._decode_whole(part, sampler)

    def drain(self, sampler: Sampler) -> Iterator[DecodedFrame]:
        """The frames the decoder still holds; it is ready for a new start afterwards."""
        for picture in self._send(None) if self._fed else ():
            yield from self._choose(picture, sampler)
        self._reset()

    def _why_not_planned(self, part: GopPart) -> str | None:
        if self._fed and part.closed:
            return "damaged pictures before"
        if self._track.by_decode_order:
            return "the container has no presentation times"
        if self._broken_in_a_row >= MAX_BROKEN_PLANS:
            return "plans kept failing"
        if not part.closed:
            return "open or very long group of pictures"
        if not part.ends:
            return "what follows may refer back (open group of pictures)"
        if not part.timed:
            return "packets without presentation time"
        if part.corrupt:
            return "damaged packets"
        shown = [p.pts for p in part.packets if not p.is_discard]
        if len(set(shown)) < len(shown):
            return "equal presentation times"
        return None

    def _decode_planned(self, part: GopPart, sampler: Sampler) -> Iterator[DecodedFrame]:
        wanted = sampler.select(
            p.pts for p in part.packets if not p.is_discard and p.pts is not None
        )
        if not wanted:
            self._tally.gops_skipped += 1
            return
        expected = _Expected(wanted, refuses_fields=self._track.bitstream.codec == "h264")
        refused = self._tally.refused_packets
        for picture in self._feed_planned(part, frozenset(wanted)):
            if expected.take(picture):
                yield from self._choose(picture, sampler)
            if self._tally.refused_packets > refused:
                break
        if self._tally.refused_packets > refused:
            # Counted again by the second, full pass.
            self._tally.refused_packets, self._tally.refused_in_a_row = refused, 0
            raise _PlanBroken("damaged packets")
        expected.finish()
        self._tally.gops_planned += 1

    def _feed_planned(self, part: GopPart, wanted: frozenset[int]) -> Iterator[VideoFrame]:
        may_skip = self._track.bitstream.may_skip(part)
        last = max(i for i, packet in enumerate(part.packets) if packet.pts in wanted)
        for packet in part.packets[: last + 1]:
            skip = may_skip and packet.pts not in wanted
            self._context.skip_frame = "NONREF" if skip else "DEFAULT"
            yield from self._send(packet)
        yield from self._send(None)
        self._reset()

    def _decode_whole(self, part: GopPart, sampler: Sampler) -> Iterator[DecodedFrame]:
        for packet in part.packets:
            self._damaged = self._damaged or packet.is_corrupt
            if self._track.by_decode_order and packet.dts is not None:
                heapq.heappush(self._order, packet.dts)
            for picture in self._send(packet):
                yield from self._choose(picture, sampler)
        if part.ends and not self._damaged:
            yield from self.drain(sampler)

    def _choose(self, picture: VideoFrame, sampler: Sampler) -> Iterator[DecodedFrame]:
        ticks = picture.pts
        self._damaged = self._damaged or picture.is_corrupt
        if self._track.by_decode_order:
            ticks = heapq.heappop(self._order) if self._order else None
        if ticks is not None and sampler.choose(ticks):
            yield DecodedFrame(picture, ticks, self._damaged)

    def _send(self, packet: Packet | None) -> list[VideoFrame]:
        """Feed one packet (None: drain) and take what comes out; a refusal is counted."""
        self._fed = True
        try:
            pictures = self._context.decode(packet)
        except MemoryError as error:
            raise TooLarge("the decoder needs more memory than there is for a picture") from error
        except FFmpegError:
            self._tally.refused_packets += packet is not None
            self._tally.refused_in_a_row += packet is not None
            self._damaged = True
            return []
        self._tally.decoded += len(pictures)
        if pictures:
            self._tally.refused_in_a_row = 0
        return pictures

    def _reset(self) -> None:
        self._context.flush_buffers()
        self._context.skip_frame = "DEFAULT"
        self._order.clear()
        self._fed = False


class _Expected:
    """Checks what comes out of the decoder against the plan, picture by picture."""

    def __init__(self, wanted: list[int], *, refuses_fields: bool) -> None:
        self._wanted = wanted
        self._next = 0
        self._last: int | None = None
        self._refuses_fields = refuses_fields

    def take(self, picture: VideoFrame) -> bool:
        """Whether the picture is the next wanted one; raises where the plan no longer holds."""
        pts = picture.pts
        if picture.is_corrupt:
            raise _PlanBroken("damaged pictures")
        if pts is None or (self._last is not None and pts <= self._last):
            raise _PlanBroken("presentation times out of order")
        if self._refuses_fields and picture.interlaced_frame:
            raise _PlanBroken("interlaced: a picture may span two packets")
        self._last = pts
        if self._next == len(self._wanted) or pts < self._wanted[self._next]:
            return False
        if pts > self._wanted[self._next]:
            raise _PlanBroken("a wanted picture did not come")
        self._next += 1
        return True

    def finish(self) -> None:
        if self._next < len(self._wanted):
            raise _PlanBroken("a wanted picture did not come")
