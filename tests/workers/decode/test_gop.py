"""What a packet's bytes prove: hand-made bitstreams, no decoder."""

import av
import pytest

from workers.decode.clock import TimedPacket
from workers.decode.gop import Bitstream, iter_parts
from workers.decode.timeline import Timeline


def packet(data: bytes, *, key: bool = True, pts: int = 0) -> av.Packet:
    made = av.Packet(data)
    made.is_keyframe, made.pts, made.dts = key, pts, pts
    return made


def annex_b(*nals: bytes) -> bytes:
    return b"".join(b"\0\0\0\1" + nal for nal in nals)


def avcc(*nals: bytes) -> bytes:
    return b"".join(len(nal).to_bytes(4, "big") + nal for nal in nals)


SPS, SEI, IDR, P_SLICE = b"\x67abc", b"\x06abc", b"\x65abc", b"\x41abc"
HEVC_IDR, HEVC_CRA, HEVC_VPS = b"\x28\x01ab", b"\x2a\x01ab", b"\x40\x01ab"
AVC_CONFIGURATION = b"\x01\x64\x00\x0c\xff\xe1"


@pytest.mark.parametrize(
    ("codec", "extradata", "data", "closed"),
    [
        ("h264", None, annex_b(SPS, SEI, IDR), True),
        ("h264", None, annex_b(SPS, SEI, P_SLICE), False),
        ("h264", AVC_CONFIGURATION, avcc(SEI, IDR), True),
        ("h264", AVC_CONFIGURATION, avcc(SEI, P_SLICE), False),
        ("h264", AVC_CONFIGURATION, annex_b(IDR), False),
        ("hevc", None, annex_b(HEVC_VPS, HEVC_IDR), True),
        ("hevc", None, annex_b(HEVC_VPS, HEVC_CRA), False),
        ("vp8", None, b"\x10\0\0\0", True),
        ("vp8", None, b"\x11\0\0\0", False),
        ("vp9", None, b"\x82\x49\x83\x42", True),
        ("vp9", None, b"\x86\0\0", False),
        ("vp9", None, b"\x8a\0\0", False),
        ("av1", None, b"\x12\x00\x0a\x01\x00\x32\x02\x10\x00", True),
        ("av1", None, b"\x12\x00\x32\x02\x30\x00", False),
        ("av1", None, b"\x12\x00\x32\x02\x00\x00", False),
        ("mjpeg", None, b"\xff\xd8", True),
        ("mpeg2video", None, b"\0\0\1\xb3", False),
        ("h264", None, b"", False),
        ("hevc", None, b"\0\0\1\x28", False),
        ("av1", None, b"\x12", False),
    ],
)
def test_only_a_proof_makes_a_gop_closed(codec: str, extradata, data: bytes, closed: bool):
    if not data:
        assert not list(Bitstream.of(codec, extradata)._slices(memoryview(data)))
        return
    assert Bitstream.of(codec, extradata).starts_closed_gop(packet(data)) is closed


RECOVERY = b"\x06\x06\x01\xc4\x80"  # recovery_frame_cnt 0
RECOVERY_IN_TEN = b"\x06\x05\x02ab\x06\x02\x16\x10\x80"  # behind user data; ue(v) of 10


@pytest.mark.parametrize(
    ("codec", "data", "key", "packets"),
    [
        ("h264", annex_b(SPS, IDR), True, 0),
        ("h264", annex_b(RECOVERY, P_SLICE), True, 0),
        ("h264", annex_b(RECOVERY_IN_TEN, P_SLICE), True, 10),
        ("h264", annex_b(RECOVERY_IN_TEN, P_SLICE), False, 10),
        ("h264", annex_b(P_SLICE), False, None),
        ("mpeg2video", b"\0\0\1\xb3", True, 0),
        ("mpeg2video", b"\0\0\1\x00", False, None),
    ],
)
def test_where_damage_has_healed(codec: str, data: bytes, key: bool, packets: int | None):
    assert Bitstream(codec).recovers_after(packet(data, key=key)) == packets


def parts(packets: list[av.Packet], epochs: list[int] | None = None):
    epochs = epochs or [0] * len(packets)
    timed = [TimedPacket(p, Timeline(e), True) for p, e in zip(packets, epochs, strict=True)]
    return list(iter_parts(timed, Bitstream("h264")))


def test_packets_are_cut_at_keyframes():
    idr, p = annex_b(IDR), annex_b(P_SLICE)
    got = parts([packet(idr), packet(p, key=False), packet(idr), packet(p, key=False)])
    assert [(len(g.packets), g.closed, g.ends) for g in got] == [(2, True, True)] * 2


def test_a_gop_before_an_open_one_does_not_end():
    got = parts([packet(annex_b(IDR)), packet(annex_b(P_SLICE))])
    assert [(g.starts, g.closed, g.ends) for g in got] == [(True, True, False), (True, False, True)]


def test_a_new_epoch_ends_a_gop_in_the_middle():
    p = annex_b(P_SLICE)
    got = parts([packet(annex_b(IDR)), packet(p, key=False), packet(p, key=False)], [0, 0, 1])
    assert [(g.epoch, g.starts, g.ends) for g in got] == [(0, True, True), (1, False, True)]


def test_a_long_gop_comes_in_parts(monkeypatch):
    monkeypatch.setattr("workers.decode.gop.MAX_PART_PACKETS", 4)
    packets = [packet(annex_b(IDR))] + [packet(annex_b(P_SLICE), key=False) for _ in range(8)]
    got = parts(packets)
    assert [(len(g.packets), g.starts, g.ends) for g in got] == [
        (4, True, False),
        (4, False, False),
        (1, False, True),
    ]


def test_a_heavy_gop_comes_in_parts(monkeypatch):
    monkeypatch.setattr("workers.decode.gop.MAX_PART_BYTES", 100)
    packets = [packet(annex_b(IDR + b"x" * 90))] + [packet(annex_b(P_SLICE), key=False)] * 2
    assert [len(g.packets) for g in parts(packets)] == [2, 1]


def test_hevc_pictures_are_skipped_in_the_lowest_layer_only():
    base, upper = b"\x02\x01ab", b"\x02\x02ab"
    timed = [TimedPacket(packet(annex_b(HEVC_IDR)), Timeline(0), True)]
    codec = Bitstream("hevc")
    for slices, may in (([base, base], True), ([base, upper], False)):
        more = [TimedPacket(packet(annex_b(s), key=False), Timeline(0), True) for s in slices]
        (part,) = iter_parts(timed + more, codec)
        assert codec.may_skip(part) is may
