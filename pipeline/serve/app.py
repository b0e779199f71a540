"""The application: routes, errors in one shape, the gate around them."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from aot.errors import AOTError
from pipeline.serve.errors import envelope, explain, headers_of
from pipeline.serve.gate import Gate
from pipeline.serve.mcp import create_mcp, create_mcp_app
from pipeline.serve.routes import ask, clips, health, streams, watches
from pipeline.serve.service import Service
from pipeline.values.errors import PipelineError
from pipeline.values.plain import one_line
from workers.errors import WorkerError

logger = logging.getLogger(__name__)

ROUTERS = (health.router, streams.router, clips.router, watches.router, ask.router)


def create_app(service: Service) -> Gate:
    """The service as an ASGI application."""
    agents = create_mcp(service, may_write=service.settings.serve.mcp_writes)
    agents_app = create_mcp_app(agents)

    @asynccontextmanager
    async def run_agents(api: FastAPI) -> AsyncIterator[None]:
        async with agents.session_manager.run():
            yield

    api = FastAPI(
        title="aot-stream",
        summary="Questions about any window of any stream, answered from cached visual tokens.",
        version="1",
        docs_url=None,  # its page would load scripts of another site
        redoc_url=None,
        lifespan=run_agents,
        separate_input_output_schemas=False,
    )
    api.state.service = service
    for router in ROUTERS:
        api.include_router(router)
    api.router.routes.extend(agents_app.routes)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(Exception, _failed)
    for base in (AOTError, PipelineError, WorkerError):  # answered, and not raised on as the rest
        api.add_exception_handler(base, _failed)
    return Gate(api, service)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    status, body = explain(error)
    return _answer(status, body)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Which field is wrong and why; not what it held."""
    assert isinstance(error, RequestValidationError)
    [first, *others] = error.errors()
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    more = f" (and {len(others)} more)" if others else ""
    text = one_line(ValueError(f"{place or 'body'}: {first['msg']}{more}"))[:400]
    return _answer(422, envelope(422, "InvalidRequest", text, param=place[:100] or None))


async def _http(request: Request, error: Exception) -> JSONResponse:
    """No such route or method; a body that does not parse at all."""
    assert isinstance(error, HTTPException)
    status = 422 if error.status_code == 400 else error.status_code
    code = {404: "NoSuchRoute", 405: "NoSuchMethod"}.get(status, "InvalidRequest")
    return _answer(status, envelope(status, code, str(error.detail)), error.headers)


def _answer(status: int, body: Any, headers: Any = None) -> JSONResponse:
    return JSONResponse(body, status, headers={**(headers or {}), **headers_of(status)})
