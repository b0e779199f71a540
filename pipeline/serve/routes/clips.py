"""Clips: index rows, records as Arrow, and what of a range has footage."""

from dataclasses import dataclass
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from pipeline.serve.asking import Window, look_up_window, require_stream
from pipeline.serve.clips import ARROW, CLIP_KEY, read_body
from pipeline.serve.coverage import Coverage, measure_coverage
from pipeline.serve.routes.needs import ERRORS, Reader, ServiceOf, StreamName
from pipeline.values.types import ClipSpan

router = APIRouter(prefix="/v1/streams/{stream_id}", tags=["clips"], responses=ERRORS)

MAX_ROWS = 5000
Bound = Annotated[str | None, Query(max_length=128)]
ClipKey = Annotated[str, Path(pattern=rf"^{CLIP_KEY.pattern}$")]


@dataclass(frozen=True)
class ClipList:
    """Index rows of a range, in order."""

    clips: list[ClipSpan]
    more: bool
    """Whether there are more behind the last of these: ask on with `start` at its end."""


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
    require_stream(service.store, service.settings, caller, stream_id)
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
    require_stream(service.store, service.settings, caller, stream_id)
    return Response(read_body(service.store, stream_id, key), media_type=ARROW)


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
    window = Window(stream_id, start, end, last)
    return measure_coverage(service.store, service.settings, caller, window)
