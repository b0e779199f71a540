"""A path in, an opened video track out, or one typed error that says why not.

Only regular files are opened (`decode_file`), and nothing that a playlist or a script names is.
Containers and codecs are those of two lists; a picture beyond the cap is refused before FFmpeg
allocates it.
"""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import av.logging
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from workers.decode.container import CODECS, MAX_PIXELS, open_container, unreadable_error
from workers.decode.file import local_path, open_regular_file
from workers.decode.gop import Bitstream
from workers.errors import (
    NoVideoStream,
    SourceError,
    TooLarge,
    UnsupportedCodec,
)
from workers.redact import show_url

MAX_TRACKS = 64

MAX_PROBED_PACKETS = 256
"""Read to tell a still picture from a video, where there are several tracks."""

COARSE_TICK = Fraction(1, 1000)
"""Coarser ticks of a container are cut into parts, each no finer than this."""

DEFAULT_FPS = Fraction(25)
"""Taken where a container tells no plausible rate; only distances in time depend on it."""


@dataclass(frozen=True)
class OpenTrack:
    """An open container and the video track to read from it."""

    container: InputContainer
    stream: VideoStream
    bitstream: Bitstream
    time_base: Fraction
    """Seconds of a tick."""
    scale: int
    """Ticks in one of the container's: AVI counts frames, and a held picture is sampled between."""
    origin: int
    """Tick of stream second 0: the container's start, which is what players call 0:00."""
    rate: Fraction
    """Frames per second as declared, or a guess."""
    by_decode_order: bool
    """Presentation times are not to be had (AVI): they follow from the order of the frames."""
    declared_end_s: float | None
    """Stream time at which the file says it ends."""
    file: io.RawIOBase | None
    """What the container reads from."""
    cut_short: bool = False
    """The file is shorter than its header says."""
    head: list[Packet] = field(default_factory=list)
    """Packets read on opening; they come before those that are still to be read."""

    @property
    def counts_frames(self) -> bool:
        """Whether `stream.frames` is a count to be trusted (AVI writes what it likes there)."""
        return self.container.format.name.startswith("mov") and self.stream.frames > 0

    @property
    def interval(self) -> int:
        """Ticks from one frame to the next at the declared rate."""
        return max(1, round(1 / (self.rate * self.time_base)))


@contextmanager
def open_track(url: str, *, roots: Sequence[Path] = ()) -> Iterator[OpenTrack]:
    """Open a video file's largest video track for decoding with one thread.

    `roots`: folders the file must lie in once links are followed; none means anywhere.
    Raises SourceUnreachable, SourceRefused, NoVideoStream, UnsupportedCodec or TooLarge.
    """
    av.logging.set_level(None)
    shown = show_url(url)
    with (
        open_regular_file(local_path(url), shown, roots) as file,
        open_container(file, shown) as container,
    ):
        try:
            stream = choose_track(container, shown, file)
            if not stream.codec_context.width:
                _check_declared_size(file, shown)
            prepare_track(container, stream)
            track = describe_track(container, stream, file)
        except OSError as error:
            raise unreadable_error(error).at(shown) from error
        if any(packet.has_sidedata("encryption_info") for packet in track.head):
            raise UnsupportedCodec(
                f"{shown}: is encrypted (DRM); expected a file without copy protection"
            )
        yield track


def choose_track(
    container: InputContainer, shown: str, file: io.RawIOBase | None = None
) -> VideoStream:
    """The video track with the most pixels, the first of equals; still pictures do not count.

    `file`: what the container reads from, to look for stills that do not say that they are.
    """
    if len(container.streams) > MAX_TRACKS:
        raise TooLarge(f"{shown}: has {len(container.streams)} tracks, at most {MAX_TRACKS}")
    tracks = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not tracks:
        raise NoVideoStream(f"{shown}: holds no video track; expected one")
    readable = [s for s in tracks if s.codec_context is not None]
    if not readable:
        raise UnsupportedCodec(f"{shown}: there is no decoder for its video; convert it to H.264")
    if len(readable) > 1 and file is not None:
        moving = _find_moving(file, shown)
        readable = [s for s in readable if s.index in moving] or readable
    stream = max(readable, key=lambda s: s.codec_context.width * s.codec_context.height)
    context = stream.codec_context
    _check_size(context.width, context.height, shown)
    if context.name not in CODECS:
        raise UnsupportedCodec(
            f"{shown}: its video codec is {context.codec.canonical_name}, which is not read here; "
            "convert it to H.264"
        )
    return stream


def _find_moving(file: io.RawIOBase, shown: str) -> set[int]:
    """Tracks that have a second packet among the first ones of the file."""
    counts: Counter[int] = Counter()
    position = file.tell()
    file.seek(0)
    try:
        with open_container(file, shown) as container:
            for packet in islice(container.demux(container.streams.video), MAX_PROBED_PACKETS):
                counts[packet.stream_index] += packet.size > 0
    except (FFmpegError, IndexError, SourceError):
        pass  # what it found so far counts; reading will say what is wrong
    file.seek(position)
    return {index for index, count in counts.items() if count > 1}


def _check_size(width: int, height: int, shown: str) -> None:
    if width * height > MAX_PIXELS:
        raise TooLarge(
            f"{shown}: pictures of {width}x{height}, "
            "expected at most 4096x4096 pixels in all; scale it down"
        )


def _check_declared_size(file: io.RawIOBase, shown: str) -> None:
    """Probing gave no picture size: damage, or a picture it refused; ask the container alone."""
    position = file.tell()
    file.seek(0)
    with open_container(file, shown, codecs=("none",)) as container:
        for stream in container.streams.video:
            if stream.codec_context is not None:
                _check_size(stream.codec_context.width, stream.codec_context.height, shown)
    file.seek(position)


def select_track(container: InputContainer, index: int) -> None:
    """Let a container pass over all other tracks."""
    for other in container.streams:
        if other.index != index:
            other.discard = Discard.all


def prepare_track(container: InputContainer, stream: VideoStream) -> None:
    """Ready a track for decoding with one thread."""
    select_track(container, stream.index)
    context = stream.codec_context
    context.thread_count = 1
    context.thread_type = "NONE"
    context.options = {"max_pixels": str(MAX_PIXELS)}


def _read_head(container: InputContainer, stream: VideoStream) -> list[Packet]:
    """The first packet: it tells what is encrypted, and where a track begins that does not say."""
    try:
        packet = next(container.demux(stream))
    except (FFmpegError, StopIteration, IndexError, OSError):
        return []  # comes again when it is read
    return [packet] if packet.size else []


def describe_track(
    container: InputContainer, stream: VideoStream, file: io.RawIOBase | None = None
) -> OpenTrack:
    """What a track says of itself; of a file its first packet is read too."""
    container_tick = stream.time_base or Fraction(1, 90_000)
    scale = max(1, int(container_tick / COARSE_TICK))
    time_base = container_tick / scale
    rate = next(
        (r for r in (stream.average_rate, stream.guessed_rate) if r and 0 < r <= 1000), DEFAULT_FPS
    )
    # Asked before a packet is read: FFmpeg corrects both from what it has read so far.
    start, track_start = container.start_time, stream.start_time
    head = _read_head(container, stream) if file is not None else []
    if start is not None:
        origin = round(Fraction(start, av.time_base) / time_base)
    else:
        origin = scale * next((p.pts for p in head if p.pts is not None), track_start or 0)
    codec = stream.codec_context.codec.canonical_name
    return OpenTrack(
        container,
        stream,
        Bitstream.of(codec, stream.codec_context.extradata),
        time_base,
        scale,
        origin,
        Fraction(rate),
        by_decode_order=container.format.name == "avi" and codec not in ("mjpeg", "dnxhd"),
        declared_end_s=_declared_end_s(
            container, stream, track_start, origin * time_base, container_tick
        ),
        file=file,
        cut_short=file is not None and _is_cut_short(file),
        head=head,
    )


def _is_cut_short(file: io.RawIOBase) -> bool:
    """Whether an AVI ends before its first RIFF chunk does; FFmpeg then makes up another length."""
    position = file.tell()
    file.seek(0)
    header = file.read(12) or b""
    length = file.seek(0, io.SEEK_END)
    file.seek(position)
    is_avi = header[:4] == b"RIFF" and header[8:] == b"AVI "
    return is_avi and length < 8 + int.from_bytes(header[4:8], "little")


def _declared_end_s(
    container: InputContainer,
    stream: VideoStream,
    track_start: int | None,
    origin_s: Fraction,
    tick: Fraction,
) -> float | None:
    """Stream time of the end as the container states it, of the track or else of the whole."""
    whole_s = None if container.duration is None else container.duration / av.time_base
    track_s = None if stream.duration is None else float(stream.duration * tick)
    # Matroska and FLV write the time of the end there, not a length, where they start late; FFmpeg
    # may hand that on to the track as its length.
    states_end = container.format.name in ("matroska,webm", "flv")
    if track_s is not None and not (states_end and whole_s and abs(track_s - whole_s) < 2e-3):
        start_s = origin_s if track_start is None else track_start * tick
        return float(start_s - origin_s) + track_s
    if whole_s is None:
        return None
    return whole_s - (max(0.0, float(origin_s)) if states_end else 0.0)
