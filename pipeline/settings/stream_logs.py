"""What happened to a stream, kept beside it: a file of JSON lines a stream, bounded.

Sessions of this machine write there whatever stderr shows, from `info` on; who comes later reads
it after the terminal has gone. A stream has one writer, so that its file has one too. Knows of no
store.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.settings.logs import (
    OURS,
    Calm,
    JsonLines,
    about_stream,
    find_stream,
    put_handler,
)
from pipeline.values.types import require_stream_id
from workers.names import STREAM_ID


@dataclass(frozen=True)
class StreamLogs:
    """Where the files are, and how much each stream may leave."""

    folder: Path
    max_bytes: int
    """Of the newer of a stream's two files; the older is as long at most."""

    def keep(self) -> None:
        """Have this process write what it logs about streams here, and nowhere else."""
        handler = _StreamFiles(self)
        handler.setFormatter(JsonLines())
        handler.addFilter(Calm())
        put_handler(handler)
        for name in OURS:
            logger = logging.getLogger(name)
            logger.setLevel(min(logger.level or logging.INFO, logging.INFO))

    def read(self, stream_id: str) -> Iterator[dict[str, Any]]:
        """Lines of a stream, the oldest first; one that does not read is left out."""
        for path in reversed(self._paths(stream_id)):
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                continue
            for line in text.splitlines():
                try:
                    value = json.loads(line)
                except ValueError:  # the end of a line that was cut by a kill
                    continue
                if isinstance(value, dict):
                    yield value

    def remove(self, stream_id: str) -> None:
        """Forget a stream that was removed."""
        for path in self._paths(stream_id):
            path.unlink(missing_ok=True)

    def append(self, stream_id: str, line: str) -> None:
        """Write a line, in the place of the oldest ones where there are too many."""
        newer, older = self._paths(stream_id)
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if newer.exists() and newer.stat().st_size + len(data) > self.max_bytes:
            os.replace(newer, older)
        descriptor = os.open(newer, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def _paths(self, stream_id: str) -> tuple[Path, Path]:
        require_stream_id(stream_id)
        return self.folder / f"{stream_id}.jsonl", self.folder / f"{stream_id}.older.jsonl"


@contextmanager
def keep_logs(logs: StreamLogs | None, stream_id: str) -> Iterator[None]:
    """For a process that is there for one stream: lines from within are of it, and kept."""
    if logs is not None:
        logs.keep()
    with about_stream(stream_id):
        yield


class _StreamFiles(logging.Handler):
    """Lines about a stream go into its file; all others go elsewhere."""

    def __init__(self, logs: StreamLogs) -> None:
        super().__init__(logging.INFO)
        self.logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: a full disk ends no session."""
        stream_id = find_stream(record)
        if stream_id is None or not STREAM_ID.fullmatch(stream_id):
            return
        try:
            self.logs.append(stream_id, self.format(record))
        except OSError:
            self.handleError(record)
