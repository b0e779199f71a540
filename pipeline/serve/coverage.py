"""What of a range has footage, and why the rest has none."""

from dataclasses import dataclass

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
    clock = part.timeline.clock
    first, until = clock.local(part.start_s), clock.local(part.end_s)
    return Coverage(
        stream_id=part.stream_id,
        start_s=part.start_s,
        end_s=part.end_s,
        wall_start=None if first is None else first.isoformat(timespec="seconds"),
        wall_end=None if until is None else until.isoformat(timespec="seconds"),
        coverage=min(1.0, part.footage_s / part.asked_s) if part.asked_s > 0 else 0.0,
        footage_s=part.footage_s,
        held_s=part.held_s,
        clips=len(part.clips),
        tokens=sum(clip.span.num_tokens for clip in part.clips),
        bytes=sum(clip.span.size_bytes for clip in part.clips),
        gaps=[gap for gap in part.gaps if not gap.is_footage],
    )
