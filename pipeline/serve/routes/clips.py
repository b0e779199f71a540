"""Clips: index rows, records as Arrow, and what of a range has footage."""

from dataclasses import dataclass
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from pipeline.serve.asking import Window, look_up_window, require_stream
from pipeline.serve.routes.needs import ERRORS, Reader, ServiceOf, StreamName
from pipeline.store.arrow import record_body
from pipeline.store.keys import record_id
from pipeline.values.errors import MissingValue, UnknownClip
from pipeline.values.types import ClipSpan, Gap

router = APIRouter(prefix="/v1/streams/{stream_id}", tags=["clips"], responses=ERRORS)

ARROW = "application/vnd.apache.arrow.stream"
MAX_ROWS = 5000
Bound = Annotated[str | None, Query(max_length=128)]
ClipKey = Annotated[str, Path(pattern=r"^[0-9]{1,9}-[0-9]{1,12}$")]
"""`EPOCH-INDEX`."""


@dataclass(frozen=True)
class ClipList:
    """Index rows of a range, in order."""

    clips: list[ClipSpan]
    more: bool
    """Whether there are more behind the last of these: ask on with `start` at its end."""


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


@router.get("/clips")
def list_clips(
    stream_id: StreamName,
    service: ServiceOf,
    caller: Reader,
    start: Bound = None,
    end: Bound = None,
    limit: Annotated[int, Query(ge=1, le=MAX_ROWS)] = 1000,
) -> ClipList:
    """The clips of a range, from the index alone."""
    require_stream(service.store, caller, stream_id)
    if start is None and end is None:
        found = list(islice(service.store.iter_spans(stream_id), limit + 1))
    else:
        part = look_up_window(
            service.store, service.settings, caller, Window(stream_id, start, end)
        )
        found = [clip.span for clip in part.clips[: limit + 1]]
    return ClipList(found[:limit], len(found) > limit)


@router.get(
    "/clips/{key}",
    response_class=Response,
    responses={200: {"content": {ARROW: {}}}},
)
def get_clip(stream_id: StreamName, key: ClipKey, service: ServiceOf, caller: Reader) -> Response:
    """One record, verified: an Arrow IPC stream, a row a token."""
    require_stream(service.store, caller, stream_id)
    epoch, _, index = key.partition("-")
    span = ClipSpan(stream_id, int(epoch), int(index), 0.0, 0.0, 0, 0)
    try:
        blob = service.store.get_record(span)
    except MissingValue:
        raise UnknownClip(f"{stream_id} has no clip {key}; see its list of clips") from None
    body = bytes(record_body(blob, key=record_id(stream_id, span.epoch, span.index)))
    return Response(body, media_type=ARROW)


@router.get("/coverage")
def get_coverage(
    stream_id: StreamName,
    service: ServiceOf,
    caller: Reader,
    start: Bound = None,
    end: Bound = None,
    last: Bound = None,
) -> Coverage:
    """How much of a range has footage, and why the rest has none."""
    part = look_up_window(
        service.store, service.settings, caller, Window(stream_id, start, end, last)
    )
    clock = part.timeline.clock
    first, until = clock.local(part.start_s), clock.local(part.end_s)
    return Coverage(
        stream_id=stream_id,
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
