"""Streams: what there is, what is being brought in, begin and end."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter

from pipeline.api import sessions
from pipeline.api.shared import Reading, look_up_reading
from pipeline.api.views import StreamView, view_stream, view_streams
from pipeline.ingest.request import IngestRequest
from pipeline.serve.asking import require_stream
from pipeline.serve.keys import Key
from pipeline.serve.routes.needs import ERRORS, Admin, Ingester, Reader, ServiceOf, StreamName
from pipeline.serve.schemas import NewStream, Resumption
from pipeline.serve.service import Service
from pipeline.values.errors import Conflict, NotAllowed, NotReadYet, UnknownStream
from pipeline.values.times import parse_zone
from pipeline.values.types import DeletedCounts
from workers.types import VideoSource

router = APIRouter(prefix="/v1/streams", tags=["streams"], responses=ERRORS)


@dataclass(frozen=True)
class StreamList:
    """All streams that a key may see."""

    streams: list[StreamView]


@dataclass(frozen=True)
class ShownStream(StreamView):
    """A stream's state and size."""

    shared: Reading | None = None
    """Of one that a cluster's sessions share: whether one reads it, and what it waits for."""


@dataclass(frozen=True)
class Accepted:
    """What was begun or ended."""

    stream_id: str
    status: Literal["starting", "stopped"]


@router.get("")
def list_streams(service: ServiceOf, caller: Reader) -> StreamList:
    """The streams in the store, each with its size and state."""
    views = view_streams(service.store)
    return StreamList([view for view in views if caller.sees(view.stream_id)])


@router.post("", status_code=202, responses={409: {"description": "It is there, or written."}})
def create_stream(body: NewStream, service: ServiceOf, caller: Ingester) -> Accepted:
    """Begin to bring a source in: a network URL, or a file below the folders of `ingest.roots`."""
    _require_own(caller, body.stream_id)
    if body.zone is not None:
        parse_zone(body.zone)
    settings = service.settings.ingest
    rate = settings.fps if body.fps is None else body.fps
    source = VideoSource(body.url, body.stream_id, rate, max_hold_s=settings.max_hold_s)
    service.sessions.start(IngestRequest(source, zone=body.zone))
    return Accepted(body.stream_id, "starting")


@router.get("/{stream_id}")
def show_stream(stream_id: StreamName, service: ServiceOf, caller: Reader) -> ShownStream:
    """One stream; also one that is starting, is waited for, or ended before its first clip."""
    end = service.sessions.end_of(stream_id)
    try:
        require_stream(service.store, service.settings, caller, stream_id)
    except NotReadYet:
        return ShownStream(stream_id, "waiting", None, shared=_look_up(service, stream_id))
    except UnknownStream:
        if not caller.sees(stream_id):
            raise
        if end is not None:
            return ShownStream(stream_id, "failed", f"{end.code}: {end.message}")
        if service.sessions.is_running(stream_id):
            return ShownStream(stream_id, "running", None)
        raise
    view = view_stream(service.store, stream_id)
    return ShownStream(**vars(view), shared=_look_up(service, stream_id))


@router.delete("/{stream_id}")
def delete_stream(stream_id: StreamName, service: ServiceOf, caller: Admin) -> DeletedCounts:
    """End what brings it in, and remove all its records."""
    _require_known(service, caller, stream_id)
    service.sessions.stop(stream_id)
    return sessions.remove(service.settings, stream_id)


@router.post("/{stream_id}:pause", responses={409: {"description": "Nobody brings it in."}})
def pause_stream(stream_id: StreamName, service: ServiceOf, caller: Ingester) -> Accepted:
    """End what brings it in; what is stored stays."""
    _require_known(service, caller, stream_id)
    if service.sessions.stop(stream_id):
        return Accepted(stream_id, "stopped")
    state = sessions.pause_shared(service.settings, stream_id)
    if state is None:
        require_stream(service.store, service.settings, caller, stream_id)
        if not service.settings.ray.enabled:
            raise Conflict(f"{stream_id} is not brought in by this service; nothing to pause")
        service.sessions.pause_detached(stream_id)
    if state == "stopping":
        raise Conflict(f"{stream_id} is still read; see whether its cluster's sessions live")
    return Accepted(stream_id, "stopped")


@router.post("/{stream_id}:resume", status_code=202)
def resume_stream(
    stream_id: StreamName, service: ServiceOf, caller: Ingester, body: Resumption | None = None
) -> Accepted:
    """Go on with a stream as it was begun, behind what is stored."""
    _require_known(service, caller, stream_id)
    url = None if body is None else body.url
    if sessions.resume_shared(service.settings, stream_id, url):
        return Accepted(stream_id, "starting")
    require_stream(service.store, service.settings, caller, stream_id)
    settings, request = sessions.prepare_resume(service.settings, stream_id, url)
    service.sessions.start(request, settings)
    return Accepted(stream_id, "starting")


def _require_known(service: Service, caller: Key, stream_id: str) -> None:
    """A stream that is stored, or that a cluster's sessions are to read."""
    with suppress(NotReadYet):
        require_stream(service.store, service.settings, caller, stream_id)


def _look_up(service: Service, stream_id: str) -> Reading | None:
    return look_up_reading(service.store, stream_id, service.settings)


def _require_own(caller: Key, stream_id: str) -> None:
    if not caller.sees(stream_id):
        raise NotAllowed("the key is not for a stream of that name")
