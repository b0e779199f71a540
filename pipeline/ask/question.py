"""What is asked, and what of each stream that means: its range, the clips in it, its gaps.

Reads the index alone, each stream's facts once, so that a question that cannot be answered is
refused before a value or a model is loaded. Knows of no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from pipeline.ask.loading import find_open, has_closed
from pipeline.ask.timeline import (
    Placed,
    Timeline,
    build_timeline,
    covered_s,
    is_on_one_line,
    simple_timeline,
)
from pipeline.values.errors import InvalidQuery, NoFootage, QueryTooLarge
from pipeline.values.phrases import TimePhrase, find_phrase
from pipeline.values.times import parse_duration, write_moment
from pipeline.values.times import resolve_range as resolve_written
from pipeline.values.types import EXPIRED, DeletedCounts

Fit = Literal["choose", "recompress", "find"]
"""`choose`: as many clips as fit, evenly spaced, each as it was stored. `recompress`: all of them,
with fewer tokens. `find`: those that matter for the question, by the model that answers it."""

if TYPE_CHECKING:
    from pipeline.store import ClipStore
    from pipeline.values.types import ClipSpan, Gap, StreamInfo
    from workers.models import Marks
    from workers.types import CompressedClip


STILL_REACH_S, STILL_SLACK_S = 60.0, 0.001
"""How far before a held stretch the clip whose picture it holds may end: one sample."""


@dataclass(frozen=True)
class Question:
    """What is asked, of which streams, over which range, with which budget."""

    text: str
    streams: tuple[str, ...]
    start: str | float | None = None
    """As `pipeline.values.times` takes it, or seconds of the stream; None from the start."""
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
    fit: Fit = "recompress"
    """What is done where the range holds more than the budget."""
    read_times: bool = False
    """Take the range from what the text says of time, where none is given beside it."""
    max_range_s: float | None = None
    """Longest range of a stream: a longer one is refused before its clips are listed."""

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
        for name in ("max_visual_tokens", "max_new_tokens", "max_clips"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidQuery(f"got {name} {value}, expected at least 1")


@dataclass(frozen=True)
class StreamPart:
    """What a question means for one stream: read from the index once."""

    info: StreamInfo
    timeline: Timeline
    start_s: float
    end_s: float
    clips: tuple[Placed, ...]
    """Those with a part in the range, in order."""
    gaps: tuple[Gap, ...]
    """Those with a part in the range."""
    before: Placed | None = None
    """The clip whose picture still held when the range began: it is read too."""
    phrase: str | None = None
    """What the question says of time, where the range was taken from it."""
    open_clip: CompressedClip | None = None
    """The clip that a live stream is at, where it has a part in the range; the last of `clips`."""

    def without_open(self) -> StreamPart:
        """The same of what the index has alone."""
        clips = tuple(clip for clip in self.clips if not clip.span.is_open)
        return replace(self, clips=clips, open_clip=None)

    @property
    def to_read(self) -> tuple[Placed, ...]:
        """The clips that speak of the range, in order."""
        return self.clips if self.before is None else (self.before, *self.clips)

    @cached_property
    def spans(self) -> tuple[ClipSpan, ...]:
        """Their index rows."""
        return tuple(clip.span for clip in self.to_read)

    def within(self, clip: CompressedClip) -> tuple[float, float] | None:
        """The range in a clip's own seconds; None where all of the clip speaks of it.

        The clip before a held stretch shows a place at rest: all of it speaks of the range. In
        records of earlier versions a clip's own last picture may have been held into the range:
        that picture speaks of it, and not what went before, unless nothing else is read.
        """
        shift_s = self.timeline.shift_of(clip.epoch)
        start_s, end_s = self.start_s - shift_s, self.end_s - shift_s
        held_s = clip.pts_s[-1]
        step_s = (held_s - clip.pts_s[0]) / max(1, len(clip.pts_s) - 1)
        is_held = 0 < 2 * step_s < start_s - held_s
        if self._is_before(clip) or (is_held and len(self.to_read) == 1):
            return None
        return (held_s, end_s) if is_held else (start_s, end_s)

    def _is_before(self, clip: CompressedClip) -> bool:
        before = self.before and self.before.span
        return before is not None and (clip.epoch, clip.index) == (before.epoch, before.index)

    def cuts(self, clip: Placed) -> bool:
        """Whether the range begins or ends within a clip."""
        return clip.start_s < self.start_s or clip.end_s > self.end_s

    @property
    def stream_id(self) -> str:
        """Id of the stream."""
        return self.info.stream_id

    @cached_property
    def footage_s(self) -> float:
        """Seconds of the range that clips cover, or in which nothing changed."""
        places = [(clip.start_s, clip.end_s) for clip in self.clips]
        return covered_s([*places, *self._held], self.start_s, self.end_s)

    @property
    def held_s(self) -> float:
        """Seconds of the range in which the source was seen and nothing changed."""
        return covered_s(self._held, self.start_s, self.end_s)

    @property
    def _held(self) -> list[tuple[float, float]]:
        return [self.timeline.place_gap(gap) for gap in self.gaps if gap.is_footage]

    def delete_from(self, store: ClipStore) -> DeletedCounts:
        """Remove what lies in the range: each epoch's part of it, in that one's own time."""
        epochs = {clip.span.epoch for clip in self.clips} | {gap.epoch for gap in self.gaps}
        counts = DeletedCounts(0, 0, 0)
        for epoch in sorted(epochs):
            shift_s = self.timeline.shift_of(epoch)
            counts += store.delete_range(
                self.stream_id, self.start_s - shift_s, self.end_s - shift_s, epoch=epoch
            )
        return counts

    @property
    def asked_s(self) -> float:
        """Length of the range, in seconds of the stream's line of time."""
        return self.end_s - self.start_s


def look_up(store: ClipStore, question: Question) -> list[StreamPart]:
    """What the question means for each of its streams, in the order asked.

    Raises:
        UnknownStream, InvalidQuery: no such stream, or a range that cannot be.
        NoFootage: none of the streams has a clip in its range; says where the nearest are.
        QueryTooLarge: a longer range than the question may have.
    """
    return look_up_each(store, {name: question for name in question.streams})


def look_up_each(store: ClipStore, asked: Mapping[str, Question]) -> list[StreamPart]:
    """The same where each stream is asked over a range of its own; errors as `look_up`."""
    parts = [
        _with_clip_before(store, look_up_stream(store, name, question, with_open=True))
        for name, question in asked.items()
    ]
    if not any(part.to_read for part in parts):
        raise NoFootage("; ".join(_nothing_found(store, part) for part in parts))
    return parts


def look_up_stream(
    store: ClipStore, stream_id: str, question: Question, *, with_open: bool = False
) -> StreamPart:
    """The range of one stream, with what the index has of it, and its open clip where wanted."""
    now = find_open(store, stream_id) if with_open else None
    info, position = store.get_info(stream_id), store.get_position(stream_id)
    if now is not None and has_closed(now, position, ()):
        now = None
    told = store.list_gaps(stream_id)
    every = None  # index rows of the whole stream, where its epochs have to be put in order
    if is_on_one_line(info, position):
        timeline = simple_timeline(info, position, now and now[0])
    else:
        every = store.list_spans(stream_id)
        if now is not None and has_closed(now, position, every):
            now = None
        every += [] if now is None else [now[0]]
        removed = [gap for gap in told if gap.reason == EXPIRED]
        timeline = build_timeline(info, every, removed)
    phrase = _spoken_range(question, timeline)
    if phrase is None:
        start_s, end_s = _written_range(question, timeline)
    else:
        start_s, end_s = phrase.start_s, phrase.end_s
    _require_length(question, stream_id, start_s, timeline.clock.end_s if end_s is None else end_s)
    if every is None:
        found = store.list_spans(stream_id, start_s, end_s)
        if now is not None and not has_closed(now, position, found):
            found.append(now[0])
    else:
        found = every
    placed = [timeline.place(span) for span in found]
    if end_s is None:
        end_s = max([start_s, timeline.clock.end_s, *(clip.end_s for clip in placed)])
    clips = tuple(clip for clip in placed if clip.overlaps(start_s, end_s))
    gaps = _gaps_within(told, timeline, start_s, end_s)
    told_by = None if phrase is None else phrase.text
    open_clip = now[1] if now and any(clip.span.is_open for clip in clips) else None
    return StreamPart(info, timeline, start_s, end_s, clips, gaps, None, told_by, open_clip)


def _with_clip_before(store: ClipStore, part: StreamPart) -> StreamPart:
    """With the clip whose picture held at the start of the range, where one did."""
    if not part.held_s:
        return part
    held = {gap: part.timeline.place_gap(gap) for gap in part.gaps if gap.is_footage}
    gap, (held_from_s, _) = min(held.items(), key=lambda item: item[1])
    if any(clip.start_s < held_from_s for clip in part.clips):
        return part
    shift_s = part.timeline.shift_of(gap.epoch)
    reach_s = (held_from_s - STILL_REACH_S - shift_s, held_from_s + STILL_SLACK_S - shift_s)
    found = [
        part.timeline.place(span)
        for span in store.list_spans(part.stream_id, *reach_s)
        if span.epoch == gap.epoch
    ]
    return replace(part, before=found[-1] if found else None)


def resolve_range(store: ClipStore, stream_id: str, question: Question) -> tuple[float, float]:
    """The asked range in seconds of one stream; an open end is the end of what is stored."""
    part = look_up_stream(store, stream_id, question)
    return part.start_s, part.end_s


def _spoken_range(question: Question, timeline: Timeline) -> TimePhrase | None:
    """What the text says of time; a range that is given beside it wins."""
    given = (question.start, question.end, question.last)
    if not question.read_times or any(bound is not None for bound in given):
        return None
    return find_phrase(question.text, timeline.clock)


def _written_range(question: Question, timeline: Timeline) -> tuple[float, float | None]:
    clock = timeline.clock
    last_s = _last_s(question)
    if last_s is None:
        return resolve_written(question.start, question.end, clock)
    if not last_s > 0:
        raise InvalidQuery(f"got a last stretch of {last_s:g} s, expected more than 0")
    return max(0.0, clock.end_s - last_s), clock.end_s


def _last_s(question: Question) -> float | None:
    last = question.last
    return parse_duration(last) if isinstance(last, str) else last


def _require_length(question: Question, stream_id: str, start_s: float, end_s: float) -> None:
    last_s, most_s = _last_s(question), question.max_range_s
    length_s = end_s - start_s if last_s is None else last_s
    if most_s is not None and length_s > most_s:
        raise QueryTooLarge(
            f"got a range of {length_s:.0f} s of {stream_id}, expected at most {most_s:.0f} s; "
            "ask for a part of it"
        )


def _gaps_within(
    gaps: Iterable[Gap], timeline: Timeline, start_s: float, end_s: float
) -> tuple[Gap, ...]:
    def lies_within(gap: Gap) -> bool:
        gap_start_s, gap_end_s = timeline.place_gap(gap)
        return gap_start_s < end_s and gap_end_s > start_s

    return tuple(gap for gap in gaps if lies_within(gap))


def _nothing_found(store: ClipStore, part: StreamPart) -> str:
    """That a range is empty, and where there is something."""
    clips = [part.timeline.place(span) for span in store.list_spans(part.stream_id)]
    nearest = nearest_clip(clips, part.start_s, part.end_s)
    hint = (
        f"the nearest clip is {_range_text(part, nearest.start_s, nearest.end_s)}"
        if nearest
        else "the stream has no clips yet"
    )
    range_text = f"from {_range_text(part, part.start_s, part.end_s)}"
    if part.held_s:
        return f"{part.stream_id} was still {range_text}, and no clip was made; {hint}: ask it"
    return f"{part.stream_id} has no footage {range_text}; {hint}"


def _range_text(part: StreamPart, start_s: float, end_s: float) -> str:
    """As times of day where the stream has them: they are what was asked by."""
    start, end = (write_moment(part.timeline.clock, second) for second in (start_s, end_s))
    return f"{start_s:.1f} to {end_s:.1f} s" if start is None else f"{start} to {end}"


def nearest_clip(clips: Iterable[Placed], start_s: float, end_s: float) -> Placed | None:
    """The clip closest to a range."""
    return min(
        clips,
        key=lambda clip: max(clip.start_s - end_s, start_s - clip.end_s, 0.0),
        default=None,
    )


def spans_of(parts: Iterable[StreamPart]) -> list[ClipSpan]:
    """The clips' index rows, in order."""
    return [clip.span for part in parts for clip in part.clips]
