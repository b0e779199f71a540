"""Fragmented MP4 whose chain of boxes is broken: where it goes on, and the file without the break.

FFmpeg stops at the first box that is none, without an error, whatever comes behind it. Fragments
carry their own times (tfdt), so what follows the break can be read with the same header.
"""

import io
from collections.abc import Iterator

FRAGMENT = b"\0\0\0\x10mfhd"
"""What a fragment's box begins with (ISO/IEC 14496-12, 8.8.5): its header, of 16 bytes."""

MAX_HEADER_BOXES = 64
CHUNK_BYTES = 1 << 20


class SplicedFile(io.RawIOBase):
    """A file without its bytes between `cut` and `resume`."""

    def __init__(self, file: io.RawIOBase, cut: int, resume: int) -> None:
        self._file, self._cut, self._gone = file, cut, resume - cut
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            offset += self._file.seek(0, io.SEEK_END) - self._gone
        elif whence == io.SEEK_CUR:
            offset += self._at
        self._at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes from here on, none across the splice; all that is left for -1."""
        if self._at < self._cut:
            left = self._cut - self._at
            size = left if size < 0 else min(size, left)
            self._file.seek(self._at)
        else:
            self._file.seek(self._at + self._gone)
        data = self._file.read(size) or b""
        self._at += len(data)
        return data


def find_first_fragment(file: io.RawIOBase) -> int | None:
    """Where the first fragment of an MP4 lies; None where the file is not fragmented."""
    position = 0
    for _ in range(MAX_HEADER_BOXES):
        file.seek(position)
        header = file.read(16) or b""
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if kind == b"moof":
            return position
        if kind == b"mdat" or size < 8:
            return None
        position += size
    return None


def find_fragment(file: io.RawIOBase, position: int, track_id: int) -> int | None:
    """Where the first fragment of a track from `position` on lies, whatever is before it."""
    for at in _find_all(file, position):
        file.seek(at)
        box = file.read(4) or b""
        body = file.read(min(int.from_bytes(box, "big"), CHUNK_BYTES)) or b""
        tracks = [body[i + 8 : i + 12] for i in _positions(body, b"tfhd")]
        if track_id.to_bytes(4, "big") in tracks:
            return at
    return None


def _find_all(file: io.RawIOBase, position: int) -> Iterator[int]:
    """Where boxes lie that look like fragments."""
    pattern = b"moof" + FRAGMENT
    tail = b""
    while True:
        file.seek(position)
        chunk = file.read(CHUNK_BYTES) or b""
        if not chunk:
            return
        data, base = tail + chunk, position - len(tail)
        position += len(chunk)
        tail = data[-len(pattern) - 3 :]
        for at in _positions(data, pattern):
            if at >= 4 and base + at - 4 >= 0:
                yield base + at - 4


def _positions(data: bytes, pattern: bytes) -> Iterator[int]:
    at = data.find(pattern)
    while at >= 0:
        yield at
        at = data.find(pattern, at + 1)
