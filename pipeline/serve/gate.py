"""Before any route: who asks, how much, how fast, how many at one time.

An ASGI layer of its own, so that nothing is parsed, and no body read, for whoever has no key. The
caller is handed on in the request's state; what one may do there is the routes' to say.
"""

import asyncio
import ipaddress
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pipeline.serve.errors import UNAUTHORISED, envelope, headers_of
from pipeline.serve.keys import Key
from pipeline.serve.service import Service
from pipeline.values.errors import NotAllowed

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/healthz", "/readyz", "/v1/health/live", "/v1/health/ready"})
"""Without a key: they say nothing but that the service is there."""
MAX_BUCKETS = 10_000


class Buckets:
    """How fast each caller may ask: a token bucket each (as many at once as in two seconds)."""

    def __init__(self, rate_per_s: float) -> None:
        self._rate, self._size = rate_per_s, max(1.0, 2 * rate_per_s)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, now_s: float) -> bool:
        """Whether one more may come now."""
        left, since_s = self._left.pop(name, (self._size, now_s))
        left = min(self._size, left + (now_s - since_s) * self._rate)
        self._left[name] = (left - (left >= 1), now_s)
        if len(self._left) > MAX_BUCKETS:
            self._left.popitem(last=False)
        return left >= 1


class Gate:
    """The layer around the routes."""

    def __init__(self, app: App, service: Service) -> None:
        self._app, self._service = app, service
        self._limits = service.settings.serve
        self._buckets = Buckets(self._limits.requests_per_s)
        self.num_inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        try:
            caller = self._find_caller(headers)
        except NotAllowed:
            await refuse(send, 401, "InvalidKey", UNAUTHORISED)
            return
        if self._service.is_open and not _is_of_here(headers.get(b"host", "")):
            await refuse(send, 403, "NotAllowed", "asked by a name that is not of this machine")
            return
        if not self._buckets.take(caller.key_id, time.monotonic()):
            await refuse(send, 429, "TooManyRequests", "too many requests; ask more slowly")
            return
        body = await _read_body(headers, receive, int(self._limits.max_body))
        if body is None:
            text = f"the body is too large, expected at most {int(self._limits.max_body)} bytes"
            await refuse(send, 413, "BodyTooLarge", text)
            return
        if self.num_inside >= self._limits.max_requests:
            await refuse(send, 429, "TooManyRequests", "too many requests are being answered")
            return
        self.num_inside += 1
        gone = asyncio.ensure_future(receive())  # nothing comes after the body but its end
        scope.setdefault("state", {}).update(caller=caller, gone=gone)
        try:
            await self._app(scope, _replay(body, gone), self._count(scope, send))
        finally:
            gone.cancel()
            self.num_inside -= 1

    def _count(self, scope: Scope, send: Send) -> Send:
        """Count the answer, and how long its first byte took, by its route."""
        began_s = time.perf_counter()
        metrics = self._service.metrics

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                metrics.requests.labels(route, message["status"]).inc()
                metrics.seconds.labels(route).observe(time.perf_counter() - began_s)
            await send(message)

        return counted

    def _find_caller(self, headers: dict[bytes, str]) -> Key:
        kind, _, given = headers.get(b"authorization", "").partition(" ")
        return self._service.find_caller(given.strip() if kind.lower() == "bearer" else None)


async def refuse(send: Send, status: int, code: str, message: str) -> None:
    """Answer with an error, before any route."""
    body = json.dumps(envelope(status, code, message)).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    pairs = {**headers, **headers_of(status)}.items()
    encoded = [(name.lower().encode(), value.encode()) for name, value in pairs]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _is_of_here(host: str) -> bool:
    """Whether a page of another site cannot have led a browser here (DNS rebinding)."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        return name == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


async def _read_body(headers: dict[bytes, str], receive: Receive, most: int) -> bytes | None:
    """The whole body; None for one that is too large, as soon as that shows."""
    told = headers.get(b"content-length", "0")
    if told.isdigit() and int(told) > most:
        return None
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, gone: asyncio.Future[Message]) -> Receive:
    """The body once more, then what comes after it: that the client is gone."""
    is_given = False

    async def again() -> Message:
        nonlocal is_given
        if is_given:
            return await asyncio.shield(gone)
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
