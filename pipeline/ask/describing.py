"""What of a stream was asked about, what there is of it and what was read, as answers tell it."""

from collections.abc import Sequence

from pipeline.ask.answer import DETAILS, Detail, LevelReading, StreamReading
from pipeline.ask.fitting import ReadClip
from pipeline.ask.question import StreamPart
from pipeline.values.times import write_moment


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


def _level(detail: Detail, alike: Sequence[ReadClip]) -> LevelReading:
    before = sum(clip.span.num_tokens for clip in alike)
    return LevelReading(detail, len(alike), before, sum(clip.tokens_read for clip in alike))


def share_of(part: float, whole: float) -> float:
    """At most 1; 0 of nothing."""
    return min(1.0, part / whole) if whole > 0 else 0.0
