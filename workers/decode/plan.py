"""One GOP in, the frames a sampler wants out, decoding no more of it than is proved enough.

The plan: choose the wanted timestamps from the packets alone, feed the decoder up to the last
wanted packet, let it leave out unwanted pictures that nothing refers to. It applies to a closed,
fully timed, undamaged GOP whose follower needs nothing from it. Everything else is decoded in
full; so is a GOP whose plan turns out wrong on the way, from its start. The decoder is drained and
reset where a sound GOP ends, so that what the next one gives depends on its own packets alone; it
goes on without a reset after a damaged one, because it hides damage with what it saw before.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from av import VideoFrame
from av.error import FFmpegError
from av.packet import Packet

from workers.decode.damage import Damage
from workers.decode.gop import GopPart
from workers.decode.order import DecodeOrder
from workers.decode.sampling import Sampler
from workers.decode.timeline import HoldLimits, Timeline
from workers.decode.track import OpenTrack
from workers.errors import TooLarge

MAX_BROKEN_PLANS = 3
"""After so many plans in a row that failed, some GOPs are decoded without trying one."""

MAX_PAUSE = 64
"""GOPs decoded without trying a plan, at most; the pause doubles with every failure."""

MAX_UNSEEN_TAIL = 16
"""Packets in a row at the end of which nothing came that count as a part that cannot be decoded."""


@dataclass(frozen=True)
class DecodedFrame:
    """A sample: a wanted picture in its own size and pixel format, and the time it stands for."""

    picture: VideoFrame
    """The same object for all samples of a picture that is held."""
    ticks: int
    """Its presentation time in ticks of the track, as unwrapped, or a later one it is held at."""
    until: int
    """Tick of the picture's next sample, or where it is no longer shown."""
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
    unseen_in_a_row: int = 0
    """Packets taken whose pictures never came, behind the last picture that did; up to 16."""
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
    """Feeds GOPs to one decoder and gives the samples a sampler takes, in its order."""

    def __init__(
        self, track: OpenTrack, tally: DecodeTally, limits: HoldLimits, *, plan: bool = True
    ) -> None:
        self._context = track.stream.codec_context
        self._track = track
        self._tally = tally
        self._limits = limits
        self._plan = plan
        self._trust = _Trust()
        self._damage = Damage(track.bitstream)
        self._order = DecodeOrder() if track.by_decode_order else None
        self._timeline = Timeline(0)
        self._fed = False
        self._awaited: deque[int] = deque(maxlen=MAX_UNSEEN_TAIL)
        """Times of the last packets that were fed whole and are shown behind the last picture."""

    def decode(self, part: GopPart, sampler: Sampler) -> Iterator[DecodedFrame]:
        """The samples of a part; its last ones may come with the next part or `drain`."""
        self._timeline = part.timeline
        if part.closed and not self._fed:
            self._damage.clear()
        self._tally.corrupt_packets += sum(p.is_corrupt for p in part.packets)
        reason = self._why_not_planned(part) if self._plan else "no plan was asked for"
        if reason is None:
            try:
                yield from self._decode_planned(part, sampler)
                self._trust.keep()
                return
            except _PlanBroken as broken:
                reason = str(broken)
                self._trust.lose()
                self._damage.clear()
                self._reset()
        if self._plan:
            self._tally.fell_back = self._tally.fell_back or reason
        self._tally.gops_whole += 1
        yield from self._decode_whole(part, sampler)

    def drain(self, sampler: Sampler) -> Iterator[DecodedFrame]:
        """The samples of what the decoder still holds; it is ready for a new start afterwards."""
        if not self._fed:
            return
        for picture in self._send(None):
            yield from self._choose(picture, sampler)
        self._tally.unseen_in_a_row = len(self._awaited)
        self._reset()

    def _why_not_planned(self, part: GopPart) -> str | None:
        if self._fed and part.closed:
            return "damaged pictures before"
        if self._order is not None:
            return "the container has no presentation times"
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
        if not self._trust.allows():
            return "plans kept failing"
        return None

    def _decode_planned(self, part: GopPart, sampler: Sampler) -> Iterator[DecodedFrame]:
        wanted = sampler.select(
            (p.pts, self._limits.end(part.timeline, p.pts))
            for p in part.packets
            if not p.is_discard and p.pts is not None
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
            self._damage.see_packet(packet)
            if self._order is not None:
                self._order.push(packet)
            elif packet.pts is not None and not packet.is_discard:
                self._awaited.append(packet.pts)
            for picture in self._send(packet):
                yield from self._choose(picture, sampler)
        if part.ends and not self._damage.lasts:
            yield from self.drain(sampler)

    def _choose(self, picture: VideoFrame, sampler: Sampler) -> Iterator[DecodedFrame]:
        ticks = (
            picture.pts
            if self._order is None
            else self._order.pop(picture, self._context.has_b_frames)
        )
        damaged = self._damage.reaches(picture, ticks)
        if ticks is None:
            return
        self._see(ticks)
        samples = sampler.take(ticks, end := self._limits.end(self._timeline, ticks))
        for at, until in pairwise([*samples, end]):
            yield DecodedFrame(picture, at, until, damaged)
        self._timeline.forget_before(ticks)

    def _see(self, ticks: int) -> None:
        """Pictures come out in the order they are shown: none before this one is awaited more."""
        later = [awaited for awaited in self._awaited if awaited > ticks]
        self._awaited.clear()
        self._awaited.extend(later)
        self._tally.unseen_in_a_row = 0

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
            self._damage.begin()
            if self._order is not None and packet is not None:
                self._order.lose(packet)
            return []
        self._tally.decoded += len(pictures)
        if pictures:
            self._tally.refused_in_a_row = 0
        return pictures

    def _reset(self) -> None:
        self._context.flush_buffers()
        self._context.skip_frame = "DEFAULT"
        if self._order is not None:
            self._order = DecodeOrder()
        self._awaited.clear()
        self._fed = False


class _Trust:
    """Whether plans are worth trying: not for a while after several failed in a row."""

    def __init__(self) -> None:
        self._failures = self._pause = 0

    def allows(self) -> bool:
        """Ask once for every GOP that could be planned."""
        self._pause -= 1
        return self._pause < 0

    def keep(self) -> None:
        self._failures = self._pause = 0

    def lose(self) -> None:
        self._failures += 1
        if self._failures >= MAX_BROKEN_PLANS:
            self._pause = min(1 << self._failures, MAX_PAUSE)


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
