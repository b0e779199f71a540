"""NVDEC against the CPU: the same pictures chosen, nearly the same pixels. Needs an NVIDIA card."""

import logging
from pathlib import Path

import numpy as np
import pytest

from tests.videos import write_video
from workers.decode.cuda import why_no_card
from workers.decode.reader import VideoReader
from workers.types import Cursor, PixelFormat, VideoSource

pytestmark = pytest.mark.gpu
MODEL = PixelFormat(384, 384)


def read(path: Path, backend, *, fps: float | None = 2.0, after=None, plan: bool = True):
    source = VideoSource(str(path), "a", fps=fps)
    with VideoReader(source, MODEL, backend=backend, after=after, plan=plan) as reader:
        frames = list(reader)
        return frames, reader.report


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """Twelve seconds with B-frames in closed groups of pictures."""
    folder = tmp_path_factory.mktemp("card")
    return write_video(folder / "a.mp4", frames=300, fps=25, gop=50, width=1280, height=720)


def test_there_is_a_card():
    assert why_no_card() is None


def check_same(ours, theirs):
    assert [frame.pts_s for frame in ours] == [frame.pts_s for frame in theirs]
    assert ours
    for one, other in zip(ours, theirs, strict=True):
        difference = np.abs(one.pixels.astype(int) - other.pixels.astype(int))
        assert difference.mean() <= 1
        assert (one.damaged, one.cut, one.gap) == (other.damaged, other.cut, other.gap)


@pytest.mark.parametrize("fps", [0.5, 2.0, None])
def test_the_same_pictures_are_chosen_and_differ_by_less_than_a_step(path, fps, caplog):
    with caplog.at_level(logging.INFO):
        ours, report = read(path, "cuda", fps=fps)
    assert "on the CPU" not in caplog.text
    assert "from the CPU" not in caplog.text
    theirs, expected = read(path, "cpu", fps=fps)
    check_same(ours, theirs)
    assert (report.decoded, report.gops_planned) == (expected.decoded, expected.gops_planned)


def test_what_the_plan_leaves_out_is_not_decoded(path):
    _, planned = read(path, "cuda", fps=0.5)
    _, whole = read(path, "cuda", fps=0.5, plan=False)
    assert planned.decoded < whole.decoded


def test_it_goes_on_behind_a_cursor(path):
    ours, _ = read(path, "cuda")
    last = ours[9]
    cursor = Cursor(epoch=0, index=0, last_pts_s=last.pts_s, end_s=last.pts_s + 0.5)
    rest, _ = read(path, "cuda", after=cursor)
    check_same(rest, ours[10:])


def test_a_codec_that_the_card_does_not_know_is_decoded_on_the_cpu(tmp_path, caplog):
    path = write_video(tmp_path / "a.avi", frames=24, fps=8, gop=8, codec="mjpeg")
    ours, _ = read(path, "cuda")
    theirs, _ = read(path, "cpu")
    check_same(ours, theirs)


def test_many_files_leave_no_memory_on_the_card(path):
    import torch

    read(path, "cuda")
    torch.cuda.empty_cache()
    free_before, _ = torch.cuda.mem_get_info()
    for _ in range(5):
        read(path, "cuda")
    torch.cuda.empty_cache()
    free_after, _ = torch.cuda.mem_get_info()
    assert free_before - free_after < 64 << 20
