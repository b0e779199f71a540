"""`aot ask`, `aot chat`, `aot search`: questions about stored streams, answered from their tokens.

A service that runs is asked where one is named; else the model is loaded into this process.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from pipeline.cli.output import common_of, explain_error, hms, note, print_json, settings_of
from pipeline.cli.sources import show_sources
from pipeline.values.errors import kind_of
from pipeline.values.plain import to_plain

if TYPE_CHECKING:
    from pipeline.ask.answer import Answer, Piece
    from pipeline.settings.server import ServerAddress

    Asking = Callable[
        [Sequence[tuple[str, str]], Sequence[str], dict[str, Any]], Iterator[Piece | Answer]
    ]
    """Messages, the last of which asks; streams; their range."""


_STREAMS = typer.Option(..., "--stream", "-s", help="A stream; repeatable.")
_START = typer.Option(None, "--from", help="Start: 14:00, 750, -10m, ISO 8601.")
_END = typer.Option(None, "--to", help="End, in the same forms.")
_LAST = typer.Option(None, "--last", help="The last stretch, such as 10m.")
_MODEL = typer.Option(None, "--model", "-m", help="Hub id or folder of the checkpoint.")
_STORE = typer.Option(None, "--store", help="URL of the store.")
_SERVER = typer.Option(
    None, "--server", help="Ask the service at this URL; AOT_SERVER without it, else answer here."
)
_TOKENS = typer.Option(None, "--max-visual-tokens")
_NEW = typer.Option(None, "--max-new-tokens")
_FIT = typer.Option(
    None, "--fit", help="Where the range holds more than the budget: recompress, choose, find."
)
_RAY = typer.Option(
    None, "--ray", help="Answer on a cluster: its HOST:PORT, or auto; off answers here."
)
_JSON = typer.Option(False, "--json")


def ask(
    context: typer.Context,
    question: str = typer.Argument(..., metavar="QUESTION"),
    streams: list[str] = _STREAMS,
    start: str = _START,
    end: str = _END,
    last: str = _LAST,
    max_visual_tokens: int = _TOKENS,
    max_new_tokens: int = _NEW,
    fit: str = _FIT,
    model: str = _MODEL,
    store: str = _STORE,
    ray: str = _RAY,
    server: str = _SERVER,
    as_json: bool = _JSON,
) -> int:
    """Answer a question about a range of streams from the cache alone."""
    budget = {
        "max_visual_tokens": max_visual_tokens,
        "max_new_tokens": max_new_tokens,
        "fit": fit,
    }
    given = {"start": start, "end": end, "last": last}
    if (address := _server(context, server, model, store, ray)) is not None:
        from pipeline.cli.remote import chat as asked

        parts = asked(address, [("user", question)], streams, {**given, **budget})
        _show(_write(parts, quiet=as_json), as_json)
        return 0
    from pipeline.api.pipeline import Pipeline

    settings = settings_of(context, _overrides(model, store, ray, ask=budget))
    with Pipeline(settings) as pipeline:
        parts = pipeline.ask_stream(question, streams=streams, start=start, end=end, last=last)
        answer = _write(parts, quiet=as_json)
    _show(answer, as_json)
    return 0


def chat(
    context: typer.Context,
    streams: list[str] = _STREAMS,
    start: str = _START,
    end: str = _END,
    last: str = _LAST,
    model: str = _MODEL,
    store: str = _STORE,
    ray: str = _RAY,
    server: str = _SERVER,
) -> int:
    """Ask again and again, a line each; what was said before is read with the question."""
    address = _server(context, server, model, store, ray)
    given = {"start": start, "end": end, "last": last}
    messages: list[tuple[str, str]] = []
    with _answering(context, address, _overrides(model, store, ray)) as asked:
        for question in _iter_lines():
            messages.append(("user", question))
            try:
                answer = _write(asked(messages, streams, given), quiet=False)
            except Exception as error:
                if kind_of(error) in ("internal", "unavailable"):
                    raise
                note("error: {}: {}".format(*explain_error(error)))
                messages.pop()  # as if it had not been asked
                continue
            _show(answer, as_json=False)
            messages.append(("assistant", answer.text))
    return 0


def search(
    context: typer.Context,
    question: str = typer.Argument(..., metavar="QUESTION"),
    streams: list[str] = _STREAMS,
    start: str = _START,
    end: str = _END,
    last: str = _LAST,
    most: int = typer.Option(5, "--top", min=1, max=1000, help="How many to show."),
    model: str = _MODEL,
    store: str = _STORE,
    server: str = _SERVER,
    as_json: bool = _JSON,
) -> int:
    """Find the clips of a range that matter for a question, the most relevant first."""
    given = {"start": start, "end": end, "last": last}
    if (address := _server(context, server, model, store)) is not None:
        from pipeline.cli.remote import search as found

        result = found(address, question, streams, given, most)
    else:
        from pipeline.api.pipeline import Pipeline

        with Pipeline(settings_of(context, _overrides(model, store))) as pipeline:
            result = pipeline.search(question, streams=streams, most=most, **given)
    if as_json:
        print_json(to_plain(result))
        return 0
    for hit in result.hits:
        begin, stop = hit.wall_start or hms(hit.start_s), hit.wall_end or hms(hit.end_s)
        print(f"{hit.score:8.2f}  {hit.stream_id}  {begin} to {stop}  clip {hit.span.index}")
    note(f"  {result.searched} clips looked through")
    return 0


def _server(
    context: typer.Context, server: str | None, *here: str | None
) -> "ServerAddress | None":
    """The service to ask; None where the question is answered in this process.

    Raises:
        InvalidSettings: one is named on the command line, and so is what only this process can do.
    """
    from pipeline.settings.server import find_server
    from pipeline.values.errors import InvalidSettings

    if not any((*here, common_of(context).store)):
        return find_server(server)
    if server is not None:
        raise InvalidSettings(
            "got --server with --model, --store or --ray; the service has its own: leave them out"
        )
    return None


def _overrides(
    model: str | None, store: str | None, ray: str | None = None, **more: Any
) -> dict[str, Any]:
    return {"model": {"id": model}, "store": {"url": store}, "ray": _ray(ray), **more}


@contextmanager
def _answering(
    context: typer.Context, address: "ServerAddress | None", overrides: dict[str, Any]
) -> "Iterator[Asking]":
    """How a conversation goes on: at a service, or in this process."""
    if address is not None:
        from pipeline.cli.remote import chat as asked

        yield partial(asked, address)
        return
    from pipeline.api.pipeline import Pipeline
    from pipeline.ask.run import answer_prepared
    from pipeline.serve.asking import prepare_asked
    from pipeline.serve.chat import ask_after
    from pipeline.serve.keys import LOCAL

    settings = settings_of(context, overrides)
    with Pipeline(settings) as pipeline:

        def asked_here(
            messages: Sequence[tuple[str, str]], streams: Sequence[str], given: dict[str, Any]
        ) -> "Iterator[Piece | Answer]":
            asked = ask_after(messages, streams, given)
            prepared = prepare_asked(pipeline.store, settings, LOCAL, asked)
            return answer_prepared(pipeline.store, pipeline.model, prepared)

        yield asked_here


def _iter_lines() -> "Iterator[str]":
    """Questions as they are typed, to the end of the input."""
    shows_prompt = sys.stdin.isatty()
    while True:
        if shows_prompt:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _write(parts: "Iterator[Piece | Answer]", *, quiet: bool) -> "Answer":
    """Text as it comes, unless `quiet`; the answer."""
    answer = None
    for part in parts:
        if part.kind == "answer":
            answer = part
        elif not quiet:
            print(part.text, end="", flush=True)
    assert answer is not None
    return answer


def _show(answer: "Answer", as_json: bool) -> None:
    if as_json:
        print_json(_as_json(answer))
    else:
        print()
        show_sources(answer)


def _ray(choice: str | None) -> dict[str, Any]:
    if choice is None:
        return {}
    if choice == "off":
        return {"answers": False}
    return {"enabled": True, "answers": True, "address": choice}


def _as_json(answer: "Answer") -> dict[str, Any]:
    plain = to_plain(answer)
    for shown, stream in zip(plain["streams"], answer.streams, strict=True):
        shown["read_fraction"] = stream.read_fraction
    return plain
