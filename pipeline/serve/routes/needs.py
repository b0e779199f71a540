"""What routes ask for by their arguments: the service, and a caller who may do this."""

import asyncio
from typing import Annotated, Any

from fastapi import Depends, Path, Request

from pipeline.serve.keys import Key, Scope, require_scope
from pipeline.serve.service import Service
from workers.names import STREAM_ID

ERRORS: dict[int | str, dict[str, object]] = {
    status: {"description": text, "content": {"application/json": {"schema": {"type": "object"}}}}
    for status, text in {
        401: "No valid key.",
        403: "The key may not do this.",
        404: "No such stream, or none that the key may see.",
        413: "Body or question too large; says what is permitted.",
        422: "What was asked cannot be; says what was expected.",
        429: "Too fast, or too many at one time; says when to ask again.",
        503: "The store or the model is away.",
    }.items()
}
"""What every route may answer beside its own."""


def _service(request: Request) -> Service:
    return request.app.state.service


def _caller_with(scope: Scope):
    def check(request: Request) -> Key:
        key: Key = request.state.caller
        require_scope(key, scope)
        return key

    return check


def _gone(request: Request) -> asyncio.Future[Any]:
    return request.state.gone


ServiceOf = Annotated[Service, Depends(_service)]
Reader = Annotated[Key, Depends(_caller_with("read"))]
Ingester = Annotated[Key, Depends(_caller_with("ingest"))]
Gone = Annotated[asyncio.Future[Any], Depends(_gone)]
"""Done once the client has left."""
Admin = Annotated[Key, Depends(_caller_with("admin"))]
StreamName = Annotated[str, Path(pattern=rf"^{STREAM_ID.pattern}$")]
