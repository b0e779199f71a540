"""A file that is still being written, read as a stream: who reads at its end waits for more.

It is read once, from its start to wherever it ends: it cannot be sought, so that no container looks
for an index or a length that is not written yet. It has ended when it has not grown for so long.
What takes the file's place meanwhile is not read in its stead: that is told as `SourceReplaced`.
"""

import io
import os
import threading
import time
from pathlib import Path

from workers.errors import NoVideoStream, SourceError, SourceRefused, SourceReplaced

POLL_S = 0.1
"""How often a file that does not grow is looked at."""
HEAD_BYTES = 4096
FOLLOWED = ("mpegts", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv")
"""FFmpeg's names of the containers that can be read while they are written."""


class GrowingFile(io.RawIOBase):
    """What PyAV reads of a followed file; `check` tells afterwards why it ended.

    PyAV reads through a callback that hands on neither an interrupt nor, in all places, an error:
    both end the file here and are raised by `check`.
    """

    def __init__(self, file: io.RawIOBase, path: Path, shown: str, *, idle_s: float) -> None:
        """`idle_s`: without growth for so long the file is at its end; `math.inf` waits on."""
        super().__init__()
        self._file, self._path, self._shown, self._idle_s = file, path, shown, idle_s
        self._read_bytes = 0
        self._stopped = threading.Event()
        self._failed: BaseException | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; waits for the first of them. Empty at the end of the file."""
        try:
            if self._failed is not None:
                return b""
            data = self._read_waiting(size)
        except (SourceError, OSError, KeyboardInterrupt) as error:
            self._failed = error
            return b""
        self._read_bytes += len(data)
        return data

    def stop_waiting(self) -> None:
        """The file ends with what there is of it; for another thread than the reader's."""
        self._stopped.set()

    def check(self) -> None:
        """Raise what ended the file before its end.

        Raises:
            SourceReplaced: it was shortened, or another file has taken its place.
            OSError: it cannot be read. KeyboardInterrupt: came while it was waited for.
        """
        if self._failed is not None:
            raise self._failed

    def await_head(self) -> bytes:
        """The first bytes, waited for; empty for a file that stays empty."""
        while True:
            head = os.pread(self._file.fileno(), HEAD_BYTES, 0)
            if len(head) >= 16 or not self._wait_for_growth(len(head)):
                return head

    def _read_waiting(self, size: int) -> bytes:
        while True:
            data = self._file.read(size) or b""
            if data:
                return data
            if not self._wait_for_growth(self._read_bytes):
                return b""

    def _wait_for_growth(self, have_bytes: int) -> bool:
        """Wait until the file is longer than this; False when it is taken for finished."""
        until_s = time.monotonic() + self._idle_s
        while (length := os.fstat(self._file.fileno()).st_size) <= have_bytes:
            if length < have_bytes:
                raise self._replaced("was shortened while it was read")
            if self._stopped.is_set():
                return False
            if (left_s := until_s - time.monotonic()) <= 0:
                if not self._is_in_place():
                    raise self._replaced("was replaced by another file")
                return False
            self._stopped.wait(min(POLL_S, left_s))
        return True

    def _is_in_place(self) -> bool:
        """Whether its name still means this file; one whose name is gone was not replaced."""
        try:
            named = os.stat(self._path)
        except OSError:
            return True
        return os.path.samestat(named, os.fstat(self._file.fileno()))

    def _replaced(self, how: str) -> SourceReplaced:
        return SourceReplaced(
            f"{self._shown}: {how}; what came before is kept. Ingest what is there now into "
            "another stream, or files of one recorder into one stream with --join"
        )


def check_can_be_followed(head: bytes, shown: str) -> None:
    """Raise what the first bytes of a file tell that could never be followed.

    Raises:
        NoVideoStream: there are none.
        SourceRefused: an MP4 that gets its index (moov) when the recording ends.
    """
    if not head:
        raise NoVideoStream(f"{shown}: is empty (0 bytes) and did not grow, expected a video")
    position = 0
    while head[position + 4 : position + 8] in (b"ftyp", b"free", b"skip", b"wide"):
        position += max(8, int.from_bytes(head[position : position + 4], "big"))
    if head[position + 4 : position + 8] == b"mdat":
        raise SourceRefused(
            f"{shown}: is an MP4 that gets its index (moov) when the recording ends, so that it "
            "cannot be read before; record MPEG-TS, MKV or fragmented MP4, or ingest it when it "
            "is finished"
        )
