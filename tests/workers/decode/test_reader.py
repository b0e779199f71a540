"""The plan against a full decode, times, ranges, epochs, gaps, resume."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from bench.camera import repeat_video
from tests.videos import CASES, VideoSpec, read_index, write_case, write_video
from tests.workers.decode.oracle import RATES, SMALL, assert_same_frames, pick_frames, read_all
from workers.decode.reader import VideoReader
from workers.types import Cursor, Frame, VideoSource

FOOTAGE = (
    "asl_book.mkv",
    "carpark_topdown.mp4",
    "nasa_webb_multistream.mp4",
    "screencast_notebook.mp4",
    "surveillance_one_by_one.mp4",
    "tricky_no_timescale.mp4",
    "tricky_rotated90.mov",
)

PLANNED = {
    "h264_closed_p",
    "h264_closed_b",
    "h264_b_pyramid",
    "h264_long_gop",
    "h264_mkv",
    "h264_ts",
    "h264_fragmented",
    "h264_vfr",
    "h264_flv",
    "hevc_closed",
    "hevc_temporal_layers",
    "hevc_ts",
    "vp8",
    "vp9",
    "vp9_alt_ref",
    "av1",
    "mjpeg_avi",
}
"""Cases whose GOPs are all proved closed, so that no fallback may happen."""


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def read_report(path: Path, fps: float | None = 1.0, **options):
    with VideoReader(VideoSource(str(path), "test", fps=fps), SMALL, **options) as reader:
        frames = list(reader)
        return frames, reader.report


def same(frames: list[Frame], others: list[Frame]) -> bool:
    def key(f: Frame) -> tuple:
        return f.epoch, f.pts_s, f.damaged, f.pixels.tobytes()

    return [key(f) for f in frames] == [key(f) for f in others]


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("name", CASES)
def test_plan_equals_a_full_decode(cases: Path, name: str, fps: float | None):
    path = write_case(cases, name)
    assert_same_frames(read_all(path, fps), pick_frames(path, fps))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("name", FOOTAGE)
def test_plan_equals_a_full_decode_on_real_footage(shared: Path, name: str, fps: float | None):
    path = shared / "videos" / name
    assert_same_frames(read_all(path, fps), pick_frames(path, fps))


@pytest.mark.parametrize("name", CASES)
def test_the_plan_is_used_exactly_where_it_is_proved(cases: Path, name: str):
    _, report = read_report(write_case(cases, name))
    assert (report.fell_back is None) == (name in PLANNED)


@pytest.mark.parametrize("name", CASES)
def test_every_frame_comes_once_in_presentation_order(cases: Path, name: str):
    frames = read_all(write_case(cases, name), fps=None)
    assert [read_index(f.pixels) for f in frames] == list(range(CASES[name].frames))
    assert all(a.pts_s < b.pts_s for a, b in pairwise(frames))


def test_the_plan_decodes_fewer_pictures(cases: Path):
    path = write_case(cases, "h264_closed_b")
    _, planned = read_report(path)
    _, full = read_report(path, plan=False)
    assert planned.decoded < full.decoded / 2
    assert full.decoded == CASES["h264_closed_b"].frames


def test_frame_is_the_first_at_or_after_its_target(tmp_path: Path):
    times_s = [0.0, 0.9, 1.1, 1.9, 2.0, 2.5, 4.2, 4.3, 5.0]
    path = write_video(tmp_path / "v.mp4", frames=len(times_s), times_s=times_s)
    assert [f.pts_s for f in read_all(path)] == pytest.approx([0.0, 1.1, 2.0, 4.2, 5.0])


def test_a_rate_above_the_native_one_repeats_nothing(tmp_path: Path):
    path = write_video(tmp_path / "v.mp4", frames=20, fps=5)
    assert [read_index(f.pixels) for f in read_all(path, fps=60.0)] == list(range(20))


def test_times_rounded_by_the_container_lose_no_frame(tmp_path: Path):
    path = write_video(tmp_path / "v.mkv", frames=60, fps=30)  # milliseconds: 33, 67, 100
    assert len(read_all(path, fps=30.0)) == 60


def test_range_is_half_open_and_its_grid_starts_at_start_s(tmp_path: Path):
    path = write_video(tmp_path / "v.mp4", frames=90, fps=15)
    times = [f.pts_s for f in read_all(path, start_s=1.4, end_s=4.4)]
    assert times == pytest.approx([1.4, 2.4, 3.4])


def test_adjacent_ranges_share_no_frame_and_miss_none(tmp_path: Path):
    path = write_video(tmp_path / "v.mp4", frames=45, fps=15)
    whole = [f.pts_s for f in read_all(path, fps=None)]
    parts = [
        f.pts_s
        for start, end in ((0.0, 1.0), (1.0, 2.2), (2.2, None))
        for f in read_all(path, fps=None, start_s=start, end_s=end)
    ]
    assert parts == whole


def test_stream_time_starts_at_the_containers_start(cases: Path):
    frames = read_all(write_case(cases, "h264_ts"), fps=None)  # its clock starts at 1.37 s
    assert frames[0].pts_s == 0.0
    assert frames[15].pts_s == pytest.approx(1.0)


def test_a_hole_in_a_transport_stream_is_a_gap_and_costs_no_time(tmp_path: Path):
    times_s = [i / 10 for i in range(20)] + [3600 + i / 10 for i in range(20)]
    path = write_video(tmp_path / "v.ts", frames=40, fps=10, times_s=times_s)
    frames = read_all(path)
    assert [f.pts_s for f in frames] == pytest.approx([0, 1, 3600, 3601])
    assert [f.cut for f in frames] == [False, False, True, False]
    assert [f.gap for f in frames] == [None, None, "gap", None]


SLIDES_S = (0.0, 0.5, 20.3, 21.0, 41.5)


@pytest.mark.parametrize(
    ("suffix", "b_frames"),
    [(".mp4", 0), (".mp4", 3), (".mkv", 0), (".mkv", 3), (".flv", 0), (".flv", 3), (".avi", 0)],
)
def test_a_slide_is_footage_for_as_long_as_it_is_shown(tmp_path: Path, suffix: str, b_frames: int):
    fps = 10 if suffix == ".avi" else 15  # it counts time in frames
    name = "h264_closed_b" if b_frames else "h264_closed_p"
    path = write_video(tmp_path / f"v{suffix}", CASES[name], frames=5, times_s=SLIDES_S, fps=fps)
    frames, report = read_report(path)
    shown = [max(i for i, t in enumerate(SLIDES_S) if t <= f.pts_s + 0.01) for f in frames]
    assert [read_index(f.pixels) for f in frames] == shown
    assert [int(f.pts_s + 0.01) for f in frames] == list(range(42))
    assert not any(f.cut or f.gap for f in frames)
    assert report.decoded == 5
    assert report.end == "complete"


def test_a_held_picture_is_decoded_and_converted_once(tmp_path: Path):
    path = write_video(tmp_path / "v.mp4", frames=2, times_s=[0.0, 30.0])
    frames, report = read_report(path)
    assert report.decoded == 2
    assert len(frames) == 31
    assert len({id(f.pixels) for f in frames}) == 2


def test_nothing_holds_for_ever(tmp_path: Path):
    times_s = [0.0, 0.1, 3600.0, 3600.1]
    mkv = write_video(tmp_path / "v.mkv", frames=4, fps=10, times_s=times_s)
    mp4 = write_video(tmp_path / "v.mp4", frames=4, fps=10, times_s=times_s)
    for path, held_s in ((mkv, 120), (mp4, 600)):
        frames = read_all(path)
        assert [f.pts_s for f in frames] == pytest.approx([*range(held_s), 3600.0])
        assert frames[-1].cut
        assert frames[-1].gap == "gap"


@pytest.mark.parametrize("fps", [Fraction(1, 10), Fraction(1, 4), Fraction(1, 2)], ids=float)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("name", ["h264_closed_p", "h264_closed_b", "h264_open_gop"])
def test_a_slow_camera_has_no_gaps(tmp_path: Path, suffix: str, fps: Fraction, name: str):
    path = write_video(tmp_path / f"v{suffix}", CASES[name], frames=45, fps=fps)
    frames, report = read_report(path)
    assert not any(f.cut or f.gap for f in frames)
    assert {read_index(f.pixels) for f in frames} == set(range(45))
    assert report.end == "complete"
    assert report.before_keyframe == 0


@pytest.mark.parametrize("codec", ["h264_closed_b", "hevc_closed"])
def test_matroska_without_first_decode_times_loses_nothing(tmp_path: Path, codec: str):
    """Variable rate behind an opening still, B-frames: the case where pts was taken for dts."""
    times_s = [0.0, *(3.0 + i / 10 for i in range(59))]
    path = write_video(tmp_path / "v.mkv", CASES[codec], frames=60, times_s=times_s)
    frames, report = read_report(path, fps=None)
    assert [read_index(f.pixels) for f in frames] == list(range(60))
    assert [f.pts_s for f in frames] == pytest.approx(times_s, abs=0.001)
    assert (report.epochs, report.end) == (1, "complete")


def test_a_matroska_segment_that_keeps_its_times_is_whole(tmp_path: Path):
    path = write_video(tmp_path / "v.mkv", frames=60, offset=6 * 90_000)
    _, report = read_report(path)
    assert report.declared_end_s == pytest.approx(4.0, abs=0.01)
    assert report.end == "complete"


def test_a_clock_set_back_by_an_hour_is_an_epoch(tmp_path: Path):
    first = write_video(tmp_path / "a.ts", frames=40, fps=10, gop=10, offset=4000 * 90_000)
    second = write_video(tmp_path / "b.ts", frames=40, fps=10, gop=10, offset=400 * 90_000)
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    frames = read_all(both)
    assert [f.epoch for f in frames] == [0] * 4 + [1] * 4
    assert [f.pts_s for f in frames] == pytest.approx(range(8))


def test_what_comes_before_a_keyframe_is_a_gap_with_its_reason(tmp_path: Path):
    whole = write_video(tmp_path / "whole.ts", frames=120, fps=10, gop=50).read_bytes()
    late = tmp_path / "late.ts"
    late.write_bytes(whole + whole[: 188 * 3] + whole[188 * (len(whole) // 188 // 8) :])
    frames = read_all(late)
    (second,) = (f for f in frames if f.epoch == 1 and f.gap)
    assert second.gap == "damaged"
    assert 12 + 2.0 < second.pts_s < 12 + 5.0


def test_a_clock_that_starts_anew_is_a_new_epoch(tmp_path: Path):
    once = write_video(tmp_path / "once.ts", frames=40, fps=10, gop=10)
    twice = tmp_path / "twice.ts"
    twice.write_bytes(once.read_bytes() * 2)
    frames, report = read_report(twice)
    assert [f.epoch for f in frames] == [0] * 4 + [1] * 4
    assert [f.pts_s for f in frames] == pytest.approx(range(8))
    assert [f.cut for f in frames] == [False] * 4 + [True] + [False] * 3
    assert report.epochs == 2


def test_epochs_lie_behind_each_other_and_each_is_sampled_from_its_start(tmp_path: Path):
    short = write_video(tmp_path / "short.ts", frames=37, fps=10, gop=10)
    thrice = tmp_path / "thrice.ts"
    thrice.write_bytes(short.read_bytes() * 3)
    frames, report = read_report(thrice)
    assert [read_index(f.pixels) for f in frames] == [0, 10, 20, 30] * 3
    starts_s = (0.0, 3.7, 7.4)
    assert [f.pts_s for f in frames] == pytest.approx([e + s for e in starts_s for s in range(4)])
    ends_s = [f.epoch_end_s for f in frames if f.epoch_end_s is not None]
    assert ends_s == pytest.approx([3.7, 7.4, 11.1])
    assert report.end_s == pytest.approx(11.1)


def test_a_range_counts_through_all_epochs(tmp_path: Path):
    once = write_video(tmp_path / "once.ts", frames=40, fps=10, gop=10)
    thrice = tmp_path / "thrice.ts"
    thrice.write_bytes(once.read_bytes() * 3)
    source = VideoSource(str(thrice), "test", start_s=5.0, end_s=10.0)
    with VideoReader(source, SMALL) as reader:
        frames = list(reader)
    assert [f.pts_s for f in frames] == pytest.approx([5, 6, 7, 8, 9])
    assert [read_index(f.pixels) for f in frames] == [10, 20, 30, 0, 10]


def test_a_stream_begun_in_an_epochs_own_time_goes_on_in_it(tmp_path: Path):
    once = write_video(tmp_path / "once.ts", frames=40, fps=10, gop=10)
    twice = tmp_path / "twice.ts"
    twice.write_bytes(once.read_bytes() * 2)
    frames = read_all(twice, after=Cursor(1, 5, 1.0, 2.0))
    assert [(f.epoch, f.pts_s) for f in frames] == [(1, 2.0), (1, 3.0)]


def test_a_new_picture_size_marks_a_cut_and_is_resized(tmp_path: Path):
    large = write_video(tmp_path / "a.ts", frames=40, fps=10, gop=10, width=256, height=192)
    small = write_video(tmp_path / "b.ts", frames=40, fps=10, gop=10, offset=4 * 90_000)
    both = tmp_path / "both.ts"
    both.write_bytes(large.read_bytes() + small.read_bytes())
    frames = read_all(both)
    assert [read_index(f.pixels) for f in frames] == [0, 10, 20, 30] * 2
    assert [f.cut for f in frames] == [False] * 4 + [True] + [False] * 3
    assert {f.pixels.shape for f in frames} == {(64, 72, 3)}


def test_a_new_codec_ends_what_can_be_decoded_and_is_reported(tmp_path: Path):
    first = write_video(tmp_path / "a.ts", frames=40, fps=10, gop=10)
    second = write_video(
        tmp_path / "b.ts", CASES["hevc_ts"], frames=40, fps=10, gop=10, offset=4 * 90_000
    )
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    frames, report = read_report(both)
    assert [read_index(f.pixels) for f in frames][:4] == [0, 10, 20, 30]
    assert [f.damaged for f in frames[:4]] == [False] * 4
    assert report.truncated
    assert report.damaged_packets >= 16


def test_a_wrapped_clock_keeps_rising(tmp_path: Path):
    path = write_video(tmp_path / "v.ts", frames=60, fps=10, gop=10, offset=2**33 - 3 * 90_000)
    frames, report = read_report(path)
    assert [f.pts_s for f in frames] == pytest.approx([0, 1, 2, 3, 4, 5])
    assert report.epochs == 1


def test_the_largest_video_track_is_read(tmp_path: Path):
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=10) for _ in range(2)]
        for stream, (width, height) in zip(streams, ((64, 48), (128, 96)), strict=True):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(20):
            for stream in streams:
                pixels = np.full((stream.height, stream.width, 3), 40, np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels)
                frame.pts, frame.time_base = index, Fraction(1, 10)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    with VideoReader(VideoSource(str(path), "test"), SMALL) as reader:
        assert (reader.info.width, reader.info.height) == (128, 96)


RESUMABLE = (
    "h264_closed_b",
    "h264_open_gop",
    "h264_ts",
    "h264_vfr",
    "h264_avi_b",
    "h264_fragmented",
    "hevc_open_cra_rasl",
    "vp9",
)


@pytest.mark.parametrize("name", RESUMABLE)
def test_decoding_goes_on_behind_any_frame(cases: Path, name: str):
    path = write_case(cases, name)
    whole = read_all(path, fps=2.0)
    for done, frame in enumerate(whole, start=1):
        cursor = Cursor(frame.epoch, done - 1, frame.pts_s, frame.pts_s + 0.5)
        assert same(read_all(path, fps=2.0, after=cursor), whole[done:])


def test_resuming_an_mp4_reads_and_decodes_only_what_follows(cases: Path):
    path = write_case(cases, "h264_closed_b")
    _, whole = read_report(path)
    frames, resumed = read_report(path, after=Cursor(0, 0, 4.0, 5.0))
    assert [f.pts_s for f in frames] == pytest.approx([5.0])
    assert resumed.packets < whole.packets / 2
    assert resumed.decoded < whole.decoded / 2
    assert not resumed.truncated


def test_resuming_in_a_later_epoch_gives_the_same_frames(tmp_path: Path):
    once = write_video(tmp_path / "once.ts", frames=40, fps=10, gop=10)
    thrice = tmp_path / "thrice.ts"
    thrice.write_bytes(once.read_bytes() * 3)
    whole = read_all(thrice)
    for done, frame in enumerate(whole, start=1):
        cursor = Cursor(frame.epoch, done - 1, frame.pts_s, frame.pts_s + 1)
        assert same(read_all(thrice, after=cursor), whole[done:])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_decoding_goes_on_in_the_middle_of_a_held_picture(tmp_path: Path, suffix: str):
    path = write_video(tmp_path / f"v{suffix}", CASES["h264_closed_b"], frames=5, times_s=SLIDES_S)
    whole = read_all(path)
    for done, frame in enumerate(whole, start=1):
        cursor = Cursor(frame.epoch, done - 1, frame.pts_s, frame.pts_s + 1)
        assert same(read_all(path, after=cursor), whole[done:])


def test_resuming_at_the_end_gives_nothing_and_no_error(cases: Path):
    assert read_all(write_case(cases, "h264_ts"), after=Cursor(0, 5, 5.0, 6.0)) == []


def test_a_gop_too_long_to_hold_is_decoded_in_parts(monkeypatch, tmp_path: Path):
    path = write_video(tmp_path / "v.mp4", VideoSpec(gop=250, frames=120))
    expected = read_all(path, fps=2.0)
    monkeypatch.setattr("workers.decode.gop.MAX_PART_PACKETS", 16)
    frames, report = read_report(path, fps=2.0)
    assert same(frames, expected)
    assert report.gops_whole == 8


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv"])
def test_memory_is_flat_over_an_hour(tmp_path: Path, suffix: str):
    once = write_video(
        tmp_path / "once.mp4", VideoSpec(gop=250, frames=1500, width=320, height=240)
    )
    path = repeat_video(once, tmp_path / f"hour{suffix}", loops=36, seconds=100.0)
    resident_mib = []
    process = psutil.Process()
    with VideoReader(VideoSource(str(path), "test"), SMALL) as reader:
        for number, _ in enumerate(reader):
            if number % 600 == 599:
                resident_mib.append(process.memory_info().rss / 2**20)
        assert reader.report.frames == 3600
    assert len(resident_mib) == 6
    assert resident_mib[-1] - resident_mib[0] < 8
