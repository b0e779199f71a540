"""A service that runs, asked by the commands: the values and the errors of this process's own."""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import aot.errors
import workers.errors
from pipeline.ask.answer import Answer, Citation, LevelReading, Piece, StreamReading, Timings
from pipeline.ask.search import Hit, SearchResult
from pipeline.settings.server import ServerAddress
from pipeline.values import errors
from pipeline.values.errors import ServiceFailed, ServiceUnreachable
from pipeline.values.types import ClipSpan, Gap

SILENCE_S = 600.0
"""Longest wait for something new: a long prompt is read before the first word."""
RANGE = ("start", "end", "last")


def chat(
    server: ServerAddress,
    messages: Sequence[tuple[str, str]],
    streams: Sequence[str],
    given: Mapping[str, Any],
) -> Iterator[Piece | Answer]:
    """An answer as it is written, then the `Answer`; messages are (role, text), the last asks.

    Raises:
        ServiceUnreachable: nobody answers there.
        PipelineError, WorkerError: what the service says is wrong.
    """
    query = urlencode({n: given[n] for n in RANGE if given.get(n) is not None}, quote_via=quote)
    windows = [
        {"type": "video_url", "video_url": {"url": f"stream://{name}?{query}"}} for name in streams
    ]
    *before, (role, text) = messages
    body = {
        "model": "aot",
        "messages": [
            *({"role": earlier, "content": said} for earlier, said in before),
            {"role": role, "content": [*windows, {"type": "text", "text": text}]},
        ],
        "stream": True,
        "aot": {n: v for n, v in given.items() if n not in RANGE and v is not None},
    }
    texts = []
    with _asked(server, "/v1/chat/completions", body) as response:
        for chunk in _iter_events(response):
            if "error" in chunk:
                raise _error_of(chunk)
            delta = chunk["choices"][0]["delta"] if chunk["choices"] else {}
            if delta.get("content"):
                texts.append(delta["content"])
                yield Piece(delta["content"])
            if "aot" in chunk:
                yield _answer("".join(texts).strip(), chunk["aot"])
                return
    raise ServiceFailed(f"the service at {server.url} ended before its answer did; ask again")


def search(
    server: ServerAddress,
    question: str,
    streams: Sequence[str],
    given: Mapping[str, Any],
    most: int,
) -> SearchResult:
    """The clips that matter most; errors as `chat`."""
    body = {"question": question, "streams": list(streams), "top": most, **given}
    with _asked(server, "/v1/search", body) as response:
        told = _read_json(response)
    hits = (Hit(**{**hit, "span": ClipSpan(**hit["span"])}) for hit in told["hits"])
    streams_told = tuple(_stream_reading(one) for one in told["streams"])
    return SearchResult(tuple(hits), streams_told, told["searched"])


@contextmanager
def _asked(
    server: ServerAddress, path: str, body: Mapping[str, Any]
) -> Iterator[http.client.HTTPResponse]:
    """A response that is no error."""
    parts = urlsplit(server.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=SILENCE_S)
    headers = {"Content-Type": "application/json"}
    if server.key is not None:
        headers["Authorization"] = f"Bearer {server.key}"
    try:
        connection.request("POST", parts.path + path, json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise _error_of(_read_json(response))
        yield response
    except (OSError, http.client.HTTPException) as error:
        why = "no answer in time" if isinstance(error, socket.timeout) else error
        raise ServiceUnreachable(
            f"no service answers at {server.url} ({why}); start it with `aot serve`, or unset "
            "AOT_SERVER to answer here"
        ) from error
    finally:
        connection.close()


def _read_json(response: http.client.HTTPResponse) -> dict[str, Any]:
    try:
        told = json.loads(response.read())
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise ServiceFailed(
            f"got an answer of status {response.status} that is no JSON object, expected one of "
            "`aot serve`; mend --server or AOT_SERVER"
        )
    return told


def _iter_events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Server-sent events; the service writes each on one line."""
    while line := response.readline():
        if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
            yield json.loads(line[6:])


def _error_of(told: Mapping[str, Any]) -> Exception:
    """An error of the service as it would have been raised here."""
    given = told.get("error")
    given = given if isinstance(given, dict) else {}
    code, message = str(given.get("code")), str(given.get("message"))
    for home in (errors, workers.errors, aot.errors):
        kind = getattr(home, code, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            error = kind.__new__(kind, message)
            error.args = (message,)
            return error
    if code == "InvalidKey":
        return errors.NotAllowed(f"{message}; it is read from AOT_KEY or AOT_KEY_FILE")
    if code in ("InvalidRequest", "BodyTooLarge"):
        return errors.InvalidQuery(message)
    return ServiceFailed(f"the service failed: {code}: {message}")


def _answer(text: str, evidence: Mapping[str, Any]) -> Answer:
    cost = evidence["cost"]
    names = ("index", "load", "first_token", "total", "wait")
    return Answer(
        text=text,
        citations=tuple(Citation(**span) for span in evidence["spans"]),
        coverage=evidence["coverage"],
        read_fraction=evidence["read_fraction"],
        partial=evidence["partial"],
        visual_tokens=cost["visual_tokens"],
        prompt_tokens=cost["prompt_tokens"],
        timings=Timings(**{f"{name}_s": cost[f"{name}_ms"] / 1000 for name in names}),
        streams=tuple(_stream_reading(stream) for stream in evidence["streams"]),
        without_footage=tuple(evidence["without_footage"]),
        removed=evidence["removed"],
        bytes_read=cost["bytes_read"],
    )


def _stream_reading(told: Mapping[str, Any]) -> StreamReading:
    gaps = tuple(Gap(**gap) for gap in told["gaps"])
    levels = tuple(LevelReading(**level) for level in told["levels"])
    return StreamReading(**{**told, "gaps": gaps, "levels": levels})
