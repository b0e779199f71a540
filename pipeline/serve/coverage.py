"""What of a range has footage, and why the rest has none."""

from dataclasses import dataclass

from pipeline.ask.describing import describe_reading
from pipeline.serve.asking import Window, look_up_window
from pipeline.serve.keys import Key
from pipeline.settings import Settings
from pipeline.store import ClipStore
from pipeline.values.types import Gap


@dataclass(frozen=True)
class Coverage:
    """What of a range has footage."""

    stream_id: str
    start_s: float
    end_s: float
    wall_start: str | None
    wall_end: str | None
    coverage: float
    """Share of the range, 0 to 1; a held stretch is footage."""
    footage_s: float
    held_s: float
    """Seconds in which nothing changed."""
    clips: int
    tokens: int
    bytes: int
    gaps: list[Gap]
    """Stretches without footage, each with its reason."""


def measure_coverage(store: ClipStore, settings: Settings, caller: Key, window: Window) -> Coverage:
    """From the index alone; errors as `asking.prepare_asked`."""
    part = look_up_window(store, settings, caller, window)
    told = describe_reading(part, ())
    return Coverage(
        stream_id=told.stream_id,
        start_s=told.start_s,
        end_s=told.end_s,
        wall_start=told.wall_start,
        wall_end=told.wall_end,
        coverage=told.coverage,
        footage_s=part.footage_s,
        held_s=told.held_s,
        clips=len(part.clips),
        tokens=sum(clip.span.num_tokens for clip in part.clips),
        bytes=sum(clip.span.size_bytes for clip in part.clips),
        gaps=list(told.gaps),
    )
