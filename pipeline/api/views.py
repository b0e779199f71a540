"""What a stream looks like from outside: its facts for the command line and for a service.

Status is told from the lease, not remembered: a session that was killed cannot say so itself.
Knows of no terminal and of no JSON.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.ingest.lease import is_lease_held, is_writer_alive
from pipeline.store import ClipStore
from pipeline.values.types import BrokenStream, Gap, StreamInfo, StreamOverview, StreamStatus

ShownStatus = StreamStatus | Literal["interrupted", "broken", "waiting", "waiting: store"]


@dataclass(frozen=True)
class GapSum:
    """Gaps of one reason."""

    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class StreamView:
    """A stream's state and size."""

    stream_id: str
    status: ShownStatus
    """`waiting: store` where the writer lives and its lease ended: it is not back yet from an
    outage of the store. `waiting` where nothing is stored of a stream that a cluster's sessions are
    to read, `interrupted` where a session was begun and nobody writes any more,
    `broken` where the store has what does not read."""
    error: str | None
    clips: int = 0
    start_s: float = 0.0
    end_s: float = 0.0
    footage_s: float = 0.0
    tokens: int = 0
    tokens_per_s: float = 0.0
    bytes: int = 0
    bytes_per_hour: float = 0.0
    coverage: float = 0.0
    """Footage over the time from start to end; a held stretch is footage."""
    gaps: int = 0
    """Stretches without footage."""
    held_s: float = 0.0
    """Seconds in which the source was seen and nothing changed."""


def view_stream(store: ClipStore, stream_id: str) -> StreamView:
    """The facts of one stream.

    Raises:
        UnknownStream: there is none of that id.
    """
    return view_overview(store, store.get_overview(stream_id))


def view_streams(store: ClipStore) -> Iterator[StreamView]:
    """All streams; one that is removed meanwhile is passed over, one that does not read is shown
    as `broken` and hides no other."""
    return (view_overview(store, overview) for overview in store.iter_overviews())


def view_overview(store: ClipStore, overview: StreamOverview | BrokenStream) -> StreamView:
    """The same of a stream that was read already."""
    if isinstance(overview, BrokenStream):
        return StreamView(overview.stream_id, "broken", overview.error)
    info, totals = overview.info, overview.totals
    footage_s, length_s = totals.footage_s, totals.end_s - totals.start_s
    seen_s = footage_s + totals.held_s
    return StreamView(
        stream_id=info.stream_id,
        status=shown_status(store, info),
        error=info.error,
        clips=totals.clips,
        start_s=totals.start_s,
        end_s=totals.end_s,
        footage_s=footage_s,
        tokens=totals.tokens,
        tokens_per_s=totals.tokens / footage_s if footage_s else 0.0,
        bytes=totals.size_bytes,
        bytes_per_hour=totals.size_bytes / footage_s * 3600 if footage_s else 0.0,
        coverage=min(1.0, seen_s / length_s) if length_s > 0 else 0.0,
        gaps=overview.num_gaps - totals.held,
        held_s=totals.held_s,
    )


def gaps_by_reason(gaps: Iterable[Gap]) -> dict[str, GapSum]:
    """How many of each reason, and how long they are together; by reason."""
    sums: dict[str, GapSum] = {}
    for gap in sorted(gaps, key=lambda gap: gap.reason):
        before = sums.get(gap.reason, GapSum())
        sums[gap.reason] = GapSum(before.count + 1, before.seconds + gap.end_s - gap.start_s)
    return sums


def shown_status(store: ClipStore, info: StreamInfo) -> ShownStatus:
    """The stored status, unless it says `running` and nobody writes."""
    if info.status == "running" and not is_lease_held(store, info.stream_id):
        return "waiting: store" if is_writer_alive(info.writer) else "interrupted"
    return info.status
