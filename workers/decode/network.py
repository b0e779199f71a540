"""A permitted network URL in, an open video track out, or one typed error that says why not.

What comes over HTTP (progressive files, HLS playlists and all they name) is read through a gate of
our own; RTSP, RTMP and MPEG-TS over tcp and udp go to the address that was checked. Opening and
every read have a limit in seconds.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import av
import av.logging
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError

from workers.decode.choose import choose_track, prepare_track
from workers.decode.container import CODECS, MAX_PIXELS
from workers.decode.device import SCHEME, read_device_options
from workers.decode.http import HttpGate
from workers.decode.policy import Endpoint, SourcePolicy, check_url
from workers.decode.track import OpenTrack, describe_track
from workers.errors import NoVideoStream, SourceBroken, SourceUnreachable, TooLarge

OVER_HTTP = ("hls", "mpegts", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv")
"""FFmpeg's names of the containers that are read over HTTP."""

PROTOCOLS = {
    "rtsp": "rtsp,rtp,udp,tcp",
    "rtsps": "rtsp,rtsps,rtp,udp,tcp,tls",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,rtmp,tcp,tls",
    "tcp": "tcp",
    "udp": "udp",
}
FORMATS = {"rtsp": "rtsp", "rtsps": "rtsp", "rtmp": "flv", "rtmps": "flv", "tcp": "mpegts"}
"""The one demuxer of each protocol; over HTTP the content decides among `OVER_HTTP`."""
DEVICE_FORMAT = "video4linux2,v4l2"
"""FFmpeg's name of the demuxer that reads cameras of this machine."""


@dataclass(frozen=True)
class NetworkOptions:
    """How a network source is opened."""

    transport: str = "tcp"
    """Of RTSP: `tcp` (interleaved) or `udp`."""
    open_timeout_s: float = 10.0
    read_timeout_s: float = 10.0
    probe_s: float = 1.0
    """How much of the stream may be read to learn what is in it."""


@contextmanager
def open_network_track(
    url: str, policy: SourcePolicy, options: NetworkOptions, *, shown: str
) -> Iterator[OpenTrack]:
    """Open the largest video track of a network source for decoding with one thread.

    Raises:
        SourceRefused: a scheme, an address or a redirect that is not permitted.
        SourceUnreachable: no answer within the limit, or no permission.
        NoVideoStream, UnsupportedCodec, TooLarge: what answers is not to be decoded.
    """
    av.logging.set_level(None)
    endpoint = check_url(url, policy, shown=shown)
    gate = HttpGate(policy, shown, timeout_s=options.read_timeout_s)
    codecs = (*CODECS, "rawvideo") if endpoint.scheme == SCHEME else CODECS
    with _open_container(endpoint, gate, options, shown) as container:
        stream = choose_track(container, shown, codecs=codecs)
        prepare_track(container, stream)
        try:
            yield replace(describe_track(container, stream), program=gate.program)
        except SourceBroken as broken:
            if gate.refusal is not None:  # what FFmpeg was told, and cannot tell
                broken.args = (f"{broken} ({gate.refusal})",)
            raise


def _open_container(
    endpoint: Endpoint, gate: HttpGate, options: NetworkOptions, shown: str
) -> InputContainer:
    started_s = time.monotonic()
    if endpoint.scheme == SCHEME and DEVICE_FORMAT not in av.formats_available:
        raise SourceUnreachable(
            f"{shown}: this PyAV was built without libavdevice, which reads cameras; install a "
            "wheel of PyPI"
        )
    try:
        container = av.open(
            _opened_url(endpoint),
            mode="r",
            metadata_errors="replace",
            io_open=gate if endpoint.scheme in ("http", "https") else None,
            timeout=(options.open_timeout_s, options.read_timeout_s),
            **_ffmpeg_options(endpoint, options),
        )
        return cast(InputContainer, container)
    except MemoryError as error:
        raise TooLarge(f"{shown}: opening it needs more memory than there is") from error
    except (FFmpegError, OSError, ValueError) as error:
        if gate.refusal is not None:
            raise gate.refusal from None
        if endpoint.scheme == SCHEME:
            raise _explain_device(error, shown) from None
        raise _explain(error, time.monotonic() - started_s, options, shown) from None


def _opened_url(endpoint: Endpoint) -> str:
    if endpoint.scheme == SCHEME:
        return endpoint.address
    return endpoint.url if endpoint.scheme in ("http", "https") else endpoint.pinned_url


def _ffmpeg_options(endpoint: Endpoint, options: NetworkOptions) -> dict[str, Any]:
    scheme = endpoint.scheme
    limits = {
        "max_pixels": str(MAX_PIXELS),
        "threads": "1",
        "analyzeduration": str(round(options.probe_s * 1e6)),
        "fpsprobesize": "2",  # the rate is only a guess here; waiting for it costs a second
    }
    if scheme in ("http", "https"):
        # The gate opens every URL; FFmpeg's own connection reuse would go past it.
        kept = {"format_whitelist": ",".join(OVER_HTTP), "http_persistent": "0"}
        return {"options": limits | kept}
    if scheme == SCHEME:
        asked = read_device_options(endpoint.url, shown=endpoint.address)
        return {"options": limits | asked, "format": SCHEME}
    kept = {"protocol_whitelist": PROTOCOLS[scheme]}
    if scheme in ("rtsp", "rtsps"):
        kept |= {"rtsp_transport": options.transport}
        kept |= {"timeout": str(round(options.read_timeout_s * 1e6))}
    return {"options": limits | kept, "format": FORMATS.get(scheme, "mpegts")}


def _explain_device(error: Exception, shown: str) -> SourceUnreachable:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return SourceUnreachable(
        f"{shown}: {reason}; is it a camera, free of other programs, readable for this user, and "
        "can it do what is asked (`v4l2-ctl --list-formats-ext`)?"
    )


def _explain(
    error: Exception, took_s: float, options: NetworkOptions, shown: str
) -> SourceUnreachable | NoVideoStream:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if took_s >= options.open_timeout_s * 0.9:
        return SourceUnreachable(
            f"{shown}: no video within {took_s:.1f} s; is it being sent, and to this machine?"
        )
    if isinstance(error, InvalidDataError):
        return NoVideoStream(f"{shown}: what it sends is no video that is read here ({reason})")
    return SourceUnreachable(f"{shown}: {reason}; check address, path and credentials")
