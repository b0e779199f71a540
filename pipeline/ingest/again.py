"""What of a begun stream is read again: clips that failed, and stretches that were missing.

A clip that no worker could compress may succeed in a later run; where a source was cut or a store
lost clips, what is missing may be there now. Knows of no session.
"""

from pipeline.store import ClipStore
from pipeline.values.types import ClipSpan, Gap, Lease, Position

MISSING = ("truncated", "store", "failed")
"""Reasons of gaps that say nothing of what is read again from before them."""


def has_failed_clips(store: ClipStore, stream_id: str) -> bool:
    """Whether a clip behind which others are stored could not be compressed."""
    return any(gap.reason == "failed" for gap in store.list_gaps(stream_id))


def read_again(store: ClipStore, lease: Lease) -> None:
    """Have the stream go on behind the last clip before which none failed.

    Clips that are there already are found to be there when they come again. Gaps behind that clip
    are told again where they still are.
    """
    stream_id = lease.stream_id
    position, gaps = store.get_position(stream_id), store.list_gaps(stream_id)
    failed = [gap for gap in gaps if gap.reason == "failed" and _is_before(gap, position)]
    if failed:
        first = min(failed, key=_place)
        position = _end_before(store, store.list_spans(stream_id), first)
        store.rewind(lease, position=position)
    for gap in gaps:
        if gap.reason in MISSING and gap not in failed and not _is_before(gap, position):
            store.remove_gap(gap, lease)


def _place(gap: Gap) -> tuple[int, float]:
    return gap.epoch, gap.start_s


def _is_before(gap: Gap, position: Position | None) -> bool:
    """Whether the gap lies before a stream's end."""
    return position is not None and _place(gap) < (position.epoch, position.end_s - 1e-6)


def _end_before(store: ClipStore, spans: list[ClipSpan], gap: Gap) -> Position | None:
    """Where the last clip before a gap ends; None where there is none."""
    before = [span for span in spans if (span.epoch, span.start_s) < _place(gap)]
    if not before:
        return None
    last = before[-1]
    clip = store.get_clip(last)
    return Position(last.epoch, last.index, last.end_s, clip.pts_s[-1])
