"""A path in, an opened video track out, or one typed error that says why not.

Only regular files are opened, and by us: FFmpeg gets a file object, never a name, so no name can
act as a protocol, and nothing a playlist or a script names is ever opened. Containers and codecs
are those of two lists; a picture beyond the cap is refused before FFmpeg allocates it.
"""

import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit

import av
import av.logging
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from workers.decode_gop import Bitstream
from workers.errors import (
    NoVideoStream,
    SourceRefused,
    SourceUnreachable,
    TooLarge,
    UnsupportedCodec,
)

MAX_PIXELS = 4096 * 4096
"""Largest picture, as an area."""
MAX_TRACKS = 64
MAX_PATH = 4096

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "mpegts",
    "mpeg",
    "avi",
    "flv",
    "asf",
    "ogg",
    "ivf",
    "mxf",
)
"""FFmpeg's names of the containers read; none of them names further files to open."""

CODECS = (
    "h264",
    "hevc",
    "vp8",
    "vp9",
    "libdav1d",
    "av1",
    "mpeg4",
    "mpeg2video",
    "mpeg1video",
    "mjpeg",
    "h263",
    "flv",
    "msmpeg4v3",
    "msmpeg4v2",
    "msmpeg4",
    "wmv2",
    "wmv3",
    "vc1",
    "theora",
    "prores",
    "dnxhd",
    "ffv1",
    "vvc",
)
"""FFmpeg's names of the decoders used. Still-picture codecs (PNG and its like) are left out: they
can pack a gigapixel into a few kilobytes."""

DEFAULT_FPS = Fraction(25)
"""Taken where a container tells no plausible rate; only distances in time depend on it."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")
_QUERY_VALUE = re.compile(r"=[^&#]*")


@dataclass(frozen=True)
class OpenTrack:
    """An open container and the video track to read from it."""

    container: InputContainer
    stream: VideoStream
    bitstream: Bitstream
    time_base: Fraction
    origin: int
    """Tick of stream second 0: the container's start, which is what players call 0:00."""
    rate: Fraction
    """Frames per second as declared, or a guess."""
    by_decode_order: bool
    """Presentation times are not to be had (AVI): they follow from the order of the frames."""

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
    shown = redact_url(url)
    with (
        _open_file(local_path(url), shown, roots) as file,
        _open_container(file, shown) as container,
    ):
        stream = _choose_track(container, shown)
        if not stream.codec_context.width:
            _check_declared_size(file, shown)
        _prepare(container, stream)
        yield _describe(container, stream)


def redact_url(url: str) -> str:
    """A URL or path fit for messages and records: no credentials, no control characters."""
    text = _USERINFO.sub(r"\1***@", url)
    if _SCHEME.match(text) and "?" in text:
        base, query = text.split("?", 1)
        text = f"{base}?{_QUERY_VALUE.sub('=***', query)}"
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= 300 else f"{text[:200]}...{text[-80:]}"


def local_path(url: str) -> Path:
    """The path a source names; refuses whatever is not a file on this machine."""
    scheme = _SCHEME.match(url)
    if scheme and scheme[1].lower() != "file":
        raise SourceRefused(
            f"{redact_url(url)}: got protocol {scheme[1].lower()!r}, expected a file path; "
            "record the stream to a file first"
        )
    if scheme:
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise SourceRefused(f"{redact_url(url)}: names another host; give a path of this one")
        url = unquote(parts.path, errors="surrogateescape")
    if not url or "\0" in url or len(os.fsencode(url)) > MAX_PATH:
        raise SourceUnreachable(
            f"{redact_url(url)!r} is no file name: it must have 1 to {MAX_PATH} bytes and no NUL"
        )
    return Path(url)


@contextmanager
def _open_file(path: Path, shown: str, roots: Sequence[Path]) -> Iterator[io.RawIOBase]:
    """Open a regular file for reading; links are followed first and checked against `roots`."""
    try:
        real = path.resolve(strict=True)
        if roots and not any(real.is_relative_to(root.resolve()) for root in roots):
            raise SourceRefused(f"{shown}: lies outside the allowed folders; move it into one")
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(real, flags)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before 3.13
        reason = getattr(error, "strerror", None) or "a loop of links"
        raise SourceUnreachable(f"{shown}: {reason}; check the path") from error
    try:
        _check_regular(os.fstat(descriptor), shown)
        file = os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise
    with file:
        if not file.read(1):  # /proc declares no size, so try
            raise NoVideoStream(f"{shown}: is empty (0 bytes), expected a video")
        file.seek(0)
        yield file


def _check_regular(status: os.stat_result, shown: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise SourceUnreachable(f"{shown}: is a folder, expected a video file")
    if not stat.S_ISREG(status.st_mode):
        raise SourceRefused(f"{shown}: is no regular file (a pipe or a device); copy it first")


def _open_container(
    file: io.RawIOBase, shown: str, codecs: Sequence[str] = CODECS
) -> InputContainer:
    # The limits go to FFmpeg's probing too, which decodes pictures before `av.open` returns.
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(CONTAINERS),
        "codec_whitelist": ",".join(codecs),
        "max_pixels": str(MAX_PIXELS),
        "threads": "1",
    }
    try:
        container = av.open(
            file, mode="r", options=options, metadata_errors="replace", io_open=_refuse_nested
        )
        return cast(InputContainer, container)
    except MemoryError as error:
        raise TooLarge(f"{shown}: opening it needs more memory than there is") from error
    except ArgumentError as error:
        raise SourceRefused(
            f"{shown}: its container format is not one that is read here; convert it to MP4 or MKV"
        ) from error
    except (FFmpegError, OSError, ValueError) as error:
        raise NoVideoStream(f"{shown}: {_explain(file)}") from error


def _refuse_nested(url: str, flags: int, options: dict) -> object:
    """A container asked for another file or address."""
    raise PermissionError("nested sources are refused")


def _explain(file: io.RawIOBase) -> str:
    """Why a file did not open, as far as its first bytes tell."""
    file.seek(0)
    head = file.read(16) or b""
    if head[4:8] in (b"ftyp", b"mdat", b"moov", b"free", b"wide"):
        return "an MP4 whose index (moov) is missing or broken, as when a recording was cut off"
    return "holds no video that can be read; expected MP4, MKV, WebM, MPEG-TS, AVI or the like"


def _choose_track(container: InputContainer, shown: str) -> VideoStream:
    """The video track with the most pixels, the first of equals; cover pictures do not count."""
    if len(container.streams) > MAX_TRACKS:
        raise TooLarge(f"{shown}: has {len(container.streams)} tracks, at most {MAX_TRACKS}")
    tracks = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not tracks:
        raise NoVideoStream(f"{shown}: holds no video track; expected one")
    readable = [s for s in tracks if s.codec_context is not None]
    if not readable:
        raise UnsupportedCodec(f"{shown}: there is no decoder for its video; convert it to H.264")
    stream = max(readable, key=lambda s: s.codec_context.width * s.codec_context.height)
    context = stream.codec_context
    _check_size(context.width, context.height, shown)
    if context.name not in CODECS:
        raise UnsupportedCodec(
            f"{shown}: its video codec is {context.codec.canonical_name}, which is not read here; "
            "convert it to H.264"
        )
    return stream


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
    with _open_container(file, shown, codecs=("none",)) as container:
        for stream in container.streams.video:
            if stream.codec_context is not None:
                _check_size(stream.codec_context.width, stream.codec_context.height, shown)
    file.seek(position)


def _prepare(container: InputContainer, stream: VideoStream) -> None:
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    context = stream.codec_context
    context.thread_count = 1
    context.thread_type = "NONE"
    context.options = {"max_pixels": str(MAX_PIXELS)}


def _describe(container: InputContainer, stream: VideoStream) -> OpenTrack:
    time_base = stream.time_base or Fraction(1, 90_000)
    rate = next(
        (r for r in (stream.average_rate, stream.guessed_rate) if r and 0 < r <= 1000), DEFAULT_FPS
    )
    if container.start_time is not None:
        origin = round(Fraction(container.start_time, av.time_base) / time_base)
    else:
        origin = stream.start_time or 0
    codec = stream.codec_context.codec.canonical_name
    return OpenTrack(
        container,
        stream,
        Bitstream.of(codec, stream.codec_context.extradata),
        time_base,
        origin,
        Fraction(rate),
        by_decode_order=container.format.name == "avi" and codec not in ("mjpeg", "dnxhd"),
    )
