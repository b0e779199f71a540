"""Files that are read while somebody writes them: the frames of the finished file, as they come."""

import os
import threading
import time

import numpy as np
import pytest

from tests.videos import write_video
from tests.waits import HANG_S, wait_until
from workers.decode.reader import VideoReader
from workers.errors import NoVideoStream, SourceRefused, SourceReplaced
from workers.types import Cursor, PixelFormat, VideoSource

FORMAT = PixelFormat(64, 64)
FRAGMENTED = {"movflags": "+frag_keyframe+empty_moov+default_base_moof"}
KINDS = {
    "ts": {},
    "mkv": {},
    "flv": {},
    "mp4": {"mux_options": FRAGMENTED},
}
IDLE_S = 0.5


@pytest.fixture(scope="module", params=KINDS)
def whole(request, tmp_path_factory):
    """A finished recording of each container that can be followed."""
    path = tmp_path_factory.mktemp("whole") / f"whole.{request.param}"
    return write_video(path, frames=120, fps=10, gop=10, **KINDS[request.param])


@pytest.fixture(scope="module")
def transport_stream(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "whole.ts"
    return write_video(path, frames=120, fps=10, gop=10)


class Writer:
    """Writes a file bit by bit, in a thread."""

    def __init__(self, path, data, *, parts=24, pause_s=0.02):
        self._path, self._data, self._pause_s = path, data, pause_s
        self._part = -(-len(data) // parts)
        self._path.write_bytes(b"")
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._thread.join(HANG_S)

    def _run(self):
        for at in range(0, len(self._data), self._part):
            with self._path.open("ab") as file:
                file.write(self._data[at : at + self._part])
            time.sleep(self._pause_s)


def source(path, **options):
    return VideoSource(str(path), "s", **{"fps": 2.0, "follow_s": IDLE_S, **options})


def read(given, after=None):
    with VideoReader(given, FORMAT, after=after) as reader:
        return list(reader), reader.end


def same(frames, others):
    assert [frame.pts_s for frame in frames] == [frame.pts_s for frame in others]
    for frame, other in zip(frames, others, strict=True):
        assert np.array_equal(frame.pixels, other.pixels)
        assert (frame.epoch, frame.cut, frame.damaged, frame.end_s, frame.gap) == (
            other.epoch,
            other.cut,
            other.damaged,
            other.end_s,
            other.gap,
        )


def test_the_frames_are_those_of_the_finished_file(whole, tmp_path):
    path = tmp_path / whole.name
    with Writer(path, whole.read_bytes()):
        frames, end = read(source(path))
    finished, finished_end = read(source(path, follow_s=None))
    same(frames, finished)
    assert (end, finished_end, len(frames)) == ("complete", "complete", 24)


def test_a_finished_file_that_is_followed_ends_as_complete(whole):
    frames, end = read(source(whole))
    same(frames, read(source(whole, follow_s=None))[0])
    assert end == "complete"


def test_frames_come_while_the_rest_is_not_written(whole, tmp_path):
    path, data = tmp_path / whole.name, whole.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with VideoReader(source(path, follow_s=HANG_S), FORMAT) as reader:
        frames = iter(reader)
        early = [next(frames) for _ in range(10)]
        with path.open("ab") as file:
            file.write(data[len(data) * 2 // 3 :])
        later = [next(frames) for _ in range(10)]
        reader.stop_waiting()
        rest = list(frames)
    same([*early, *later, *rest], read(source(whole, follow_s=None))[0])


def test_reading_goes_on_behind_a_cursor(whole, tmp_path):
    path = tmp_path / whole.name
    all_frames, _ = read(source(whole, follow_s=None))
    last = all_frames[7]
    with Writer(path, whole.read_bytes()):
        frames, _ = read(source(path), Cursor(0, 0, last.pts_s, last.pts_s + 0.5))
    same(frames, all_frames[8:])


def test_a_wait_without_a_limit_ends_when_it_is_told_to(transport_stream, tmp_path):
    path = tmp_path / "endless.ts"
    path.write_bytes(transport_stream.read_bytes())
    with VideoReader(source(path, follow_s=float("inf")), FORMAT) as reader:
        found = []
        thread = threading.Thread(target=lambda: found.extend(reader), daemon=True)
        thread.start()
        wait_until(lambda: len(found) > 15)
        thread.join(3 * IDLE_S)
        assert thread.is_alive()
        reader.stop_waiting()
        thread.join(HANG_S)
        assert not thread.is_alive()
    assert len(found) == 24


@pytest.mark.parametrize("how", ["shortened", "replaced"])
def test_what_takes_its_place_is_told_and_what_came_is_kept(transport_stream, tmp_path, how):
    path = tmp_path / "live.ts"
    path.write_bytes(transport_stream.read_bytes())
    frames = []
    with VideoReader(source(path), FORMAT) as reader:
        reading = iter(reader)
        frames += [next(reading) for _ in range(12)]
        if how == "shortened":
            os.truncate(path, 1000)
        else:
            other = tmp_path / "other.ts"
            other.write_bytes(b"another recording")
            other.replace(path)
        with pytest.raises(SourceReplaced, match=how):
            frames += reading
    assert [frame.pts_s for frame in frames] == [i / 2 for i in range(len(frames))]
    assert len(frames) >= 12


def test_a_recording_that_is_only_renamed_goes_on(transport_stream, tmp_path):
    path, data = tmp_path / "now.ts", transport_stream.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with VideoReader(source(path), FORMAT) as reader:
        frames = iter(reader)
        found = [next(frames)]
        moved = path.rename(tmp_path / "moved.ts")
        with moved.open("ab") as file:
            file.write(data[len(data) // 2 :])
        found += frames
    assert len(found) == 24


def test_an_mp4_that_gets_its_index_at_the_end_is_refused_at_once(tmp_path):
    path = write_video(tmp_path / "plain.mp4", frames=20)
    began_s = time.monotonic()
    with pytest.raises(SourceRefused, match="fragmented MP4"):
        read(source(path, follow_s=HANG_S))
    assert time.monotonic() - began_s < HANG_S / 2


def test_containers_that_cannot_be_followed_are_refused(tmp_path):
    path = write_video(tmp_path / "old.avi", codec="mpeg4", options={}, frames=20)
    with pytest.raises(SourceRefused, match="cannot be read while it is written"):
        read(source(path))


def test_a_file_that_stays_empty_is_told(tmp_path):
    path = tmp_path / "empty.ts"
    path.write_bytes(b"")
    with pytest.raises(NoVideoStream, match="did not grow"):
        read(source(path))


def test_text_is_no_video(tmp_path):
    path = tmp_path / "notes.ts"
    path.write_text("nothing to see here\n" * 50)
    with pytest.raises(NoVideoStream, match="no video"):
        read(source(path))
