"""Which track of an open container is read: its largest video, of a size and a codec that are.

A still picture beside the video is not taken for it.
"""

import io
from collections import Counter
from collections.abc import Sequence
from itertools import islice

from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from workers.decode.container import CODECS, MAX_PIXELS, open_container
from workers.errors import NoVideoStream, SourceError, TooLarge, UnsupportedCodec

MAX_TRACKS = 64

MAX_PROBED_PACKETS = 256
"""Read to tell a still picture from a video, where there are several tracks."""


def choose_track(
    container: InputContainer,
    shown: str,
    file: io.RawIOBase | None = None,
    codecs: Sequence[str] = CODECS,
) -> VideoStream:
    """The video track with the most pixels, the first of equals; still pictures do not count.

    `file`: what the container reads from, to look for stills that do not say that they are.
    `codecs`: FFmpeg's names of the decoders that may be used.
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
    if context.name not in codecs:
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


def check_declared_size(file: io.RawIOBase, shown: str) -> None:
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
