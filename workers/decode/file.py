"""A URL or path in, an open regular file out.

FFmpeg gets a file object, never a name, so no name can act as a protocol.
"""

import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from workers.errors import NoVideoStream, SourceRefused, SourceUnreachable
from workers.redact import show_url

MAX_PATH = 4096

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def local_path(url: str) -> Path:
    """The path a source names; refuses whatever is not a file on this machine."""
    scheme = _SCHEME.match(url)
    if scheme and scheme[1].lower() != "file":
        raise SourceRefused(
            f"{show_url(url)}: got protocol {scheme[1].lower()!r}, expected a file path; "
            "record the stream to a file first"
        )
    if scheme:
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise SourceRefused(f"{show_url(url)}: names another host; give a path of this one")
        url = unquote(parts.path, errors="surrogateescape")
    if not url or "\0" in url or len(os.fsencode(url)) > MAX_PATH:
        raise SourceUnreachable(
            f"{show_url(url)!r} is no file name: it must have 1 to {MAX_PATH} bytes and no NUL"
        )
    return Path(url)


@contextmanager
def open_regular_file(
    path: Path, shown: str, roots: Sequence[Path], *, may_be_empty: bool = False
) -> Iterator[io.RawIOBase]:
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
        if not file.read(1) and not may_be_empty:  # /proc declares no size, so try
            raise NoVideoStream(f"{shown}: is empty (0 bytes), expected a video")
        file.seek(0)
        yield file


def _check_regular(status: os.stat_result, shown: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise SourceUnreachable(f"{shown}: is a folder, expected a video file")
    if not stat.S_ISREG(status.st_mode):
        raise SourceRefused(f"{shown}: is no regular file (a pipe or a device); copy it first")
