"""From what a caller asks to a question that can be answered, from the index alone.

The seam to `pipeline.ask`: permitted streams, one range each, what it will cost. Knows of no HTTP.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.ask.question import Question, StreamPart, look_up, look_up_stream
from pipeline.ask.run import Prepared
from pipeline.ask.timeline import is_on_one_line, simple_timeline
from pipeline.serve.keys import Key
from pipeline.settings import Settings
from pipeline.store import ClipStore
from pipeline.store.checks import unknown_stream_error
from pipeline.values.errors import NoFootage, QueryTooLarge
from pipeline.values.times import parse_duration, resolve_range
from pipeline.values.types import StreamInfo

Time = str | float
MAX_STREAMS = 64
"""Of one question."""


@dataclass(frozen=True)
class Window:
    """A stretch of a stream, as it was written."""

    stream_id: str
    start: Time | None = None
    end: Time | None = None
    last: Time | None = None


@dataclass(frozen=True)
class Asked:
    """A question as it came in."""

    text: str
    windows: Sequence[Window]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Budget and reading, as `Question` names them; None is not given."""


def require_stream(store: ClipStore, caller: Key, stream_id: str) -> StreamInfo:
    """What is known of a stream; one that the caller may not see is as one that there is not.

    Raises:
        UnknownStream: either.
    """
    info = store.get_info(stream_id)
    if not caller.sees(stream_id):
        raise unknown_stream_error(stream_id)
    return info


def prepare_asked(store: ClipStore, settings: Settings, caller: Key, asked: Asked) -> Prepared:
    """Look up what is asked.

    Raises:
        UnknownStream, NoFootage, InvalidQuery: what is wrong with the question.
        QueryTooLarge: a longer range than one question may have; nothing was listed.
    """
    started_s = time.perf_counter()
    question = _question(settings, asked)
    parts = tuple(look_up_window(store, settings, caller, window) for window in asked.windows)
    if not any(part.clips for part in parts):
        raise NoFootage("; ".join(_explain_empty(store, part) for part in parts))
    return Prepared(question, parts, time.perf_counter() - started_s)


def look_up_window(store: ClipStore, settings: Settings, caller: Key, window: Window) -> StreamPart:
    """The range of one stream with what the index has of it; errors as `prepare_asked`."""
    info = require_stream(store, caller, window.stream_id)
    asked = Question("-", (window.stream_id,), window.start, window.end, window.last)
    _require_length(store, info, window, settings.serve.max_range)
    return look_up_stream(store, window.stream_id, asked)


def _question(settings: Settings, asked: Asked) -> Question:
    if len(asked.windows) > MAX_STREAMS:
        raise QueryTooLarge(f"got {len(asked.windows)} streams, expected at most {MAX_STREAMS}")
    given = {name: value for name, value in asked.options.items() if value is not None}
    options = {**settings.ask.model_dump(), **given}
    options["max_clips"] = min(options["max_clips"], settings.ask.max_clips)
    return Question(asked.text, tuple(window.stream_id for window in asked.windows), **options)


def _require_length(store: ClipStore, info: StreamInfo, window: Window, most_s: float) -> None:
    position = store.get_position(info.stream_id)
    if not is_on_one_line(info, position):
        return
    clock = simple_timeline(info, position).clock
    if window.last is not None:
        last = window.last
        length_s = parse_duration(last) if isinstance(last, str) else float(last)
    else:
        start_s, end_s = resolve_range(window.start, window.end, clock)
        length_s = (clock.end_s if end_s is None else end_s) - start_s
    if length_s > most_s:
        raise QueryTooLarge(
            f"got a range of {length_s:.0f} s of {info.stream_id}, expected at most {most_s:.0f} s "
            "(serve.max_range); ask for a part of it"
        )


def _explain_empty(store: ClipStore, part: StreamPart) -> str:
    """That a range is empty, and where there is something, as a question of its own is told."""
    try:
        look_up(store, Question("-", (part.stream_id,), part.start_s, part.end_s))
    except NoFootage as error:
        return str(error)
    return f"{part.stream_id} has footage in the range since a moment ago: ask again"
