"""Packets in, groups of pictures out, with what can be proved about each from its bytes.

A GOP is what lies between two keyframe packets. It is *closed* when nothing in it or after it
needs a picture from before it: H.264 and HEVC by an IDR picture, VP8, VP9 and AV1 by a shown key
frame, intra-only codecs always. A recovery point, a CRA picture or a container's flag alone prove
nothing. At most one GOP is held, and of a long one only a part: memory is bounded for any file.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from av.packet import Packet

from workers.decode.clock import TimedPacket, Timeline

MAX_PART_PACKETS = 2048
MAX_PART_BYTES = 64 << 20

INTRA_ONLY = frozenset({"mjpeg", "prores", "dnxhd"})


@dataclass
class GopPart:
    """Packets of one GOP in decode order, or of a stretch of one that is too long to hold."""

    timeline: Timeline
    """Of its epoch."""
    starts: bool
    """Begins with a keyframe packet."""
    closed: bool
    """Begins with a keyframe that nothing behind it reaches over."""
    packets: list[Packet] = field(default_factory=list)
    size_bytes: int = 0
    timed: bool = True
    """Every packet came with a presentation time."""
    corrupt: bool = False
    """The demuxer marked a packet as damaged."""
    ends: bool = False
    """What follows needs nothing from here: a closed GOP, a new epoch, or the end."""

    @property
    def epoch(self) -> int:
        """The stretch of unbroken time its packets lie in."""
        return self.timeline.epoch

    @property
    def first_tick(self) -> int:
        """The earliest presentation time in it."""
        return min(clock_of(p) for p in self.packets)

    @property
    def end_tick(self) -> int:
        """When the last of its packets ends."""
        return max(clock_of(p) + (p.duration or 0) for p in self.packets)

    def append(self, packet: Packet, timed: bool) -> None:
        """Add the packet that comes next."""
        self.packets.append(packet)
        self.size_bytes += packet.size
        self.timed = self.timed and timed
        self.corrupt = self.corrupt or packet.is_corrupt

    @property
    def is_full(self) -> bool:
        """Whether no packet may be added."""
        return len(self.packets) >= MAX_PART_PACKETS or self.size_bytes >= MAX_PART_BYTES


def clock_of(packet: Packet) -> int:
    """When a packet is shown, or where the container does not tell, decoded."""
    clock = packet.pts if packet.pts is not None else packet.dts
    assert clock is not None, "the clock times every packet"
    return clock


def iter_parts(packets: Iterable[TimedPacket[Packet]], codec: "Bitstream") -> Iterator[GopPart]:
    """Cut packets into GOPs, each whole unless it is beyond the cap."""
    part: GopPart | None = None
    for timed in packets:
        packet = timed.packet
        new_epoch = part is None or timed.epoch != part.epoch
        if part is None or new_epoch or packet.is_keyframe or part.is_full:
            closed = packet.is_keyframe and codec.starts_closed_gop(packet)
            if part is not None:
                part.ends = closed or new_epoch
                yield part
            part = GopPart(timed.timeline, starts=packet.is_keyframe, closed=closed)
        part.append(packet, timed.timed)
    if part is not None:
        part.ends = True
        yield part


@dataclass(frozen=True)
class Bitstream:
    """How to read a codec's packets as far as this module must."""

    codec: str
    """FFmpeg's canonical codec name."""
    length_bytes: int | None = None
    """Size of the length before each NAL unit; None where start codes separate them."""

    @classmethod
    def of(cls, codec: str, extradata: bytes | None) -> "Bitstream":
        """Read the NAL framing from the codec's configuration record (avcC, hvcC)."""
        position = {"h264": 4, "hevc": 21}.get(codec)
        if position is None or not extradata or extradata[0] != 1 or len(extradata) <= position:
            return cls(codec)
        return cls(codec, (extradata[position] & 3) + 1)

    def starts_closed_gop(self, packet: Packet) -> bool:
        """Whether decoding can start at this keyframe packet with everything behind it intact."""
        data = memoryview(packet)
        if self.codec == "h264":
            return next((nal[0] & 31 for nal in self._slices(data)), 0) == 5
        if self.codec == "hevc":
            return next((nal[0] >> 1 & 63 for nal in self._slices(data)), 0) in (19, 20)
        if self.codec == "vp8":
            return len(data) > 3 and not data[0] & 1
        if self.codec == "vp9":
            return _is_vp9_key(data)
        if self.codec == "av1":
            return _is_av1_key(data)
        return self.codec in INTRA_ONLY

    def recovers_after(self, packet: Packet) -> int | None:
        """How many packets behind this one pictures are whole again whatever was lost before.

        0 at a keyframe. H.264's recovery point (ITU-T H.264, D.2.8) says how many pictures it takes
        where parts of them are refreshed in turn. None where nothing of the kind is said.
        """
        if self.codec == "h264":
            for nal in self._units(memoryview(packet)):
                if len(nal) > 2 and nal[0] & 31 == 6:
                    count = _read_recovery_point(bytes(nal[1:64]))
                    if count is not None:
                        return count
        return 0 if packet.is_keyframe else None

    def may_skip(self, part: GopPart) -> bool:
        """Whether pictures marked as non-reference may be left out of this GOP.

        In HEVC the mark holds within a temporal sub-layer only, so all must lie in the lowest.
        """
        if self.codec == "hevc":
            first_slices = (next(self._slices(memoryview(p)), b"") for p in part.packets)
            return all(len(nal) > 1 and nal[1] & 7 == 1 for nal in first_slices)
        return self.codec == "h264"

    def _units(self, data: memoryview) -> Iterator[memoryview]:
        if self.length_bytes:
            return _iter_length_prefixed(data, self.length_bytes)
        return _iter_start_codes(data)

    def _slices(self, data: memoryview) -> Iterator[memoryview]:
        """NAL units of a packet that hold picture data, two bytes or more each."""
        for nal in self._units(data):
            if len(nal) < 2:
                continue
            is_slice = 1 <= nal[0] & 31 <= 5 if self.codec == "h264" else nal[0] >> 1 & 63 < 32
            if is_slice:
                yield nal


def _iter_length_prefixed(data: memoryview, length_bytes: int) -> Iterator[memoryview]:
    at = 0
    while at + length_bytes <= len(data):
        size = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        yield data[at : at + size]
        at += size


def _iter_start_codes(data: memoryview) -> Iterator[memoryview]:
    """NAL units behind start codes, each reaching to the end of the packet."""
    raw = bytes(data)
    at = raw.find(b"\0\0\1")
    while at >= 0:
        yield data[at + 3 :]
        at = raw.find(b"\0\0\1", at + 3)


def _read_recovery_point(messages: bytes) -> int | None:
    """`recovery_frame_cnt` of the recovery point among SEI messages; None where there is none."""
    at = 0
    while at + 2 <= len(messages) and messages[at] != 0x80:
        kind, at = _read_sei_number(messages, at)
        size, at = _read_sei_number(messages, at)
        if kind == 6:
            return _read_exp_golomb(messages[at : at + size])
        at += size
    return None


def _read_sei_number(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    while at < len(data) and data[at] == 255:
        value, at = value + 255, at + 1
    return value + (data[at] if at < len(data) else 0), at + 1


def _read_exp_golomb(data: bytes) -> int | None:
    bits = "".join(f"{byte:08b}" for byte in data[:8])
    zeros = len(bits) - len(bits.lstrip("0"))
    coded = bits[zeros : 2 * zeros + 1]
    return int(coded, 2) - 1 if len(coded) == zeros + 1 else None


def _is_vp9_key(data: memoryview) -> bool:
    """VP9 bitstream, 6.2: frame marker 2, profile, show_existing_frame, frame_type 0 = key."""
    if len(data) < 1 or data[0] >> 6 != 2:
        return False
    has_reserved_bit = data[0] >> 4 & 3 == 3
    flags = data[0] >> (1 if has_reserved_bit else 2)
    return flags & 3 == 0


def _is_av1_key(data: memoryview) -> bool:
    """AV1, 5.9.2: the first frame header says key frame (type 0), shown, not a repetition."""
    at = 0
    while at < len(data):
        header = data[at]
        at += 2 if header & 4 else 1
        size = len(data) - at
        if header & 2:
            size, at = _read_leb128(data, at)
        if header >> 3 & 15 in (3, 6):  # OBU_FRAME_HEADER, OBU_FRAME
            return at < len(data) and data[at] >> 4 == 1
        at += size
    return False


def _read_leb128(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for i in range(8):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << 7 * i
        if not byte & 128:
            break
    return value, at
