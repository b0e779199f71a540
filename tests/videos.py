"""Test videos made by PyAV: a moving square on a textured ground, the frame's number burnt in.

`write_video` makes one, `CASES` names the kinds every decoder test should see, `read_index` tells
from a frame's pixels (at any size from 64 up, upright) which one it is. Deterministic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

INDEX_BITS = 12
TIME_BASE = Fraction(1, 90_000)

_X264 = {"preset": "ultrafast", "crf": "23", "threads": "1"}
_X265 = {"preset": "ultrafast", "crf": "26"}
_X265_PARAMS = "log-level=none:pools=1:frame-threads=1"


@dataclass(frozen=True)
class VideoSpec:
    """How to make a test video."""

    suffix: str = ".mp4"
    codec: str = "libx264"
    frames: int = 90
    fps: int | Fraction = 15
    width: int = 128
    height: int = 96
    gop: int | None = 20
    b_frames: int | None = None
    pix_fmt: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=lambda: _X264)
    times_s: Sequence[float] | None = None
    """Presentation time of every frame; None for a constant rate."""
    offset: int = 0
    """Ticks of 1/90000 s added to every timestamp."""
    container: str | None = None
    """FFmpeg's name of the container; by the suffix when None."""
    mux_options: Mapping[str, str] = field(default_factory=dict)


def _x264(preset: str = "ultrafast", **params: str) -> Mapping[str, str]:
    options = {"preset": preset, "crf": "23", "threads": "1"}
    if params:
        options["x264-params"] = ":".join(f"{k.replace('_', '-')}={v}" for k, v in params.items())
    return options


def _x265(params: str) -> Mapping[str, str]:
    return {**_X265, "x265-params": f"{_X265_PARAMS}:{params}"}


def _vfr_times_s(frames: int) -> list[float]:
    """A frame every 20 to 180 ms, and a pause of 1.3 s in the middle."""
    steps_s = np.random.default_rng(5).integers(2, 19, frames) / 100
    steps_s[0], steps_s[frames // 2] = 0.0, 1.3
    return [float(t) for t in np.cumsum(steps_s)]


_MEDIUM_B = _x264("medium", keyint="20", min_keyint="20", scenecut="0", bframes="3", open_gop="0")
_VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "36", "b": "0"}

CASES: dict[str, VideoSpec] = {
    "h264_closed_p": VideoSpec(),
    "h264_closed_b": VideoSpec(options=_MEDIUM_B, b_frames=3),
    "h264_b_pyramid": VideoSpec(
        options=_x264("medium", keyint="30", scenecut="0", bframes="5", b_pyramid="normal"),
        gop=30,
        b_frames=5,
    ),
    "h264_open_gop": VideoSpec(
        options=_x264("medium", keyint="20", min_keyint="10", bframes="3", open_gop="1"),
        b_frames=3,
    ),
    "h264_long_gop": VideoSpec(gop=250, frames=120),
    "h264_intra_refresh_ts": VideoSpec(
        suffix=".ts", options=_x264("veryfast", intra_refresh="1", keyint="20", bframes="0")
    ),
    "h264_fields": VideoSpec(
        options=_x264("veryfast", tff="1", keyint="20", bframes="2"), b_frames=2
    ),
    "h264_mkv": VideoSpec(suffix=".mkv", options=_MEDIUM_B, b_frames=3),
    "h264_ts": VideoSpec(suffix=".ts", options=_MEDIUM_B, b_frames=3, offset=123_456),
    "h264_fragmented": VideoSpec(
        mux_options={"movflags": "+frag_keyframe+empty_moov+default_base_moof"}
    ),
    "h264_vfr": VideoSpec(times_s=_vfr_times_s(90), options=_MEDIUM_B, b_frames=3),
    "h264_avi_b": VideoSpec(suffix=".avi", options=_MEDIUM_B, b_frames=3),
    "h264_flv": VideoSpec(suffix=".flv"),
    "hevc_closed": VideoSpec(
        codec="libx265", options=_x265("keyint=20:min-keyint=20:bframes=3:open-gop=0")
    ),
    "hevc_open_cra_rasl": VideoSpec(
        codec="libx265",
        options=_x265("keyint=20:min-keyint=20:scenecut=0:bframes=3:open-gop=1"),
    ),
    "hevc_temporal_layers": VideoSpec(
        codec="libx265",
        options=_x265("keyint=20:min-keyint=20:bframes=3:open-gop=0:temporal-layers=3"),
    ),
    "hevc_ts": VideoSpec(
        suffix=".ts",
        codec="libx265",
        options=_x265("keyint=20:min-keyint=20:bframes=3:open-gop=0:repeat-headers=1"),
    ),
    "vp8": VideoSpec(suffix=".webm", codec="libvpx", options={**_VP9, "cpu-used": "16"}),
    "vp9": VideoSpec(suffix=".webm", codec="libvpx-vp9", options=_VP9),
    "vp9_alt_ref": VideoSpec(
        suffix=".mkv",
        codec="libvpx-vp9",
        frames=60,
        options={"deadline": "good", "cpu-used": "8", "crf": "36", "b": "0", "lag-in-frames": "16"},
    ),
    "av1": VideoSpec(
        suffix=".mkv",
        codec="libsvtav1",
        frames=60,
        options={"preset": "12", "crf": "8", "svtav1-params": "lp=1:keyint=20"},
    ),
    "mpeg4_avi_b": VideoSpec(
        suffix=".avi", codec="mpeg4", b_frames=2, options={"qscale": "4", "b": "2M"}
    ),
    "mpeg2_ts": VideoSpec(
        suffix=".ts", codec="mpeg2video", b_frames=2, fps=25, options={"b": "2M"}
    ),
    "mjpeg_avi": VideoSpec(
        suffix=".avi", codec="mjpeg", pix_fmt="yuvj420p", gop=None, options={"qscale": "4"}
    ),
}
"""Kinds of video whose planned and full decode must agree, by name."""


def write_case(folder: Path, name: str) -> Path:
    """Write one of `CASES` into a folder, unless it lies there already."""
    path = folder / f"{name}{CASES[name].suffix}"
    if not path.exists():
        partial = path.with_name(f"partial-{path.name}")
        write_video(partial, CASES[name])
        partial.rename(path)
    return path


def write_video(path: Path, spec: VideoSpec | None = None, **changes: object) -> Path:
    """Encode `spec.frames` numbered frames; `changes` replace fields of the spec."""
    spec = replace(spec or VideoSpec(), **changes)
    av.logging.set_level(None)
    mux_options = {"fflags": "+bitexact", **spec.mux_options}
    with av.open(str(path), "w", format=spec.container, options=mux_options) as container:
        stream = container.add_stream(spec.codec, rate=spec.fps, options=dict(spec.options))
        stream.width, stream.height, stream.pix_fmt = spec.width, spec.height, spec.pix_fmt
        context = stream.codec_context
        context.thread_count = 1
        if spec.times_s is not None:
            stream.time_base = context.time_base = TIME_BASE
        if spec.gop is not None:
            context.gop_size = spec.gop
        if spec.b_frames is not None:
            context.max_b_frames = spec.b_frames
        time_base = context.time_base if spec.times_s is None else TIME_BASE
        for index in range(spec.frames):
            frame = av.VideoFrame.from_ndarray(draw_frame(index, spec.height, spec.width))
            frame = frame.reformat(format=spec.pix_fmt)
            frame.time_base = time_base or 1 / Fraction(spec.fps)
            frame.pts = _timestamp(spec, index, frame.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def draw_frame(index: int, height: int, width: int) -> np.ndarray:
    """Frame `index`: u8[height width 3] with its number in black and white along the bottom."""
    rows, columns = np.mgrid[0:height, 0:width]
    ground = (rows * 3 + columns * 2 + 8 * ((rows // 8 + columns // 8) % 2)) % 160 + 40
    picture = np.stack([ground, 255 - ground, np.full_like(ground, 90)], axis=-1).astype(np.uint8)
    side = max(4, height // 4)
    top = (index * 3) % (height // 2)
    left = (index * 5) % (width - side)
    picture[top : top + side, left : left + side] = (230, 40, 30 + index % 200)
    bar_top = height - height // 6
    for bit in range(INDEX_BITS):
        from_, to = bit * width // INDEX_BITS, (bit + 1) * width // INDEX_BITS
        picture[bar_top:, from_:to] = 255 if index >> bit & 1 else 0
    return picture


def read_index(pixels: np.ndarray) -> int:
    """The number burnt into a frame, read from u8[h w 3] pixels of any size."""
    height, width, _ = pixels.shape
    row = height - height // 12
    centres = [int((bit + 0.5) * width / INDEX_BITS) for bit in range(INDEX_BITS)]
    values = [pixels[row - 1 : row + 2, c - 1 : c + 2].mean() for c in centres]
    return sum(1 << bit for bit, value in enumerate(values) if value > 127)


def _timestamp(spec: VideoSpec, index: int, time_base: Fraction) -> int:
    offset = int(spec.offset * TIME_BASE / time_base)
    if spec.times_s is not None:
        return offset + round(Fraction(spec.times_s[index]).limit_denominator(1000) / time_base)
    return offset + round(index / Fraction(spec.fps) / time_base)


def split_video(
    whole: Path,
    folder: Path,
    name: str = "part%03d.mkv",
    *,
    every: int = 1,
    keep_times: bool = False,
) -> list[Path]:
    """Cut a video at every `every`-th keyframe into files of their own, without encoding anew.

    `keep_times`: each file's clock goes on where the one before it ended, as a segmenter leaves it;
    else each counts from nought.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[list[av.Packet]] = []
    with av.open(str(whole)) as source:
        track = source.streams.video[0]
        keyframes = 0
        for packet in source.demux(track):
            if not packet.size:
                continue
            if packet.is_keyframe:
                keyframes += 1
                if keyframes % every == 1 or every == 1:
                    parts.append([])
            parts[-1].append(packet)
        return [
            _write_part(folder / (name % number), part, track, keep_times=keep_times)
            for number, part in enumerate(parts)
        ]


def _write_part(path: Path, packets: list[av.Packet], track, *, keep_times: bool) -> Path:
    first = min(packet.pts for packet in packets)
    with av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(track)
        for packet in packets:
            if not keep_times:
                packet.pts -= first
                packet.dts = None if packet.dts is None else packet.dts - first
            packet.stream = stream
            container.mux(packet)
    return path
