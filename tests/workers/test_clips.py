"""Frames cut into clips, and clips read from files behind a cursor."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.videos import CASES, VideoSpec, read_index, write_case, write_video
from tests.workers.decode.oracle import SMALL
from tests.workers.session_support import INFO
from workers.clips import FileClips, cut_clips, open_clips
from workers.decode.reader import VideoReader
from workers.types import Clip, Cursor, Frame, VideoSource


def frames(count: int, **marks: dict[int, object]) -> list[Frame]:
    """Frames a second apart; `marks` maps a field to {position: value}."""
    return [
        Frame(
            np.full((2, 3, 3), i, np.uint8),
            float(i),
            **{name: values[i] for name, values in marks.items() if i in values},
        )
        for i in range(count)
    ]


def cut(items: list[Frame], clip_frames: int = 4, first_index: int = 0) -> list[Clip]:
    return list(cut_clips(items, "lobby", clip_frames, interval_s=1.0, first_index=first_index))


def lengths(clips: list[Clip]) -> list[int]:
    return [len(c.pts_s) for c in clips]


def test_clips_are_full_but_the_last():
    clips = cut(frames(10))
    assert lengths(clips) == [4, 4, 2]
    assert [c.index for c in clips] == [0, 1, 2]
    assert [c.pts_s[0] for c in clips] == [0, 4, 8]


def test_no_empty_clip_follows_a_full_last_one():
    assert lengths(cut(frames(8))) == [4, 4]


def test_no_frames_give_no_clips():
    assert cut([]) == []


def test_a_cut_ends_the_clip_before_the_marked_frame():
    assert lengths(cut(frames(10, cut={5: True}))) == [4, 1, 4, 1]


def test_a_cut_at_a_clips_first_frame_changes_nothing():
    assert lengths(cut(frames(8, cut={0: True, 4: True}))) == [4, 4]


def test_a_new_epoch_ends_the_clip_and_the_index_goes_on():
    clips = cut(frames(6, epoch={i: 1 for i in range(3, 6)}))
    assert [(c.epoch, c.index, len(c.pts_s)) for c in clips] == [(0, 0, 3), (1, 1, 3)]


def test_pixels_lie_in_one_array_in_order():
    pixels = cut(frames(3))[0].pixels
    assert pixels.flags.c_contiguous
    assert pixels.shape == (3, 2, 3, 3)
    assert pixels[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_a_clip_speaks_up_to_one_interval_behind_its_last_frame():
    assert cut(frames(3))[0].end_s == 3.0


def test_a_clip_speaks_for_as_long_as_its_last_frame_is_shown():
    assert cut(frames(3, end_s={2: 4.5}))[0].end_s == 4.5
    assert cut(frames(3, end_s={2: 2.04}))[0].end_s == 3.0


def test_no_clip_reaches_beyond_the_end_of_its_file(tmp_path: Path):
    path = write_video(tmp_path / "v.mp4", frames=34, fps=15)
    assert [c.end_s for c in read_clips(path)] == pytest.approx([1.5, 34 / 15])


def test_why_something_is_missing_before_a_clip_is_told_by_its_index():
    gaps = {}
    list(cut_clips(frames(6, gap={3: "damaged"}), "lobby", 3, interval_s=1.0, gaps=gaps))
    assert gaps == {1: "damaged"}


def test_damaged_frames_are_counted():
    assert [c.damaged for c in cut(frames(6, damaged={1: True, 2: True, 5: True}))] == [2, 1]


def test_clip_frames_below_one_is_refused():
    with pytest.raises(ValueError, match="clip_frames must be at least 1, got 0"):
        cut(frames(1), clip_frames=0)


def test_clips_are_cut_as_frames_come():
    pulled = []

    def source():
        for frame in frames(9):
            pulled.append(frame)
            yield frame

    next(cut_clips(source(), "lobby", 4, interval_s=1.0))
    assert len(pulled) == 4


def read_clips(path: Path, cursor: Cursor | None = None, fps: float = 2.0) -> list[Clip]:
    source = VideoSource(str(path), "lobby", fps=fps)
    with VideoReader(source, SMALL, after=cursor) as reader:
        return list(FileClips(reader, "lobby", 3, cursor))


def identity(clip: Clip) -> tuple:
    return clip.epoch, clip.index, clip.pts_s.tobytes(), clip.pixels.tobytes(), clip.end_s


def position(clip: Clip) -> Cursor:
    return Cursor(clip.epoch, clip.index, float(clip.pts_s[-1]), clip.end_s)


@pytest.mark.parametrize("name", CASES)
def test_resuming_at_any_clip_gives_the_same_clips(tmp_path: Path, name: str):
    path = write_case(tmp_path, name)
    whole = read_clips(path)
    assert len(whole) >= 2
    for done, clip in enumerate(whole, start=1):
        rest = read_clips(path, position(clip))
        assert [identity(c) for c in rest] == [identity(c) for c in whole[done:]]


def test_resuming_across_a_gap_and_a_new_epoch_gives_the_same_clips(tmp_path: Path):
    times_s = [i / 10 for i in range(20)] + [60 + i / 10 for i in range(20)]
    once = write_video(tmp_path / "once.ts", frames=40, fps=10, gop=10, times_s=times_s)
    path = tmp_path / "twice.ts"
    path.write_bytes(once.read_bytes() * 2)
    whole = read_clips(path)
    assert [(c.epoch, len(c.pts_s)) for c in whole] == [(0, 3), (0, 1)] * 2 + [(1, 3), (1, 1)] * 2
    for done, clip in enumerate(whole, start=1):
        rest = read_clips(path, position(clip))
        assert [identity(c) for c in rest] == [identity(c) for c in whole[done:]]


def test_a_file_tells_its_interval_and_its_end(tmp_path: Path):
    path = write_video(tmp_path / "v.mp4", frames=45, fps=15)
    with VideoReader(VideoSource(str(path), "lobby", fps=None), SMALL) as reader:
        clips = FileClips(reader, "lobby", 8, None)
        assert clips.interval_s == pytest.approx(1 / 15)
        assert clips.total_s == pytest.approx(3.0)
        assert read_index(next(iter(clips)).pixels[7]) == 7
        assert clips.end == "complete"


def test_a_file_is_not_closed_while_another_thread_reads_it(tmp_path):
    path = write_video(tmp_path / "walk.mp4", VideoSpec(frames=64, fps=4, gop=16))
    read = []
    with open_clips(VideoSource(str(path), "walk", fps=None), INFO, None) as clips:
        thread = threading.Thread(target=lambda: read.extend(clips), daemon=True)
        thread.start()
        time.sleep(0.005)
    thread.join(30)
    assert not thread.is_alive()
    assert [clip.index for clip in read] == list(range(len(read)))
