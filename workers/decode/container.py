"""A file object in, an opened container out, of two lists: containers and decoders that are read.

Nothing that a playlist or a script names is opened; a picture beyond the cap is refused before
FFmpeg allocates it.
"""

import io
from collections.abc import Sequence
from typing import cast

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError

from workers.errors import NoVideoStream, SourceRefused, SourceUnreachable, TooLarge

MAX_PIXELS = 4096 * 4096
"""Largest picture, as an area."""
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


def open_container(
    file: io.RawIOBase,
    shown: str,
    codecs: Sequence[str] = CODECS,
    *,
    card: HWAccel | None = None,
) -> InputContainer:
    """Open what a file object holds. `card` decodes its tracks, where it can.

    Raises:
        SourceRefused, NoVideoStream, TooLarge: it is none of `CONTAINERS`, or broken.
    """
    # The limits go to FFmpeg's probing too, which decodes pictures before `av.open` returns.
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(CONTAINERS),
        "codec_whitelist": ",".join(codecs),
        "max_pixels": str(MAX_PIXELS),
        "threads": "1",
        # Wraps are unwrapped by the clock here: FFmpeg takes a clock that was set back for one.
        "correct_ts_overflow": "0",
    }
    try:
        container = av.open(
            file,
            mode="r",
            options=options,
            metadata_errors="replace",
            io_open=_refuse_nested,
            hwaccel=card,
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
    head = b""
    if file.seekable():
        file.seek(0)
        head = file.read(16) or b""
    if head[4:8] in (b"ftyp", b"mdat", b"moov", b"free", b"wide"):
        return (
            "an MP4 whose index (moov) is missing or broken, as when a recording was cut off or "
            "still runs; MPEG-TS, MKV and fragmented MP4 can be read while they are written "
            "(--follow)"
        )
    return "holds no video that can be read; expected MP4, MKV, WebM, MPEG-TS, AVI or the like"


def unreadable_error(error: OSError) -> SourceUnreachable:
    """What to raise where reading a file fails midway."""
    reason = error.strerror or "read error"
    return SourceUnreachable(f"reading stopped: {reason}; check the disk")
