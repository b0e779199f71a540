"""Logging, set up once by whoever owns the process: to stderr, as text or as JSON lines.

Modules log through `logging.getLogger(__name__)`, one line per event a person would act on. Whoever
works for a stream says so once (`about_stream`), and all lines from within name it. What is said
again and again is said a few times a minute, with how often it was left out. No line shows a
credential, a library's neither.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from workers.redact import redact_text

OURS = ("aot", "workers", "pipeline", "bench", "demo")
Format = Literal["text", "json"]
CALM_LINES, CALM_S = 5, 60.0
"""So many lines of one kind about one stream, in so many seconds."""
MAX_KINDS = 1000
_about: ContextVar[str | None] = ContextVar("aot_stream", default=None)


@contextmanager
def about_stream(stream_id: str) -> Iterator[None]:
    """Lines logged from within, in this thread, are about that stream."""
    token = _about.set(stream_id)
    try:
        yield
    finally:
        _about.reset(token)


def find_stream(record: logging.LogRecord) -> str | None:
    """Which stream a line is about."""
    return getattr(record, "stream_id", None) or _about.get()


def setup_logging(level: str = "warning", form: Format = "text") -> None:
    """Send our loggers' lines to stderr from `level` on, and everybody's from warnings on.

    Called again, it takes the place of what it did before.
    """
    handler = _Stderr()
    handler.setFormatter(JsonLines() if form == "json" else _Text())
    handler.addFilter(Calm(level.upper()))
    put_handler(handler)
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())


def put_handler(handler: logging.Handler) -> None:
    """Have the root logger's lines handled, in the place of what was put of the same class."""
    root = logging.getLogger()
    for known in [known for known in root.handlers if type(known) is type(handler)]:
        root.removeHandler(known)
    root.addHandler(handler)


class _Stderr(logging.StreamHandler):
    """The stderr of the moment: tests and pagers put another in its place."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):  # type: ignore[override]
        return sys.stderr


@dataclass
class _Kind:
    until_s: float
    told: int = 0
    left_out: int = 0


class Calm(logging.Filter):
    """Passes our lines from a level on, and of one kind about one stream only a few a minute.

    The next one that passes says how many did not.
    """

    def __init__(self, level: str = "DEBUG") -> None:
        super().__init__()
        self._level = logging.getLevelName(level)
        self._kinds: dict[tuple[str, int, str, str | None], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line passes; `left_out` is put beside it where some before did not."""
        is_ours = record.name.partition(".")[0] in OURS
        if is_ours and record.levelno < self._level:
            return False
        key, now_s = (record.name, record.levelno, str(record.msg), find_stream(record)), _now_s()
        kind = self._kinds.get(key)
        if kind is None or now_s >= kind.until_s:
            record.left_out = 0 if kind is None else kind.left_out
            self._kinds = {k: v for k, v in self._kinds.items() if v.until_s + CALM_S > now_s}
            if len(self._kinds) < MAX_KINDS:
                self._kinds[key] = _Kind(now_s + CALM_S, told=1)
            return True
        record.left_out = 0
        kind.told += 1
        kind.left_out += kind.told > CALM_LINES
        return kind.told <= CALM_LINES


def _now_s() -> float:
    return time.monotonic()


class _Text(logging.Formatter):
    """`2026-05-04T14:00:00.123+00:00 WARNING pipeline.ingest.sink [lobby] lease not renewed`"""

    def format(self, record: logging.LogRecord) -> str:
        stream_id = find_stream(record)
        about = f" [{stream_id}]" if stream_id else ""
        return f"{_time(record)} {record.levelname} {record.name}{about} {_message(record)}"


class JsonLines(logging.Formatter):
    """One object a line; `stream_id` and `error` where there are."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            "stream_id": find_stream(record),
        }
        return json.dumps({key: value for key, value in facts.items() if value is not None})


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _message(record: logging.LogRecord) -> str:
    """One line, without credentials; of an exception its own words at the end."""
    text = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        lines = traceback.format_exception_only(record.exc_info[1])
        text = f"{text}: {' '.join(lines)}"
    if left_out := getattr(record, "left_out", 0):
        text = f"{text} (and {left_out} more like it in the last minutes)"
    return redact_text(" ".join(text.split()))
