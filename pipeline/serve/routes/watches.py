"""Standing questions of a stream, and what they found: as a list, or as it is found."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse

from pipeline.serve.asking import require_stream
from pipeline.serve.routes.needs import ERRORS, Ingester, Reader, ServiceOf, StreamName
from pipeline.serve.schemas import NewWatch
from pipeline.serve.service import Service
from pipeline.serve.watching import begin_watch
from pipeline.serve.webhooks import require_webhook
from pipeline.values.watch import WATCH_ID, Event, Watch, without_secret

router = APIRouter(prefix="/v1/streams/{stream_id}", tags=["watches"], responses=ERRORS)

EVENTS = "text/event-stream"
LOOK_S = 0.5
QUIET_S = 15.0
"""After so long without an event a comment is sent: whoever listens knows that it is there."""
Mark = Annotated[str, Query(pattern=r"^[0-9]{1,20}(-[0-9]{1,20})?$")]
WatchName = Annotated[str, Path(pattern=rf"^{WATCH_ID.pattern}$")]


@dataclass(frozen=True)
class WatchList:
    """The standing questions of a stream."""

    watches: list[Watch]


@dataclass(frozen=True)
class Removed:
    """What is asked no more."""

    watch_id: str


@router.get("/watches")
def list_watches(stream_id: StreamName, service: ServiceOf, caller: Reader) -> WatchList:
    """What is asked of every new clip."""
    require_stream(service.store, service.settings, caller, stream_id)
    return WatchList([without_secret(watch) for watch, _ in service.store.list_watches(stream_id)])


@router.post("/watches", status_code=201, responses={409: {"description": "It is there."}})
def add_watch(stream_id: StreamName, body: NewWatch, service: ServiceOf, caller: Ingester) -> Watch:
    """Ask a question of every clip from now on."""
    require_stream(service.store, service.settings, caller, stream_id)
    watch = Watch(stream_id=stream_id, **body.model_dump())
    require_webhook(service.settings, watch.webhook)
    begin_watch(service.store, watch)
    return without_secret(watch)


@router.delete("/watches/{watch_id}")
def remove_watch(
    stream_id: StreamName, watch_id: WatchName, service: ServiceOf, caller: Ingester
) -> Removed:
    """Ask it no more; its events stay."""
    require_stream(service.store, service.settings, caller, stream_id)
    service.store.remove_watch(stream_id, watch_id)
    return Removed(watch_id)


@router.get(
    "/events",
    response_class=Response,
    responses={200: {"content": {EVENTS: {}, "application/json": {}}}},
)
def list_events(
    stream_id: StreamName,
    service: ServiceOf,
    caller: Reader,
    after: Mark | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str | None, Header(pattern=r"^[0-9]{1,20}(-[0-9]{1,20})?$")] = None,
) -> Response:
    """What was found, in order; with `Accept: text/event-stream` as it is found, without end.

    `after`, or the header that a browser sends when it connects again, goes on behind an event.
    """
    require_stream(service.store, service.settings, caller, stream_id)
    mark = after or last_event_id
    if EVENTS in accept:
        told = _tell(service, stream_id, mark)
        return StreamingResponse(told, media_type=EVENTS, headers={"Cache-Control": "no-store"})
    found = service.store.list_events(stream_id, after=mark, limit=limit)
    return JSONResponse({"events": [{"mark": at, **asdict(event)} for at, event in found]})


async def _tell(service: Service, stream_id: str, mark: str | None) -> AsyncIterator[str]:
    quiet_s = 0.0
    while not service.ending.is_set():
        found = await asyncio.to_thread(service.store.list_events, stream_id, after=mark)
        for at, event in found:
            mark, quiet_s = at, 0.0
            yield _as_event(at, event)
        if not found:
            await asyncio.sleep(LOOK_S)
            quiet_s += LOOK_S
        if quiet_s >= QUIET_S:
            quiet_s = 0.0
            yield ": still here\n\n"


def _as_event(mark: str, event: Event) -> str:
    return f"id: {mark}\nevent: {event.kind}\ndata: {json.dumps(asdict(event))}\n\n"
