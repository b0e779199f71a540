"""What of a stream was asked about, what there is of it and what was read, as answers tell it."""

from collections.abc import Sequence

from pipeline.ask.answer import DETAILS, Citation, Detail, LevelReading, StreamReading
from pipeline.ask.fitting import ReadClip
from pipeline.ask.question import StreamPart
from pipeline.ask.timeline import Timeline
from pipeline.values.times import write_moment
from pipeline.values.types import ClipSpan


def describe_reading(part: StreamPart, all_read: Sequence[ReadClip]) -> StreamReading:
    """What was asked about one stream, what there is of it and what was read."""
    read: dict[Detail, list[ReadClip]] = {detail: [] for detail in DETAILS}
    for clip in all_read:
        if clip.span.stream_id == part.stream_id:
            read[clip.detail].append(clip)
    clock = part.timeline.clock
    return StreamReading(
        stream_id=part.stream_id,
        start_s=part.start_s,
        end_s=part.end_s,
        wall_start=write_moment(clock, part.start_s),
        wall_end=write_moment(clock, part.end_s),
        coverage=share_of(part.footage_s, part.asked_s),
        clips_found=len(part.to_read),
        clips_read=sum(map(len, read.values())),
        gaps=tuple(gap for gap in part.gaps if not gap.is_footage),
        held_s=part.held_s,
        phrase=part.phrase,
        clips_faded=sum(span.keep < 1 for span in part.spans),
        levels=tuple(_level(detail, alike) for detail, alike in read.items() if alike),
    )


def cite(parts: Sequence[StreamPart], read: Sequence[ReadClip]) -> tuple[Citation, ...]:
    """Where the clips lie that an answer rests on, each in its stream's own time."""
    lines = {part.stream_id: part.timeline for part in parts}
    return tuple(_cite(lines[clip.span.stream_id], clip.span) for clip in read if clip.is_cited)


def _cite(line: Timeline, span: ClipSpan) -> Citation:
    placed = line.place(span)
    first, last = (write_moment(line.clock, s) for s in (placed.start_s, placed.end_s))
    return Citation(
        **{**vars(span), "start_s": placed.start_s, "end_s": placed.end_s},
        wall_start=first,
        wall_end=last,
    )


def _level(detail: Detail, alike: Sequence[ReadClip]) -> LevelReading:
    before = sum(clip.span.num_tokens for clip in alike)
    return LevelReading(detail, len(alike), before, sum(clip.tokens_read for clip in alike))


def share_of(part: float, whole: float) -> float:
    """At most 1; 0 of nothing."""
    return min(1.0, part / whole) if whole > 0 else 0.0
