"""From what a caller asks to a question that can be answered, from the index alone.

The seam to `pipeline.ask`: permitted streams, one range each, what it will cost. Knows of no HTTP.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.api.shared import require_info
from pipeline.ask.question import Question, StreamPart, look_up_each, look_up_stream
from pipeline.ask.run import Prepared
from pipeline.serve.keys import Key
from pipeline.settings import Settings
from pipeline.store import ClipStore
from pipeline.store.checks import unknown_stream_error
from pipeline.values.errors import QueryTooLarge
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
    told: str | None = None
    """Where times are looked for of windows without a range; None for the text itself."""


def require_stream(store: ClipStore, settings: Settings, caller: Key, stream_id: str) -> StreamInfo:
    """What is known of a stream; one that the caller may not see is as one that there is not.

    Raises:
        UnknownStream: either.
        NotReadYet: a cluster's sessions are to read it; says what it waits for.
    """
    if not caller.sees(stream_id):
        raise unknown_stream_error(stream_id)
    return require_info(store, stream_id, settings)


def prepare_asked(store: ClipStore, settings: Settings, caller: Key, asked: Asked) -> Prepared:
    """Look up what is asked.

    Raises:
        UnknownStream, NoFootage, InvalidQuery: what is wrong with the question.
        QueryTooLarge: a longer range than one question may have; nothing was listed.
    """
    started_s = time.perf_counter()
    question = _question(settings, asked)
    for window in asked.windows:
        require_stream(store, settings, caller, window.stream_id)
    spoken = replace(question, text=asked.told or asked.text)
    parts = look_up_each(store, {w.stream_id: _over(spoken, w) for w in asked.windows})
    return Prepared(question, tuple(parts), time.perf_counter() - started_s)


def look_up_window(store: ClipStore, settings: Settings, caller: Key, window: Window) -> StreamPart:
    """The range of one stream with what the index has of it; errors as `prepare_asked`."""
    require_stream(store, settings, caller, window.stream_id)
    question = Question("-", (window.stream_id,), max_range_s=settings.serve.max_range)
    return look_up_stream(store, window.stream_id, _over(question, window))


def _over(question: Question, window: Window) -> Question:
    """The question over the range of one window."""
    return replace(question, start=window.start, end=window.end, last=window.last)


def _question(settings: Settings, asked: Asked) -> Question:
    if len(asked.windows) > MAX_STREAMS:
        raise QueryTooLarge(f"got {len(asked.windows)} streams, expected at most {MAX_STREAMS}")
    given = {name: value for name, value in asked.options.items() if value is not None}
    options = {**settings.ask.model_dump(), **given, "max_range_s": settings.serve.max_range}
    options["max_clips"] = min(options["max_clips"], settings.ask.max_clips)
    return Question(asked.text, tuple(window.stream_id for window in asked.windows), **options)
