"""What is asked, and the range it means for one stream; reads the index alone.

Knows of no model: `aot clips ls` resolves its range here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import InvalidQuery
from pipeline.times import StreamClock, parse_duration, parse_time

if TYPE_CHECKING:
    from pipeline.store import ClipStore
    from workers.models import Marks


@dataclass(frozen=True)
class Question:
    """What is asked, of which streams, over which range, with which budget."""

    text: str
    streams: tuple[str, ...]
    start: str | float | None = None
    """As `pipeline.times.parse_time` takes it, or seconds of the stream; None from the start."""
    end: str | float | None = None
    last: str | float | None = None
    """The last so many seconds (or `10m`) of each stream, instead of start and end."""
    max_visual_tokens: int | None = None
    max_new_tokens: int = 256
    max_clips: int = 2048
    marks: Marks | None = None
    """Time marks, one a clip or one a frame; None as the model wants them."""
    keep_positions: bool | None = None
    """Read tokens at the places they had before the reduction; None as the model wants it."""

    def __post_init__(self) -> None:
        if not self.text.strip() or len(self.text) > 4096:
            raise InvalidQuery(
                f"got a question of {len(self.text)} characters, expected 1 to 4096; ask something"
            )
        if not self.streams:
            raise InvalidQuery("got no stream, expected at least one; name it with -s")
        if len(set(self.streams)) < len(self.streams):
            raise InvalidQuery("got a stream twice; name each once")
        if self.last is not None and (self.start is not None or self.end is not None):
            raise InvalidQuery("got both a last stretch and a range; give one of them")


def resolve_range(store: ClipStore, stream_id: str, question: Question) -> tuple[float, float]:
    """The asked range in seconds of one stream; an open end is the end of what is stored."""
    info, position = store.get_info(stream_id), store.get_position(stream_id)
    clock = StreamClock(position.end_s if position else 0.0, info.wall_start_s)
    if question.last is not None:
        last_s = question.last
        last_s = parse_duration(last_s) if isinstance(last_s, str) else float(last_s)
        return max(0.0, clock.end_s - last_s), clock.end_s
    start_s = _seconds(question.start, clock, 0.0)
    if question.end is None:  # a later epoch may end before an earlier one
        ends_s = [span.end_s for span in store.list_spans(stream_id, start_s)]
        return start_s, max(ends_s, default=max(clock.end_s, start_s))
    end_s = _seconds(question.end, clock, 0.0)
    if not start_s < end_s:
        raise InvalidQuery(f"got a range from {start_s:g} to {end_s:g} s; start must be before end")
    return start_s, end_s


def _seconds(value: str | float | None, clock: StreamClock, default: float) -> float:
    if value is None:
        return default
    return parse_time(value, clock) if isinstance(value, str) else float(value)
