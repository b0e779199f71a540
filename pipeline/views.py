"""What a stream looks like from outside: its facts for the command line and for a service.

Status is told from the lease, not remembered: a session that was killed cannot say so itself.
Knows of no terminal and of no JSON.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.ask.retrieval import covered_s
from pipeline.errors import UnknownStream
from pipeline.ingest.lease import is_lease_held
from pipeline.store import ClipStore
from pipeline.types import StreamInfo, StreamStatus

ShownStatus = StreamStatus | Literal["interrupted"]


@dataclass(frozen=True)
class StreamView:
    """A stream's state and size."""

    stream_id: str
    status: ShownStatus
    """`interrupted` where a session was begun and nobody writes any more."""
    error: str | None
    clips: int
    start_s: float
    end_s: float
    footage_s: float
    tokens: int
    tokens_per_s: float
    bytes: int
    bytes_per_hour: float
    coverage: float
    """Footage over the time from start to end."""
    gaps: int


def view_stream(store: ClipStore, stream_id: str) -> StreamView:
    """The facts of one stream.

    Raises:
        UnknownStream: there is none of that id.
    """
    info, spans = store.get_info(stream_id), store.list_spans(stream_id)
    footage_s = covered_s(spans, None, None)
    end_s = max((span.end_s for span in spans), default=0.0)
    start_s = min((span.start_s for span in spans), default=0.0)
    size_bytes = sum(span.size_bytes for span in spans)
    num_tokens = sum(span.num_tokens for span in spans)
    return StreamView(
        stream_id=stream_id,
        status=shown_status(store, info),
        error=info.error,
        clips=len(spans),
        start_s=start_s,
        end_s=end_s,
        footage_s=footage_s,
        tokens=num_tokens,
        tokens_per_s=num_tokens / footage_s if footage_s else 0.0,
        bytes=size_bytes,
        bytes_per_hour=size_bytes / footage_s * 3600 if footage_s else 0.0,
        coverage=min(1.0, footage_s / (end_s - start_s)) if end_s > start_s else 0.0,
        gaps=len(store.list_gaps(stream_id)),
    )


def view_streams(store: ClipStore) -> Iterator[StreamView]:
    """All streams; one that is removed meanwhile is passed over."""
    for stream_id in store.list_streams():
        try:
            yield view_stream(store, stream_id)
        except UnknownStream:
            continue


def shown_status(store: ClipStore, info: StreamInfo) -> ShownStatus:
    """The stored status, unless it says `running` and nobody writes."""
    if info.status == "running" and not is_lease_held(store, info.stream_id):
        return "interrupted"
    return info.status
