"""Colour and size in torch against swscale, on planes as a card gives them; falling back.

The decoder of the card itself is for test_gpu.py.
"""

import logging
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.codec.hwaccel import hwdevices_available

from tests.videos import write_video
from tests.workers.decode.oracle import SMALL, read_all
from workers.decode import cuda
from workers.decode.backend import open_pictures
from workers.decode.cuda import CardConverter, prepare_card, why_no_card
from workers.decode.frame import FrameConverter
from workers.decode.reader import VideoReader
from workers.types import PixelFormat, VideoSource

UNSAID, ITU709, ITU601, BT2020 = 2, 1, 5, 9
MPEG, JPEG = 1, 2
NAMES = {ITU709: "ITU709", BT2020: "BT2020"}
MODEL = PixelFormat(384, 384)


def scene(rows: int, cols: int) -> np.ndarray:
    """Slopes of every colour, edges, and a sensor's noise."""
    down, across = np.mgrid[0:rows, 0:cols]
    waves = [np.sin(across / 17), np.cos(down / 23 + across / 40), np.sin((across + down) / 31)]
    picture = 128 + 100 * np.stack(waves, axis=-1)
    picture[rows // 3 : rows // 2, cols // 4 : cols // 2] = (250, 20, 40)
    noise = np.random.default_rng(5).normal(0, 2, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def decoded(picture: np.ndarray, matrix: int = UNSAID, span: int = MPEG, form: str = "yuv420p"):
    """A picture as a decoder gives it, on a CPU; tagged."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format=form,
        dst_colorspace=NAMES.get(matrix, "ITU601"),
        dst_color_range="JPEG" if span == JPEG else "MPEG",
    )
    frame.colorspace, frame.color_range = matrix, span
    return frame


def as_card_gives(frame: av.VideoFrame) -> av.VideoFrame:
    """The same samples, chroma side by side; untouched otherwise."""
    planes = [np.frombuffer(plane, np.uint8).reshape(plane.height, -1) for plane in frame.planes]
    luma, cb, cr = (
        rows[:, : plane.width] for rows, plane in zip(planes, frame.planes, strict=True)
    )
    made = av.VideoFrame(frame.width, frame.height, "nv12")
    chroma = np.stack([cb, cr], axis=-1).reshape(cb.shape[0], -1)
    for plane, values in zip(made.planes, (luma, chroma), strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[: values.shape[0], : values.shape[1]] = values
        plane.update(rows.tobytes())
    made.colorspace, made.color_range = frame.colorspace, frame.color_range
    return made


def differences(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.abs(ours.astype(int) - theirs.astype(int))


@pytest.mark.parametrize("matrix", [UNSAID, ITU709, ITU601, BT2020])
@pytest.mark.parametrize("span", [MPEG, JPEG])
def test_rgb_is_swscales_but_for_a_step_in_a_thousand(matrix: int, span: int):
    frame = decoded(scene(360, 640), matrix, span)
    size = PixelFormat(360, 640)
    ours = CardConverter(size).convert_planes(as_card_gives(frame))
    found = differences(ours, FrameConverter(size).convert(frame))
    assert found.max() <= 1
    assert found.mean() < 1e-2, found.mean()


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(1080, 1920), (480, 640), (240, 320)])
def test_pixels_for_a_model_differ_by_less_than_one_step(size: tuple[int, int], resample: str):
    frame, wanted = decoded(scene(*size), ITU709), PixelFormat(384, 384, resample)
    ours = CardConverter(wanted).convert_planes(as_card_gives(frame))
    found = differences(ours, FrameConverter(wanted).convert(frame))
    assert ours.shape == (384, 384, 3)
    assert found.mean() < 0.5
    assert found.max() <= 2


@pytest.mark.parametrize("depth", ["p010le", "p016le"])
def test_more_than_eight_bits_become_eight(depth: str):
    frame = decoded(scene(480, 640), form=depth)
    ours = CardConverter(MODEL).convert_planes(frame)
    assert differences(ours, FrameConverter(MODEL).convert(frame)).mean() <= 1


def test_an_odd_picture_is_whole():
    """VP9 and AV1 alone have such; swscale interpolates chroma there, and nowhere else."""
    frame = decoded(scene(359, 641))
    ours = CardConverter(MODEL).convert_planes(as_card_gives(frame))
    assert differences(ours, FrameConverter(MODEL).convert(frame)).mean() < 2.5


@pytest.mark.parametrize("orientation", [(0, True), (1, False), (2, False), (3, True)])
def test_a_picture_is_turned_upright_as_on_the_cpu(monkeypatch, orientation):
    frame = decoded(scene(240, 320))
    for module in ("workers.decode.cuda", "workers.decode.frame"):
        monkeypatch.setattr(f"{module}.read_orientation", lambda _: orientation)
    ours = CardConverter(MODEL).convert_planes(as_card_gives(frame))
    assert differences(ours, FrameConverter(MODEL).convert(frame)).mean() < 0.5


def test_a_picture_from_the_cpu_is_converted_as_ever(caplog):
    frame, converter = decoded(scene(240, 320)), CardConverter(MODEL)
    with caplog.at_level(logging.INFO):
        first, second = converter.convert(frame), converter.convert(frame)
    assert np.array_equal(first, FrameConverter(MODEL).convert(frame))
    assert np.array_equal(first, second)
    assert caplog.text.count("yuv420p come from the CPU") == 1


needs_none = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card here")


@needs_none
@pytest.mark.parametrize(("backend", "level"), [("cuda", logging.WARNING), ("auto", logging.INFO)])
def test_without_a_card_the_cpu_decodes_and_the_reason_is_told(tmp_path, caplog, backend, level):
    path = write_video(tmp_path / "a.mp4", frames=24, fps=8, gop=8)
    source = VideoSource(str(path), "a", fps=2.0)
    with caplog.at_level(logging.INFO), VideoReader(source, SMALL, backend=backend) as reader:
        frames = list(reader)
    expected = read_all(path, fps=2.0)
    assert len(frames) == len(expected) > 0
    for ours, theirs in zip(frames, expected, strict=True):
        assert ours.pts_s == theirs.pts_s
        assert np.array_equal(ours.pixels, theirs.pixels)
    [told] = [record for record in caplog.records if "decoded on the CPU" in record.message]
    assert told.levelno == level
    assert told.message.endswith(why_no_card() or "?")


@needs_none
def test_why_there_is_no_card_names_what_is_missing(monkeypatch):
    assert "cuda" in hwdevices_available(), "the build of PyAV that is pinned has NVDEC"
    assert why_no_card() == "torch finds no card"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "FFmpeg cannot open the card" in (why_no_card() or "")
    monkeypatch.setattr(cuda, "hwdevices_available", list)
    assert why_no_card() == "this build of PyAV has no CUDA"


def test_the_cpu_asks_for_no_card(monkeypatch):
    monkeypatch.setattr(cuda, "why_no_card", lambda: pytest.fail("asked"))
    assert open_pictures("cpu", SMALL).card is None


def test_a_codec_without_a_form_for_a_card_is_told(tmp_path: Path, caplog):
    path = write_video(tmp_path / "a.mp4", frames=8, fps=8, gop=8)
    with av.open(str(path)) as container:
        prepare_card(container.streams.video[0], "a.mp4")
    assert "a.mp4: is decoded on the CPU: the decoder h264 has no form for a card" in caplog.text
