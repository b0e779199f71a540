"""What the decode bench needs of PyAV: clips to measure on, and plain decode-all to compare with.

Nothing of the product uses this; it lies here because PyAV lives nowhere else.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from jaxtyping import UInt8

from workers.decode.frame import FrameConverter
from workers.types import PixelFormat


def write_camera_clips(
    folder: Path,
    gops: Sequence[int],
    *,
    seconds: int,
    loops: int = 1,
    fps: int = 25,
    height: int = 1080,
    width: int = 1920,
) -> dict[int, Path]:
    """Encode one scene as a camera sees it, once per GOP length: H.264, closed GOPs, B-frames.

    A street camera in the wind: a ground with the spectrum of natural images behind a lens' blur,
    a swaying mast, foliage that ripples over a third of the picture, nine textured objects
    crossing at different speeds, drifting light, sensor noise. x264 `veryfast` at crf 23 (about
    5 Mbit/s at 1080p), `seconds` long, then repeated `loops` times without encoding again.
    """
    scene = _Scene(height, width)
    once = {gop: folder / f"once{gop}.mp4" for gop in gops}
    with ExitStack() as stack:
        outputs = [_open_output(stack, once[gop], gop, fps, height, width) for gop in gops]
        for index in range(seconds * fps):
            picture = scene.draw(index / fps)
            for container, stream in outputs:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, fps)
                container.mux(stream.encode(frame))
        for container, stream in outputs:
            container.mux(stream.encode(None))
    length_s = float(seconds)
    return {gop: repeat_video(once[gop], folder / f"gop{gop}.mp4", loops, length_s) for gop in gops}


def _open_output(
    stack: ExitStack, path: Path, gop: int, fps: int, height: int, width: int
) -> tuple[OutputContainer, VideoStream]:
    container = stack.enter_context(av.open(str(path), "w"))
    options = {"preset": "veryfast", "crf": "23", "sc_threshold": "0"}
    stream = container.add_stream("libx264", rate=fps, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.gop_size = gop
    return container, stream


def repeat_video(once: Path, path: Path, loops: int, seconds: float) -> Path:
    """Copy a video's packets `loops` times in a row, `seconds` apart, without encoding again."""
    with av.open(str(once)) as source, av.open(str(path), "w") as output:
        track = source.streams.video[0]
        stream = output.add_stream_from_template(track)
        for loop in range(loops):
            source.seek(0)
            for packet in source.demux(track):
                if packet.pts is None or packet.dts is None:
                    continue  # the end marker
                shift = round(Fraction(loop * seconds).limit_denominator(1000) / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = stream
                output.mux(packet)
    return path


def iter_decode_all(
    path: Path, pixel_format: PixelFormat, fps: float
) -> Iterator[tuple[float, UInt8[np.ndarray, "h w 3"]]]:
    """(time, pixels) by decoding every picture on one thread and converting the wanted ones."""
    converter = FrameConverter(pixel_format)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        next_target_s = 0.0
        for picture in container.decode(stream):
            if picture.time >= next_target_s:
                yield picture.time, converter.convert(picture)
                next_target_s = (picture.time * fps // 1 + 1) / fps


def iter_rgb(path: Path, *, every: int) -> Iterator[UInt8[np.ndarray, "rows cols 3"]]:
    """Every n-th picture of a file as RGB, all of them decoded on one thread."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for index, picture in enumerate(container.decode(stream)):
            if index % every == 0:
                yield picture.to_ndarray(format="rgb24")


def iter_live_pictures(url: str, *, every: int) -> Iterator[UInt8[np.ndarray, "rows cols 3"]]:
    """Every n-th picture of an RTSP URL as RGB, all of them decoded on one thread, without end."""
    options = {"rtsp_transport": "tcp", "fflags": "nobuffer", "analyzeduration": "100000"}
    with av.open(url, options=options, timeout=20.0) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for index, picture in enumerate(container.decode(stream)):
            if index % every == 0:
                yield picture.to_ndarray(format="rgb24")


def draw_street(
    count: int, fps: int, *, height: int, width: int
) -> Iterator[UInt8[np.ndarray, "rows cols 3"]]:
    """Pictures of the scene that `write_camera_clips` encodes."""
    scene = _Scene(height, width)
    for index in range(count):
        yield scene.draw(index / fps)


def draw_still(
    seconds: int, *, height: int, width: int
) -> Iterator[UInt8[np.ndarray, "rows cols 3"]]:
    """A picture a second of a place where nothing moves but, ten seconds a minute, one object.

    The sensor's noise is new in every picture.
    """
    scene = _Scene(height, width)
    for second in range(seconds):
        yield scene.draw_still(second)


class _Scene:
    """Draws a moving scene; the same for the same size."""

    MARGIN = 64

    def __init__(self, height: int, width: int) -> None:
        self._size = height, width
        rng = np.random.default_rng(7)
        margin = 2 * self.MARGIN
        self._ground = _fractal(rng, height + margin, width + margin, mean=110.0, spread=38.0)
        self._noise = (rng.standard_normal((height + 97, width + 89, 1)) * 2.5).astype(np.float32)
        self._objects = [
            (
                _fractal(rng, 90 + 30 * i, 60 + 30 * i, mean=60.0 + 15 * i, spread=30.0),
                rng.uniform(-320, 320),
                rng.uniform(0.1, 0.8),
                rng.uniform(0, width),
            )
            for i in range(9)
        ]

    def draw(self, time_s: float) -> UInt8[np.ndarray, "h w 3"]:
        """The picture at `time_s` seconds, RGB."""
        height, width = self._size
        top = self.MARGIN + int(20 * np.sin(time_s * 1.7))
        left = self.MARGIN + int(40 * np.sin(time_s * 1.1))
        picture = self._ground[top : top + height, left : left + width].copy()
        self._ripple(picture[: height // 3], time_s)
        for texture, speed, place, start in self._objects:
            rows, columns, _ = texture.shape
            x = int(start + speed * time_s) % (width - columns)
            y = int(place * (height - rows) + 20 * np.sin(2 * time_s + start))
            y = min(max(y, 0), height - rows)
            picture[y : y + rows, x : x + columns] = texture
        row, column = int(time_s * 1009) % 97, int(time_s * 2003) % 89
        picture += self._noise[row : row + height, column : column + width]
        picture *= 1 + 0.04 * np.sin(time_s * 2.3)
        return np.clip(picture, 0, 255).astype(np.uint8)

    def draw_still(self, second: int) -> UInt8[np.ndarray, "h w 3"]:
        """The place without wind; one object passes in seconds 20 to 30 of a minute."""
        height, width = self._size
        picture = self._ground[self.MARGIN :, self.MARGIN :][:height, :width].copy()
        if 20 <= second % 60 < 30:
            texture = self._objects[0][0]
            rows, columns, _ = texture.shape
            x = (second % 60 - 20) * (width - columns) // 10
            picture[height // 2 : height // 2 + rows, x : x + columns] = texture
        noise = np.random.default_rng(second).standard_normal((height, width, 1))
        return np.clip(picture + 2.5 * noise, 0, 255).astype(np.uint8)

    @staticmethod
    def _ripple(area: np.ndarray, time_s: float) -> None:
        """Shift each row of an area sideways by a wave that runs through it."""
        for row in range(len(area)):
            shift = 5 * np.sin(row / 9 + 7 * time_s) + 3 * np.sin(row / 3.7 - 11 * time_s)
            area[row] = np.roll(area[row], int(shift), axis=0)


def _fractal(
    rng: np.random.Generator, height: int, width: int, *, mean: float, spread: float
) -> np.ndarray:
    """A texture with the 1/f spectrum of natural images behind a lens; colour varies slowly."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    natural = 1 / np.maximum(frequency, 1 / max(height, width)) * np.exp(-((frequency / 0.12) ** 2))
    luma = _filtered(rng, height, width, natural)
    smooth = natural * np.exp(-((frequency / 0.02) ** 2))
    channels = [mean + spread * luma + 12 * _filtered(rng, height, width, smooth) for _ in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def _filtered(
    rng: np.random.Generator, height: int, width: int, response: np.ndarray
) -> np.ndarray:
    """White noise through a filter, scaled to unit deviation."""
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) * response
    texture = np.fft.irfft2(spectrum, s=(height, width))
    return texture / texture.std()


def encode_units(
    pictures: Iterator[UInt8[np.ndarray, "rows cols 3"]],
    fps: int,
    *,
    keyframe_every: int | None = None,
) -> list[bytes]:
    """H.264 access units (Annex B, no B-frames) as a camera sends them; keyframes are a second, or
    so many pictures, apart."""
    units: list[bytes] = []
    encoder: VideoCodecContext | None = None
    for index, picture in enumerate(pictures):
        if encoder is None:
            encoder = cast(VideoCodecContext, av.CodecContext.create("libx264", "w"))
            encoder.height, encoder.width, encoder.pix_fmt = *picture.shape[:2], "yuv420p"
            encoder.time_base, encoder.framerate = Fraction(1, fps), Fraction(fps)
            encoder.gop_size = fps if keyframe_every is None else keyframe_every
            encoder.max_b_frames, encoder.thread_count = 0, 1
            encoder.options = {"preset": "veryfast", "tune": "zerolatency", "crf": "26"}
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = index
        units += [bytes(packet) for packet in encoder.encode(frame)]
    if encoder is not None:
        units += [bytes(packet) for packet in encoder.encode(None)]
    return units


def iter_units(units: Sequence[bytes]) -> Iterator[UInt8[np.ndarray, "rows cols 3"]]:
    """The pictures that access units of `encode_units` decode to."""
    decoder = cast(VideoCodecContext, av.CodecContext.create("h264", "r"))
    decoder.thread_count = 1
    for packet in [*map(av.Packet, units), None]:
        for picture in decoder.decode(packet):
            yield picture.to_ndarray(format="rgb24")
