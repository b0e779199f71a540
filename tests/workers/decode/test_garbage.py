"""What was decoded is gone with its last reference: nothing waits for Python's collector.

A picture is megabytes that the collector does not see, so that it comes by too seldom; those that
live as it does stay for hours.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from tests.videos import write_video
from workers.decode.live import LiveDecoder
from workers.decode.track import open_track

FRAMES = 40


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def count_decoded() -> int:
    return sum(type(one) in (av.VideoFrame, av.Packet) for one in gc.get_objects())


def read_live(path: Path) -> Iterator[object]:
    """As a decoder's process reads a camera."""
    with open_track(str(path)) as track:
        yield from LiveDecoder(track, fps=None).pictures()


def test_no_picture_of_a_camera_waits_for_the_collector(tmp_path: Path):
    pictures = read_live(write_video(tmp_path / "v.mkv", frames=FRAMES))
    next(pictures)
    with without_collector():
        before = count_decoded()
        assert sum(1 for _ in pictures) >= FRAMES // 2 - 1
        assert count_decoded() <= before
