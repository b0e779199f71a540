"""What a model is given to read: marks in the stream's own time, and what they and clips cost.

The cost of a mark is measured with the model's tokenizer, so that the context is used and not
exceeded. Knows of no store.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pipeline.ask.loading import ClipPlace, place_of
from pipeline.ask.question import Question, StreamPart
from pipeline.ask.retrieval import Budget, share_budget
from pipeline.values.errors import InvalidQuery
from pipeline.values.types import ClipSpan, StreamInfo
from workers.models import ReadingStyle, VisualSegment
from workers.models.base import TimeFormat
from workers.reading import format_mark, placeholder, read_clip, stream_time
from workers.seams import Answerer
from workers.types import CompressedClip

SAMPLED_MARKS = 16
"""Marks of a stream that are measured; they differ in their digits alone."""
MAX_TRIES = 8
ASIDE = 128
"""Places that are set aside for a question, in steps: questions of other lengths leave clips the
same room, so that a window is read to the model alike for all of them, and kept for the next."""
MOST_ASIDE = 16
"""Where the room is not so many steps, none of it is given up."""


@dataclass(frozen=True)
class Reading:
    """How the clips of a question are read to a model."""

    question: Question
    parts: tuple[StreamPart, ...]
    """Streams that have clips in the range."""
    model: Answerer

    @cached_property
    def groups(self) -> list[tuple[ClipSpan, ...]]:
        """The clips of each part."""
        return [part.spans for part in self.parts]

    @cached_property
    def style(self) -> ReadingStyle:
        """As the question says, else as the model wants."""
        return reading_style(self.question, self.model)

    @cached_property
    def named(self) -> frozenset[str]:
        """Streams whose first mark says their name: when there is more than one to tell apart."""
        several = self.style.name_streams and len(self.question.streams) > 1
        return frozenset(self.question.streams if several else ())

    def choose(self) -> list[tuple[ClipSpan, ...]]:
        """The clips to read of each part.

        Raises:
            InvalidQuery: the context leaves no room for video.
            QueryTooLarge: not one clip of each stream fits.
        """
        room = self.room()
        chosen: list[tuple[ClipSpan, ...]] = []
        extra = 0
        for _ in range(MAX_TRIES):  # marks may take a token more than those that were measured
            budget = Budget(
                room - self.names_cost, self.question.max_visual_tokens, self.question.max_clips
            )
            overhead = self._overhead + extra
            chosen = share_budget(self.groups, budget, lambda span, o=overhead: self._cost(span, o))
            over = self._count(chosen) - room
            if over <= 0:
                break
            extra += -(-over // sum(map(len, chosen)))
        return chosen

    def within(self, clip: CompressedClip) -> tuple[float, float] | None:
        """The asked range in the clip's own time; None where all of it speaks of the range."""
        return self._parts[clip.stream_id].within(clip)

    @cached_property
    def open_clips(self) -> dict[ClipPlace, CompressedClip]:
        """Those that are read as they were found: no store has them for long."""
        clips = [part.open_clip for part in self.parts if part.open_clip is not None]
        return {place_of(clip): clip for clip in clips}

    @cached_property
    def _parts(self) -> dict[str, StreamPart]:
        return {part.stream_id: part for part in self.parts}

    def read(
        self, clips: Iterable[CompressedClip], *, skip_empty: bool = False, stored: bool = False
    ) -> Iterator[tuple[CompressedClip, list[VisualSegment]]]:
        """Each clip with what is read of it; the first of a stream names it.

        With `skip_empty`, a mark behind which no token stands is left out. `stored` clips are as
        they are in the store, and say where.
        """
        unnamed = set(self.named)
        for clip in clips:
            part = self._parts[clip.stream_id]
            shift_s = part.timeline.shift_of(clip.epoch)
            yield (
                clip,
                read_clip(
                    clip,
                    marks=self.style.marks,
                    keep_positions=self.style.keep_positions,
                    name=clip.stream_id if clip.stream_id in unnamed else None,
                    within=self.within(clip),
                    mark=self.style.mark,
                    skip_empty=skip_empty,
                    time_text=_moved(time_writer(part, self.style.times), shift_s),
                    record=_name_record(part, clip) if stored else None,
                ),
            )
            unnamed.discard(clip.stream_id)

    def cost(self, span: ClipSpan) -> int:
        """Places that a clip takes at most, its marks included, as it is stored."""
        return self._cost(span, self._overhead)

    def cost_of(self, num_clips: int, num_tokens: int) -> int:
        """Places that clips take at most that have so many tokens together, as they are stored."""
        whole = self._whole_clip * num_clips if self.style.keep_positions else num_tokens
        return whole + self._overhead * num_clips

    def _cost(self, span: ClipSpan, overhead: int) -> int:
        whole = self._whole_clip if self.style.keep_positions else span.num_tokens
        return whole + overhead

    @cached_property
    def _whole_clip(self) -> int:
        """Places of a clip whose tokens stand where they stood before the reduction."""
        infos = [part.info for part in self.parts]
        return self._frames * max(_number(info, "frame_tokens") or 0 for info in infos)

    @cached_property
    def _frames(self) -> int:
        return max(_number(part.info, "clip_frames") or 1 for part in self.parts)

    def room(self) -> int:
        """Places of the context for clips and their marks.

        Raises:
            InvalidQuery: there are none.
        """
        return self._room

    @cached_property
    def _room(self) -> int:
        context = self.model.context_length - self.question.max_new_tokens
        room = context - self._beside
        if room <= 0:
            raise InvalidQuery(
                f"{self.model.context_length} tokens of context leave no room for video beside the "
                f"question and {self.question.max_new_tokens} new tokens; lower max_new_tokens"
            )
        steadier = context - -(-self._beside // ASIDE) * ASIDE
        return steadier if steadier >= MOST_ASIDE * ASIDE else room

    @cached_property
    def _beside(self) -> int:
        """Places of the prompt beside clips and marks: the template's and the question's."""
        sample = placeholder(self._marks(self.parts[0])[0], 1)
        one, two = (self.model.count_tokens(self.question.text, [sample] * n) for n in (1, 2))
        return 2 * one - two

    @cached_property
    def mark_cost(self) -> int:
        """Places that a mark and the end of its run take: the dearest of those measured."""
        return max(self._measure(mark) for part in self.parts for mark in self._marks(part))

    @cached_property
    def _overhead(self) -> int:
        """Tokens of a clip beside its visual tokens: marks, and what the family adds to a run."""
        patches = -(-self._frames // self.style.frames_per_mark)
        marks = self.mark_cost * (patches if self.style.marks == "frame" else 1)
        # Merged anchors are rows of their own, behind those of the frames.
        return marks + self.style.row_newlines * (self._frames + 1)

    @cached_property
    def names_cost(self) -> int:
        """Tokens that the streams' names add to their first marks."""
        cost = 0
        for part in self.parts:
            if part.stream_id in self.named:
                named, plain = self._marks(part, part.stream_id)[0], self._marks(part)[0]
                cost += max(0, self._measure(named) - self._measure(plain))
        return cost

    def _measure(self, mark: str) -> int:
        """Tokens that a mark and the end of its run add to a prompt."""
        segments = [*self._first, placeholder(mark, 1)]
        return self.model.count_tokens(self.question.text, segments) - self._before - 1

    @cached_property
    def _first(self) -> list[VisualSegment]:
        """A run of one token, behind which marks are measured."""
        return [placeholder("[00:00:00]", 1)]

    @cached_property
    def _before(self) -> int:
        return self.model.count_tokens(self.question.text, self._first)

    def _marks(self, part: StreamPart, name: str | None = None) -> list[str]:
        """Marks of some of a stream's clips, spread over them."""
        clips = part.to_read
        step = max(1, len(clips) // SAMPLED_MARKS)
        return [self._mark(part, clip.start_s, name) for clip in clips[::step]]

    def _mark(self, part: StreamPart, time_s: float, name: str | None) -> str:
        style = self.style
        return format_mark(
            time_s, mark=style.mark, name=name, time_text=time_writer(part, style.times)
        )

    def _count(self, chosen: Sequence[Sequence[ClipSpan]]) -> int:
        """Places that the chosen clips take, as the tokenizer counts them.

        Where positions are kept, frames are marked or rows ended it is what they were reckoned to
        cost.
        """
        style = self.style
        if style.keep_positions or style.marks == "frame" or style.row_newlines:
            return 0
        segments = [
            placeholder(
                self._mark(
                    part,
                    part.timeline.place(span).start_s,
                    part.stream_id if not i and part.stream_id in self.named else None,
                ),
                span.num_tokens,
            )
            for part, spans in zip(self.parts, chosen, strict=True)
            for i, span in enumerate(spans)
        ]
        return self.count(segments)

    def count(self, segments: Sequence[VisualSegment]) -> int:
        """Places that segments take, as the tokenizer counts them; of `room` and no more fit."""
        return self.model.count_tokens(self.question.text, segments) - self._beside


def reading_style(question: Question, model: Answerer) -> ReadingStyle:
    """How the clips are read: as the question says, else as the model wants."""
    given = {"marks": question.marks, "keep_positions": question.keep_positions}
    return replace(model.reading, **{k: v for k, v in given.items() if v is not None})


def time_writer(part: StreamPart, times: TimeFormat = "clock") -> Callable[[float], str]:
    """Times of a stream as they are told: of the wall clock where it has one.

    With the date where the range reaches over midnight.
    """
    clock = part.timeline.clock
    first, last = clock.local(part.start_s), clock.local(part.end_s)
    plain = stream_time(times)
    if first is None or last is None:
        return plain
    form = "%H:%M:%S" if first.date() == last.date() else "%Y-%m-%d %H:%M:%S"

    def write(stream_s: float) -> str:
        moment = clock.local(stream_s)
        return plain(stream_s) if moment is None else moment.strftime(form)

    return write


def _name_record(part: StreamPart, clip: CompressedClip) -> str | None:
    """The clip as it is stored now; None for an open one and for one that tells several together.

    A clip that fades keeps its place: what it was faded to is another name.
    """
    place = f"{part.info.fingerprint}/{clip.stream_id}/{clip.epoch}/{clip.index}"
    is_whole = clip.level.clips == 1 and clip is not part.open_clip
    return f"{place}@{clip.level.keep!r}" if is_whole else None


def _moved(write: Callable[[float], str], shift_s: float) -> Callable[[float], str]:
    return lambda time_s: write(time_s + shift_s)


def _number(info: StreamInfo, name: str) -> int | None:
    value = info.settings.get(name)
    return int(value) if isinstance(value, (int, float)) else None
