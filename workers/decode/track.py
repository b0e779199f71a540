"""A path in, an opened video track out, or one typed error that says why not.

Only regular files are opened (`decode_file`), and nothing that a playlist or a script names is.
Containers and codecs are those of two lists; a picture beyond the cap is refused before FFmpeg
allocates it.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import av.logging
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from workers.decode.choose import check_declared_size, choose_track, prepare_track
from workers.decode.container import open_container, unreadable_error
from workers.decode.file import local_path, open_regular_file
from workers.decode.gop import Bitstream
from workers.decode.growing import FOLLOWED, GrowingFile, check_can_be_followed
from workers.decode.hls import ProgramClock
from workers.errors import (
    SourceError,
    SourceRefused,
    UnsupportedCodec,
)
from workers.redact import show_url

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
    program: ProgramClock | None = None
    """What playlists on the way to it say of wall time."""
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
def open_track(
    url: str,
    *,
    roots: Sequence[Path] = (),
    follow_s: float | None = None,
    card: HWAccel | None = None,
) -> Iterator[OpenTrack]:
    """Open a video file's largest video track for decoding with one thread.

    `roots`: folders the file must lie in once links are followed; none means anywhere.
    `follow_s`: the file is still being written; it ends when it has not grown for so long.
    `card`: what decodes, where it can; else the CPU does.
    Raises SourceUnreachable, SourceRefused, NoVideoStream, UnsupportedCodec or TooLarge.
    """
    av.logging.set_level(None)
    shown, path = show_url(url), local_path(url)
    with ExitStack() as stack:
        is_followed = follow_s is not None
        regular = open_regular_file(path, shown, roots, may_be_empty=is_followed)
        file = stack.enter_context(regular)
        if follow_s is not None:
            file = GrowingFile(file, path, shown, idle_s=follow_s)
        try:
            track = _open_file(stack, file, shown, card)
        except OSError as error:
            raise unreadable_error(error).at(shown) from error
        if any(packet.has_sidedata("encryption_info") for packet in track.head):
            raise UnsupportedCodec(
                f"{shown}: is encrypted (DRM); expected a file without copy protection"
            )
        yield track


def _open_file(stack: ExitStack, file: io.RawIOBase, shown: str, card: HWAccel | None) -> OpenTrack:
    """The track of an open file; its container is closed with the stack."""
    if isinstance(file, GrowingFile):
        return _open_growing(stack, file, shown, card)
    container = stack.enter_context(open_container(file, shown, card=card))
    stream = choose_track(container, shown, file)
    if not stream.codec_context.width:
        check_declared_size(file, shown)
    prepare_track(container, stream)
    return describe_track(container, stream, file)


def _open_growing(
    stack: ExitStack, file: GrowingFile, shown: str, card: HWAccel | None
) -> OpenTrack:
    """The same of one that is followed, as soon as so much is written that it can be opened."""
    check_can_be_followed(file.await_head(), shown)
    try:
        container = stack.enter_context(open_container(file, shown, card=card))
    except SourceError:
        file.check()  # what ended the file is why it did not open
        raise
    name = container.format.name
    if name not in FOLLOWED:
        raise SourceRefused(
            f"{shown}: is {name}, which cannot be read while it is written; record MPEG-TS, MKV or "
            "fragmented MP4, or ingest it when it is finished"
        )
    stream = choose_track(container, shown)
    prepare_track(container, stream)
    track = describe_track(container, stream, file)
    file.check()
    return track


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
        cut_short=file is not None and file.seekable() and _is_cut_short(file),
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
