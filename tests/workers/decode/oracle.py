"""The readable oracle: decode everything with plain PyAV, then pick frames by the rule.

Nothing of the product's planning, clocks or sampling is used; only the conversion of a picture
(tested by itself) is shared.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from workers.decode.frame import FrameConverter
from workers.decode.reader import iter_frames
from workers.types import Frame, PixelFormat, VideoSource

SMALL = PixelFormat(height=64, width=72)

RATES = (0.5, 1.0, 2.0, None)


def read_all(path: Path | str, fps: float | None = 1.0, **options) -> list[Frame]:
    """The product's frames of a file at `SMALL` size."""
    source_fields = {k: options.pop(k) for k in ("start_s", "end_s") if k in options}
    source = VideoSource(str(path), "test", fps=fps, **source_fields)
    return list(iter_frames(source, SMALL, **options))


def pick_frames(path: Path, fps: float | None) -> list[tuple[float, np.ndarray]]:
    """(time, pixels) of the first frame at or after each target k / fps, every one at None."""
    converter = FrameConverter(SMALL)
    picked, next_target = [], Fraction(0)
    for time, picture in _decode_everything(path):
        if fps is not None and time + Fraction(1, 2000) < next_target:
            continue
        if picked and float(time) <= picked[-1][0]:
            continue  # real footage with disordered times: they must rise
        picked.append((float(time), converter.convert(picture)))
        if fps is not None:
            rate = Fraction(fps)
            next_target = ((time + Fraction(1, 2000)) * rate // 1 + 1) / rate
    return picked


def _decode_everything(path: Path) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    with av.open(str(path)) as container:
        stream = max(container.streams.video, key=lambda s: s.width * s.height)
        stream.codec_context.thread_count = 1  # hides damage otherwise with two
        origin = round(Fraction(container.start_time, av.time_base) / stream.time_base)
        # AVI has no presentation times: the order of the pictures gives them.
        times = iter(_decode_times(path) if container.format.name == "avi" else ())
        for packet in container.demux(stream):
            try:
                pictures = packet.decode()
            except av.error.InvalidDataError:
                continue
            for picture in pictures:
                ticks = next(times, picture.pts)
                yield (ticks - origin) * stream.time_base, picture


def _decode_times(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return sorted(p.dts for p in container.demux(video=0) if p.size)


def assert_same_frames(frames: list[Frame], expected: list[tuple[float, np.ndarray]]) -> None:
    """Same times to the microsecond, same pixels to the bit."""
    assert len(frames) == len(expected) > 0
    for frame, (time_s, pixels) in zip(frames, expected, strict=True):
        assert abs(frame.pts_s - time_s) < 1e-6
        np.testing.assert_array_equal(frame.pixels, pixels)
