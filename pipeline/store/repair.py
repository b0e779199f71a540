"""A stream with clips that are lost, damaged or failed, made ready for an ingest to fill them in.

The store cannot make a clip anew; an ingest can, and goes on behind the position. So the position
goes back to the last clip before the first that is missing, and rows that lead nowhere are dropped.
What lies behind is found to be there when it comes again. Knows of no source.
"""

from dataclasses import dataclass, replace

from pipeline.store.base import ClipStore
from pipeline.store.checks import in_order
from pipeline.store.expiry import holds_clip
from pipeline.store.levels import nodes_of
from pipeline.store.writes import REFILLED
from pipeline.values.types import ClipSpan, Gap, Lease, Position


@dataclass(frozen=True)
class Repaired:
    """What was found, and where an ingest goes on."""

    stream_id: str
    damaged: int
    """Index rows dropped: their value was gone or was not what was written."""
    failed: int
    """Gaps of clips that failed and will be tried again."""
    goes_on_at_s: float | None
    """Where the next ingest begins; None where nothing is missing."""


def repair(store: ClipStore, lease: Lease) -> Repaired:
    """Drop what does not read, and have the next ingest begin at the first clip that is missing.

    Reads every record. A stream with nothing missing stays as it is. Raises `UnknownStream`,
    `LeaseLost`.
    """
    stream_id = lease.stream_id
    info, report = store.get_info(stream_id), store.verify(stream_id)
    if report.bad_levels:
        found = store.find_levels(nodes_of(store.iter_spans(stream_id)))
        store.remove_levels(node for node, read in store.iter_levels(found) if read is None)
    failed = [gap for gap in store.list_gaps(stream_id) if gap.reason == REFILLED]
    damaged = {span for span, _ in report.corrupt}
    num_damaged = len(damaged) + len(report.bad_rows)
    if not num_damaged and not failed:
        return Repaired(stream_id, 0, 0, None)
    sound = [span for span in store.list_spans(stream_id) if span not in damaged]
    gaps = store.list_gaps(stream_id)
    last = _last_before_hole(sound, gaps, starts_at_0=_is_first(failed, sound) or not sound)
    position = None
    if last is not None:
        clip = store.get_clip(last)
        position = Position(last.epoch, last.index, last.end_s, clip.pts_s[-1])
    store.rewind(lease, position=position, drop=damaged)
    error = f"Repaired: {num_damaged} damaged and {len(failed)} failed clips; ingest again"
    store.put_info(replace(info, status="paused", error=error), lease=lease)
    return Repaired(stream_id, num_damaged, len(failed), last.end_s if last else 0.0)


def _is_first(failed: list, sound: list[ClipSpan]) -> bool:
    return bool(failed and sound) and failed[0].start_s < sound[0].start_s


def _last_before_hole(
    sound: list[ClipSpan], gaps: list[Gap], *, starts_at_0: bool
) -> ClipSpan | None:
    """The last clip of those that follow each other; indexes count across epochs.

    Clips that were removed on purpose are no hole.
    """
    last, expected = None, 0 if starts_at_0 or not sound else min(sound, key=in_order).index
    for span in sorted(sound, key=in_order):
        while expected < span.index and holds_clip(gaps, expected):
            expected += 1
        if span.index != expected:
            return last
        last, expected = span, expected + 1
    return last
