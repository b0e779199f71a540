"""Questions: our own shape, OpenAI's, and where in a range something is."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response, StreamingResponse

from pipeline.ask.answer import Answer, Piece
from pipeline.ask.search import SearchResult
from pipeline.serve.asking import Asked, Window
from pipeline.serve.chat import Completion, event, read_chat
from pipeline.serve.errors import explain
from pipeline.serve.evidence import Evidence
from pipeline.serve.routes.needs import ERRORS, Gone, Reader, ServiceOf
from pipeline.serve.schemas import Ask, Chat, Search, WindowBody
from pipeline.serve.service import Service
from pipeline.values.errors import UnknownModel

router = APIRouter(tags=["questions"], responses=ERRORS)

EVENTS = "text/event-stream"
LOOK_S = 1.0
SAY_S = 5.0
"""Between two comments to a reader whose answer is not begun."""
WAITING = ": no answer worker is there; one is loading its model\n\n"
"""A comment of SSE, which clients pass over and proxies take for life."""
ANY_MODEL = "aot"
"""A name that whatever model is loaded answers to."""


@dataclass(frozen=True)
class Answered:
    """An answer, what it rests on and what it cost."""

    answer: str
    model: str
    evidence: Evidence


@router.post("/v1/ask")
async def ask(body: Ask, service: ServiceOf, caller: Reader, gone: Gone) -> Answered:
    """A question about windows of streams; the answer with its evidence and its cost."""
    asked = Asked(body.question, _windows(body), body.options.model_dump())
    written = await service.answer(caller, asked, gone)
    return Answered(written.answer.text, service.model_name, written.evidence)


@router.post("/v1/search")
async def search(body: Search, service: ServiceOf, caller: Reader, gone: Gone) -> SearchResult:
    """The clips of windows of streams that matter most for a question, with their scores."""
    return await service.search(caller, Asked(body.question, _windows(body)), body.top, gone)


def _windows(body: Ask | Search) -> list[Window]:
    shared = (body.start, body.end, body.last)
    return [
        Window(**one.model_dump()) if isinstance(one, WindowBody) else Window(one, *shared)
        for one in body.streams
    ]


@router.get("/v1/models")
def list_models(service: ServiceOf, caller: Reader) -> dict[str, Any]:
    """The one that answers."""
    return {"object": "list", "data": [_describe(service)]}


@router.get("/v1/models/{model:path}")
def get_model(model: str, service: ServiceOf, caller: Reader) -> dict[str, Any]:
    """What answers to this name."""
    _require_model(service, model)
    return _describe(service)


@router.post("/v1/chat/completions", response_class=Response)
async def chat(body: Chat, service: ServiceOf, caller: Reader, gone: Gone) -> Response:
    """OpenAI's chat completions; the windows are `video_url` parts: `stream://NAME?last=10m`."""
    _require_model(service, body.model)
    asked = read_chat(body)
    limit = asked.options.get("max_new_tokens") or service.settings.ask.max_new_tokens
    completion = Completion(service.model_name, limit)
    if not body.stream:
        written = await service.answer(caller, asked, gone)
        return JSONResponse(completion.whole(written.answer, written.evidence))
    parts = service.stream(caller, asked, gone)
    first = asyncio.ensure_future(anext(parts))
    try:
        await _await_first(service, first)
    except BaseException:
        await _give_up(first)
        await parts.aclose()
        raise
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    events = _events(service, completion, first, parts, with_usage)
    return StreamingResponse(events, media_type=EVENTS, headers={"Cache-Control": "no-store"})


async def _await_first(service: Service, first: asyncio.Future[Piece | Answer]) -> None:
    """Until there is something of an answer, or a model is loaded for it and none answers.

    What is wrong with a question is raised, and so told by the status.
    """
    while not (await asyncio.wait({first}, timeout=LOOK_S))[0]:
        if service.answers.is_waking:
            return
    first.result()


async def _events(
    service: Service,
    completion: Completion,
    first: asyncio.Future[Piece | Answer],
    parts: AsyncGenerator[Piece | Answer],
    with_usage: bool,
) -> AsyncIterator[str]:
    """Chunks as they are written; whoever leaves stops the answer."""
    async with contextlib.aclosing(parts):
        try:
            while not first.done():
                yield WAITING
                await asyncio.wait({first}, timeout=SAY_S)
            part = first.result()
            yield completion.begin()
            while isinstance(part, Piece):
                yield completion.piece(part.text)
                part = await anext(parts)
            written = await service.weigh(part)
            for chunk in completion.end(part, written.evidence, with_usage=with_usage):
                yield chunk
        except Exception as error:
            yield event(explain(error)[1])
        finally:
            await _give_up(first)


async def _give_up(first: asyncio.Future[Piece | Answer]) -> None:
    """Before a generator is closed it must be left."""
    if not first.done():
        first.cancel()
        await asyncio.wait({first})


def _describe(service: Service) -> dict[str, Any]:
    return {"id": service.model_name, "object": "model", "created": 0, "owned_by": "aot-stream"}


def _require_model(service: Service, name: str) -> None:
    if name not in (ANY_MODEL, service.model_name):
        raise UnknownModel(
            f"no model of that name answers here, expected {service.model_name!r} or {ANY_MODEL!r}"
        )
