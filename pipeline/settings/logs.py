"""Logging, set up once by whoever owns the process: to stderr, as text or as JSON lines.

Modules log through `logging.getLogger(__name__)`, one line per event a person would act on, with
`extra={"stream_id": ...}` where it is about a stream. No line shows a credential, a library's
neither.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Literal

from workers.redact import redact_text

OURS = ("aot", "workers", "pipeline", "bench", "demo")
Format = Literal["text", "json"]


def setup_logging(level: str = "warning", form: Format = "text") -> None:
    """Send our loggers' lines to stderr from `level` on, and everybody's from warnings on.

    Called again, it takes the place of what it did before.
    """
    handler = _Stderr()
    handler.setFormatter(_JsonLines() if form == "json" else _Text())
    root = logging.getLogger()
    for known in [known for known in root.handlers if isinstance(known, _Stderr)]:
        root.removeHandler(known)
    root.addHandler(handler)
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())


class _Stderr(logging.StreamHandler):
    """The stderr of the moment: tests and pagers put another in its place."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):  # type: ignore[override]
        return sys.stderr


class _Text(logging.Formatter):
    """`2026-05-04T14:00:00.123+00:00 WARNING pipeline.ingest.sink [lobby] lease not renewed`"""

    def format(self, record: logging.LogRecord) -> str:
        stream_id = getattr(record, "stream_id", None)
        about = f" [{stream_id}]" if stream_id else ""
        return f"{_time(record)} {record.levelname} {record.name}{about} {_message(record)}"


class _JsonLines(logging.Formatter):
    """One object a line; `stream_id` and `error` where there are."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            "stream_id": getattr(record, "stream_id", None),
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
    return redact_text(" ".join(text.split()))
