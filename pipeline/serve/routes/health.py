"""Whether the service is there, ready, and what it counts."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from pipeline.serve.errors import headers_of
from pipeline.serve.routes.needs import ERRORS, Reader, ServiceOf
from pipeline.values.errors import NotAllowed, PipelineError

router = APIRouter(tags=["health"])


@router.get("/v1/health/live")
@router.get("/healthz", include_in_schema=False)
def live() -> dict[str, str]:
    """Answers while the process does."""
    return {"status": "ok"}


@router.get("/v1/health/ready", responses={503: ERRORS[503]})
@router.get("/readyz", include_in_schema=False)
def ready(service: ServiceOf) -> Response:
    """Whether questions can be answered: the store is there and the model is loaded.

    A model that is `asleep` is loaded for the next question, which waits for it.
    """
    state: dict[str, str] = {"store": "ok", "model": service.answers.state}
    if service.load_error is not None and state["model"] == "loading":
        state["model"] = getattr(service.load_error, "code", type(service.load_error).__name__)
    try:
        service.store.list_streams()
    except PipelineError as error:
        state["store"] = error.code
    status = 200 if set(state.values()) <= {"ok", "asleep"} else 503
    return JSONResponse(state, status, headers=dict(headers_of(status)))


@router.get("/metrics", responses=ERRORS, response_class=Response)
def metrics(service: ServiceOf, caller: Reader) -> Response:
    """Prometheus text; for keys of all streams, as it names them."""
    if caller.streams:
        raise NotAllowed("the key is for some streams; metrics are of all")
    return Response(service.metrics.expose(), media_type=service.metrics.content_type)
