"""Errors as OpenAI's clients read them: a status and an envelope, from an error's `kind`."""

import logging
from collections.abc import Mapping
from typing import Any

from pipeline.values.errors import TooManyRequests, kind_of
from pipeline.values.plain import one_line
from workers.errors import SourceError

logger = logging.getLogger(__name__)

STATUS = {
    "usage": 422,
    "no_footage": 422,
    "not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "refused": 403,
    "busy": 429,
    "unavailable": 503,
    "failed": 500,
    "internal": 500,
}
"""By the kind of the error."""
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
"""By status; other 4xx are `invalid_request_error`, other 5xx `server_error`."""
UNAUTHORISED = "no valid key; send one: `Authorization: Bearer aot_...`"
RETRY_S = "1"


def status_of(error: BaseException) -> int:
    """The status that answers an error."""
    if isinstance(error, SourceError):  # what was asked to be brought in, not what failed here
        return 422
    return STATUS[kind_of(error)]


def envelope(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    fallback = "server_error" if status >= 500 else "invalid_request_error"
    kind = TYPES.get(status, fallback)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def explain(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body; of what is no error of ours only that it happened, the rest is logged."""
    status = status_of(error)
    if kind_of(error) == "internal":
        logger.error("a request failed", exc_info=error)
        return 500, envelope(500, "InternalError", "the service failed; see its log")
    return status, envelope(status, getattr(error, "code", "Error"), one_line(error))


def headers_of(status: int) -> Mapping[str, str]:
    """What goes with an error's status."""
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": RETRY_S} if status in (429, 503) else {}


def busy_error(what: str) -> TooManyRequests:
    """Refused for now."""
    return TooManyRequests(f"{what}; ask again in a moment")
