"""Damage: how far it is marked, that it heals, and that it moves no other frame in time."""

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import pytest

from tests.videos import CASES, VideoSpec, read_index, write_video
from tests.workers.decode.oracle import SMALL
from workers.decode.plan import MAX_BROKEN_PLANS, MAX_PAUSE, GopDecoder, _Trust
from workers.decode.reader import VideoReader
from workers.types import Cursor, Frame, VideoSource


def spoil(path: Path, numbers: set[int], how: Callable[[bytearray], None]) -> Path:
    """The file with the packets of these numbers overwritten where they lie."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        for number in numbers:
            packet = packets[number]
            piece = bytearray(bytes(packet))
            at = data.find(bytes(piece), max(0, (packet.pos or 0) - 64))
            assert at >= 0, "the packet lies in one piece"
            how(piece)
            data[at : at + len(piece)] = piece
    path.write_bytes(data)
    return path


def ruin(piece: bytearray) -> None:
    """Zeros from the slice header on: nothing of it can be decoded."""
    piece[4:] = bytes(len(piece) - 4)


def scramble(piece: bytearray) -> None:
    """Noise in its second half: MPEG-2 takes zeros for no picture at all, without complaint."""
    half = len(piece) // 2
    piece[half:] = random.Random(3).randbytes(len(piece) - half)


def read(path: Path) -> list[Frame]:
    with VideoReader(VideoSource(str(path), "x", fps=None), SMALL) as reader:
        return list(reader)


HEALING = {
    "h264_open_gop": (CASES["h264_open_gop"], ruin, 40),
    "mpeg2": (CASES["mpeg2_ts"], scramble, 40),
    "mpeg4": (CASES["mpeg4_avi_b"], ruin, 40),
    "h264_intra_refresh": (CASES["h264_intra_refresh_ts"], ruin, 60),
    "h264_closed": (CASES["h264_closed_p"], ruin, 24),
}


@pytest.mark.parametrize("name", HEALING)
def test_damage_ends_where_decoding_could_begin(tmp_path: Path, name: str):
    spec, how, longest = HEALING[name]
    path = write_video(tmp_path / "v.mkv", spec, frames=200)
    frames = read(spoil(path, {25}, how))
    marked = [i for i, f in enumerate(frames) if f.damaged]
    assert 0 < len(marked) <= longest
    assert marked[-1] - marked[0] < longest


@pytest.mark.parametrize(
    "spec",
    [
        VideoSpec(suffix=".avi", gop=20),
        replace(CASES["mpeg4_avi_b"], b_frames=0),
        CASES["mpeg4_avi_b"],
        CASES["h264_avi_b"],
    ],
    ids=["h264", "mpeg4", "mpeg4_b", "h264_b"],
)
def test_a_lost_picture_moves_no_later_one_in_an_avi(tmp_path: Path, spec: VideoSpec):
    path = write_video(tmp_path / "v.avi", spec, frames=120)
    whole = {read_index(f.pixels): f.pts_s for f in read(path)}
    frames = read(spoil(path, {25, 31, 47}, ruin))
    later = {read_index(f.pixels): f.pts_s for f in frames[-50:]}
    assert later
    assert {n: whole[n] for n in later} == pytest.approx(later)


FRAGMENTED = {"movflags": "+frag_keyframe+empty_moov+default_base_moof"}


def break_fragments(path: Path, numbers: set[int]) -> Path:
    """A fragmented MP4 of 12 s with zeros over the heads of some of its fragments of 2 s."""
    write_video(path, frames=120, fps=10, gop=20, mux_options=FRAGMENTED)
    data = bytearray(path.read_bytes())
    fragments = [m.start() - 4 for m in re.finditer(b"moof", data)]
    for number in numbers:
        at = fragments[number]
        data[at : at + 600] = bytes(600)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("broken", [{2}, {1, 4}, {3, 4}, {5}])
def test_a_fragmented_mp4_goes_on_behind_a_broken_fragment(tmp_path: Path, broken: set[int]):
    path = break_fragments(tmp_path / "v.mp4", broken)
    with VideoReader(VideoSource(str(path), "x", fps=5.0), SMALL) as reader:
        frames, report = list(reader), reader.report
    there = [n for n in range(0, 120, 2) if n // 20 not in broken]
    assert [read_index(f.pixels) for f in frames] == there
    assert [f.pts_s for f in frames] == pytest.approx([n / 10 for n in there])
    behind = {n * 20 for n in range(1, 6) if n not in broken and n - 1 in broken}
    assert {read_index(f.pixels) for f in frames if f.gap == "damaged"} == behind
    assert report.epochs == 1


def test_a_broken_fragment_is_passed_over_by_a_resumed_run_too(tmp_path: Path):
    path = break_fragments(tmp_path / "v.mp4", {2})
    source = VideoSource(str(path), "x", fps=1.0)
    with VideoReader(source, SMALL) as reader:
        whole = list(reader)
    for done, frame in enumerate(whole, start=1):
        cursor = Cursor(frame.epoch, done - 1, frame.pts_s, frame.pts_s + 1)
        with VideoReader(source, SMALL, after=cursor) as reader:
            assert [(f.pts_s, f.gap) for f in reader] == [(f.pts_s, f.gap) for f in whole[done:]]


def test_a_sound_fragmented_mp4_has_no_break(tmp_path: Path):
    path = break_fragments(tmp_path / "v.mp4", set())
    with VideoReader(VideoSource(str(path), "x"), SMALL) as reader:
        assert len(list(reader)) == 12
        assert reader.report.is_sound


def test_a_plan_is_tried_again_when_gops_are_sound(tmp_path: Path):
    path = write_video(tmp_path / "v.mp4", frames=1200, gop=20, width=64, height=64)
    spoil(path, {45, 85, 125}, ruin)
    with VideoReader(VideoSource(str(path), "x"), SMALL) as reader:
        list(reader)
        report = reader.report
    assert report.gops_whole < 20
    assert report.gops_planned + report.gops_skipped > 40


def test_trust_is_lost_for_longer_each_time_and_never_for_good():
    trust = _Trust()
    pauses = []
    for _ in range(12):
        asked = 1
        while not trust.allows():
            asked += 1
        pauses.append(asked - 1)
        trust.lose()
    assert pauses[:MAX_BROKEN_PLANS] == [0] * MAX_BROKEN_PLANS
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE


@pytest.mark.parametrize(("given", "is_cut"), [(50, True), (80, False)])
def test_a_decoder_that_stops_giving_pictures_without_an_error_is_told(
    tmp_path, monkeypatch, given, is_cut
):
    """As FFmpeg's HEVC decoder does behind some damaged parameter sets."""
    path = write_video(tmp_path / "v.mp4", frames=90, fps=15, gop=250)
    send, count = GopDecoder._send, 0

    def send_some(self, packet):
        nonlocal count
        count += packet is not None
        return send(self, packet) if count <= given else []

    monkeypatch.setattr(GopDecoder, "_send", send_some)
    with VideoReader(VideoSource(str(path), "x", fps=None), SMALL, plan=False) as reader:
        frames = list(reader)
        assert (reader.end == "truncated") is is_cut
        assert reader.report.is_sound is not is_cut
    assert len(frames) <= given
