"""Segments of one camera, read as the recording they were cut from."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.videos import read_index, split_video, write_video
from workers.decode.joined import JoinedReader, probe_segment
from workers.decode.reader import VideoReader, frame_end_s
from workers.errors import NoVideoStream
from workers.types import Cursor, Frame, PixelFormat, Segment, VideoSource

LOOK = PixelFormat(96, 128)
KINDS = [(".mkv", True), (".mkv", False), (".mp4", False), (".ts", True)]
"""(ending, whether the files' clocks go on)"""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> dict[str, Path]:
    """12 s of 10 pictures a second with a keyframe every 3.3 s, by ending."""
    folder = tmp_path_factory.mktemp("whole")
    return {
        suffix: write_video(folder / f"w{suffix}", frames=120, fps=10, gop=33, suffix=suffix)
        for suffix in (".mkv", ".mp4", ".ts")
    }


def in_a_row(paths: list[Path], *, pauses_s: float = 0.0) -> tuple[Segment, ...]:
    """Segments one behind the other."""
    segments, at_s = [], 0.0
    for path in paths:
        end_s = at_s + probe_segment(str(path)).length_s
        segments.append(Segment(str(path), at_s, at_s, end_s))
        at_s = end_s + pauses_s
    return tuple(segments)


def source_of(segments: tuple[Segment, ...], fps: float | None = 1.0) -> VideoSource:
    return VideoSource("folder", "gate", fps, segments=segments)


def read(source: VideoSource, after: Cursor | None = None) -> list[Frame]:
    with JoinedReader(source, LOOK, after=after) as reader:
        frames = list(reader)
        assert reader.end == "complete"
        return frames


def seen(frames: list[Frame]) -> list[tuple[float, int]]:
    return [(round(frame.pts_s, 3), read_index(frame.pixels)) for frame in frames]


@pytest.mark.parametrize("fps", [1.0, 3.0, None])
@pytest.mark.parametrize(("suffix", "keep_times"), KINDS)
def test_segments_give_the_frames_of_the_undivided_recording(
    recordings, tmp_path, suffix, keep_times, fps
):
    whole = recordings[suffix]
    parts = split_video(whole, tmp_path, f"p%03d{suffix}", keep_times=keep_times)
    assert len(parts) == 4
    frames = read(source_of(in_a_row(parts), fps))
    with VideoReader(VideoSource(str(whole), "gate", fps), LOOK) as reader:
        assert seen(frames) == seen(list(reader))
    assert [frame.cut or frame.gap is not None for frame in frames] == [False] * len(frames)


@pytest.mark.parametrize("fps", [3.0, None])
def test_reading_goes_on_behind_any_frame(recordings, tmp_path, fps):
    source = source_of(in_a_row(split_video(recordings[".mkv"], tmp_path)), fps)
    frames = read(source)
    for number in range(0, len(frames), 4):
        last = frames[number]
        after = Cursor(0, number, last.pts_s, last.pts_s + 0.1)
        assert seen(read(source, after)) == seen(frames[number + 1 :])


def test_a_pause_between_files_is_a_gap_and_ends_a_clip(recordings, tmp_path):
    parts = split_video(recordings[".mp4"], tmp_path, "p%03d.mp4")
    frames = read(source_of(in_a_row(parts[:2], pauses_s=5.0)))
    assert [(round(f.pts_s, 3), f.gap) for f in frames if f.cut] == [(8.3, "gap")]
    before = frames[[f.cut for f in frames].index(True) - 1]
    assert frame_end_s(before, 1.0) == pytest.approx(3.3)  # no longer than its file


def test_a_file_that_cannot_be_read_costs_itself(recordings, tmp_path, caplog):
    parts = split_video(recordings[".mp4"], tmp_path, "p%03d.mp4")
    segments = in_a_row(parts)
    parts[1].write_bytes(b"not a video")
    frames = read(source_of(segments))
    assert [f.pts_s for f in frames if f.gap] == [pytest.approx(6.6)]
    assert "a segment is left out" in caplog.text
    assert [round(f.pts_s, 3) for f in frames] == [0, 1, 2, 3, 6.6, 7, 8, 9, 10, 11]
    for path in parts:
        path.write_bytes(b"not a video")
    with pytest.raises(NoVideoStream):
        read(source_of(segments))


def test_pictures_of_another_size_end_a_clip(recordings, tmp_path):
    small = write_video(tmp_path / "small.mp4", frames=30, fps=10, width=96, height=64)
    frames = read(source_of(in_a_row([recordings[".mp4"], small])))
    assert [(f.pts_s, f.gap) for f in frames if f.cut] == [(pytest.approx(12.0), None)]


def test_what_two_files_share_is_read_once(recordings, tmp_path):
    first, second, *_ = split_video(recordings[".mp4"], tmp_path, "p%03d.mp4")
    segments = (Segment(str(first), 0.0, 0.0, 3.3), Segment(str(second), 2.0, 3.3, 5.3))
    frames = read(source_of(segments))
    assert [round(f.pts_s, 3) for f in frames] == [0, 1, 2, 3, 4, 5]
    assert read_index(frames[4].pixels) == 33 + 20  # two seconds into the second file


def test_a_range_is_of_the_whole_stream(recordings, tmp_path):
    segments = in_a_row(split_video(recordings[".mkv"], tmp_path))
    source = replace(source_of(segments), start_s=2.5, end_s=8.0)
    assert [round(f.pts_s, 3) for f in read(source)] == [2.5, 3.5, 4.5, 5.5, 6.5, 7.5]


def test_a_file_says_how_long_it_is_and_where_its_clock_stands(recordings, tmp_path):
    parts = split_video(recordings[".mkv"], tmp_path, keep_times=True)
    facts = [probe_segment(str(path)) for path in parts]
    assert [f.clock_s for f in facts] == pytest.approx([0.0, 3.3, 6.6, 9.9])
    assert [f.length_s for f in facts] == pytest.approx([3.3, 3.3, 3.3, 2.1])
