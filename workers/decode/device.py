"""A camera of this machine: `v4l2:///dev/video0?size=1280x720&fps=30&format=mjpeg`.

Which one is meant, whether it may be opened, and what FFmpeg's `v4l2` demuxer is told. Only devices
that the operator names are opened, and only what the kernel calls a video device. Opens nothing.
"""

import os
import re
import stat
from collections.abc import Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

from workers.errors import SourceRefused, SourceUnreachable

SCHEME = "v4l2"
VIDEO_MAJOR = 81
"""Of every video device (Linux, Documentation/admin-guide/devices.txt)."""
OPTIONS = {
    "size": ("video_size", re.compile(r"\d{1,5}x\d{1,5}")),
    "fps": ("framerate", re.compile(r"\d{1,4}(?:\.\d{1,3}|/\d{1,4})?")),
    "format": ("input_format", re.compile(r"[a-z0-9_]{1,20}")),
}
"""What a URL may ask for: FFmpeg's name of it, and how a value must look."""


def is_device_url(url: str) -> bool:
    """Whether a source names a device."""
    return url.lower().startswith(f"{SCHEME}:")


def check_device(url: str, permitted: Sequence[str], *, shown: str) -> str:
    """The path of the device that a URL names, if it is one of `permitted`.

    Raises:
        SourceRefused: another one, no video device, or an option that there is not.
        SourceUnreachable: no such device.
    """
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or "\0" in path:
        raise SourceRefused(f"{shown}: names no device; write {SCHEME}:///dev/video0")
    read_device_options(url, shown=shown)
    real = os.path.realpath(path)
    if real not in {os.path.realpath(one) for one in permitted}:
        raise SourceRefused(
            f"{shown}: is no device that may be opened; name it to permit it: --allow-device {path}"
        )
    try:
        status = os.stat(real)
    except OSError as error:
        raise SourceUnreachable(
            f"{shown}: {error.strerror}; is the camera plugged in? `ls /dev/video*` shows which "
            "there are"
        ) from None
    if not stat.S_ISCHR(status.st_mode) or os.major(status.st_rdev) != VIDEO_MAJOR:
        raise SourceRefused(f"{shown}: is no video device; expected one such as /dev/video0")
    return real


def read_device_options(url: str, *, shown: str) -> dict[str, str]:
    """What FFmpeg's demuxer is told of a URL's options; raises `SourceRefused`."""
    asked = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    return dict(_read_option(name, value, shown) for name, value in asked)


def device_groups(url: str) -> list[int]:
    """Groups that a process without privileges needs to open the device that a URL names."""
    try:
        status = os.stat(unquote(urlsplit(url).path))
    except (OSError, ValueError):
        return []  # whoever opens it says what is wrong
    both = stat.S_IRGRP | stat.S_IWGRP  # as FFmpeg opens it
    return [status.st_gid] if status.st_mode & both == both else []


def _read_option(name: str, value: str, shown: str) -> tuple[str, str]:
    if name not in OPTIONS:
        raise SourceRefused(
            f"{shown}: got option {name[:20]!r}, expected one of {', '.join(OPTIONS)}"
        )
    option, form = OPTIONS[name]
    if not form.fullmatch(value):
        raise SourceRefused(
            f"{shown}: got {name}={value[:40]!r}, expected such as size=1280x720, fps=30, "
            "format=mjpeg"
        )
    return option, value
