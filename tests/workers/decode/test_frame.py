"""Pixels: against the checkpoints' image processors, turned, and from every odd pixel format."""

import gc
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.videos import draw_frame, read_index, write_video
from tests.workers.decode.oracle import SMALL, read_all
from workers.decode.frame import FrameConverter, orientation_of_angle, resize, turn
from workers.types import PixelFormat

SIGLIP = PixelFormat(height=384, width=384)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_resize_is_torchvisions_uint8_path():
    pixels = noise(216, 384)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(
        planes, size=(384, 384), mode="bicubic", antialias=True
    )
    assert np.array_equal(resize(pixels, SIGLIP), expected[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("resample", "pillow"), [("bicubic", 3), ("bilinear", 2)])
def test_resize_differs_from_pillow_by_one_step_at_most(resample: str, pillow: int):
    pixels = noise(720, 1280)
    ours = resize(pixels, PixelFormat(384, 384, resample)).astype(int)
    theirs = np.asarray(Image.fromarray(pixels).resize((384, 384), pillow)).astype(int)
    difference = np.abs(ours - theirs)
    assert difference.max() <= 1
    assert difference.mean() < 0.02


def test_resize_meets_a_recorded_processor_output(shared: Path):
    recorded = np.load(shared / "golden" / "tower_tiny.npz")
    ours = resize(recorded["image"], SIGLIP).astype(int)
    difference = np.abs(ours - recorded["resized_u8"].transpose(1, 2, 0))
    assert difference.max() <= 1
    assert difference.mean() < 0.005


def test_a_frame_of_the_right_size_is_left_as_it_is():
    pixels = noise(64, 72)
    assert np.array_equal(resize(pixels, SMALL), pixels)


def test_conversion_is_pyavs_own_rgb():
    frame = av.VideoFrame.from_ndarray(draw_frame(5, 96, 128)).reformat(format="yuv420p")
    converted = FrameConverter(PixelFormat(96, 128)).convert(frame)
    assert np.array_equal(converted, frame.to_ndarray(format="rgb24"))


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_display_matrix_is_applied(tmp_path: Path, degrees: int, mirrored: bool):
    upright = read_all(write_video(tmp_path / "upright.mp4", frames=3, width=96, height=96))
    path = tmp_path / "turned.mp4"
    _write_turned(path, degrees, mirrored)
    turned = read_all(path)
    assert read_index(turned[0].pixels) == 0
    difference = np.abs(turned[0].pixels.astype(int) - upright[0].pixels)
    assert difference.mean() < 6  # encoded twice, in another orientation


def _write_turned(path: Path, degrees: int, mirrored: bool) -> None:
    """A video stored turned by `degrees` (and mirrored), whose matrix puts it upright again."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15, options={"crf": "12"})
        stream.width = stream.height = 96
        stream.pix_fmt = "yuv420p"
        stream.set_display_rotation(degrees, hflip=mirrored)
        for index in range(3):
            pixels = _inverse(draw_frame(index, 96, 96), degrees, mirrored)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels))))
        container.mux(stream.encode(None))


def _inverse(pixels: np.ndarray, degrees: int, mirrored: bool) -> np.ndarray:
    """Undo "turn counter-clockwise by `degrees`, then mirror left to right"."""
    return np.rot90(pixels[:, ::-1] if mirrored else pixels, -degrees // 90)


def test_no_picture_waits_for_the_garbage_collector(tmp_path: Path):
    """One in a cycle of references stays until the collector comes: in each decoder a hundred."""
    _write_turned(tmp_path / "turned.mp4", 90, mirrored=True)
    gc.collect()
    gc.disable()
    try:
        assert len(read_all(tmp_path / "turned.mp4", fps=None)) == 3
        assert [one for one in gc.get_objects() if type(one) is av.VideoFrame] == []
    finally:
        gc.enable()


def test_turn_without_a_matrix_is_the_identity():
    pixels = noise(4, 6)
    assert turn(pixels, (0, False)) is pixels


ODD_FORMATS = {
    "ten_bit": ("libx265", "yuv420p10le", {"x265-params": "log-level=none:pools=1"}),
    "full_range": ("mjpeg", "yuvj420p", {}),
    "gray": ("ffv1", "gray", {}),
    "alpha": ("ffv1", "yuva420p", {}),
    "rgb": ("ffv1", "bgr0", {}),
    "four_four_four": ("ffv1", "yuv444p", {}),
}


@pytest.mark.parametrize("name", ODD_FORMATS)
def test_every_pixel_format_gives_the_picture(tmp_path: Path, name: str):
    codec, pix_fmt, options = ODD_FORMATS[name]
    path = write_video(
        tmp_path / "v.mkv", frames=20, codec=codec, pix_fmt=pix_fmt, options=options, gop=10
    )
    frames = read_all(path, fps=None)
    assert [read_index(f.pixels) for f in frames] == list(range(20))
    assert all(f.pixels.dtype == np.uint8 and f.pixels.shape == (64, 72, 3) for f in frames)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (191, 107), (320, 64)])
def test_every_size_is_resized_without_keeping_its_aspect(tmp_path: Path, width: int, height: int):
    path = write_video(
        tmp_path / "v.mkv",
        frames=3,
        width=width,
        height=height,
        codec="ffv1",
        pix_fmt="yuv444p",
        options={},
    )
    assert [f.pixels.shape for f in read_all(path, fps=None)] == [(64, 72, 3)] * 3


def test_side_data_without_a_name_does_not_end_a_stream(tmp_path: Path):
    """Motion JPEG with EXIF: PyAV has no name for the side data, FFmpeg turns by it."""
    path = tmp_path / "camera.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuvj420p"
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(draw_frame(index, 96, 128))
            for packet in stream.encode(frame.reformat(format="yuvj420p")):
                with_exif = av.Packet(_with_exif(bytes(packet), orientation=3))
                with_exif.stream, with_exif.time_base = stream, packet.time_base
                with_exif.pts, with_exif.dts, with_exif.is_keyframe = packet.pts, packet.dts, True
                container.mux(with_exif)
    frames = read_all(path, fps=None)
    assert [read_index(f.pixels[::-1, ::-1]) for f in frames] == list(range(10))


def _with_exif(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG with an APP1 segment that tells its orientation (Exif 2.3, 4.6.4)."""
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00" + bytes([orientation]) + b"\x00\x00"
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01" + entry + b"\x00\x00\x00\x00"
    body = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 1), (180, 2), (-180, 2), (-90, 3)])
def test_an_angle_is_a_number_of_quarter_turns(degrees: int, turns: int):
    assert orientation_of_angle(degrees) == (turns, False)
