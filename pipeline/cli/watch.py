"""`aot watch`: questions that `aot serve` asks of every new clip, and what they found."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from pipeline.cli.output import hms, note, open_store_of, print_json, print_table, settings_of
from pipeline.values.plain import to_plain

if TYPE_CHECKING:
    from pipeline.store import ClipStore
    from pipeline.values.watch import Event

PAGE = 1000
"""Events that are read at a time."""

app = typer.Typer(help="Standing questions: add, list, remove, test, events.", no_args_is_help=True)
_STREAM = typer.Option(..., "--stream", "-s", help="The stream that is watched.")
_EXPECT = typer.Option("yes", "--expect", help="A word that an answer has when it is so.")
_WINDOW = typer.Option(None, "--window", help="Seconds up to a clip's end; its own without it.")
_RAISE = typer.Option(1, "--raise-after", help="Answers in a row that it takes.")
_CLEAR = typer.Option(1, "--clear-after", help="Answers in a row until it is over.")
_COOLDOWN = typer.Option(0.0, "--cooldown", help="Seconds in which it is not raised again.")
_JSON = typer.Option(False, "--json")


@app.command()
def add(
    context: typer.Context,
    watch_id: str,
    question: str,
    stream: str = _STREAM,
    expect: str = _EXPECT,
    window_s: float = _WINDOW,
    raise_after: int = _RAISE,
    clear_after: int = _CLEAR,
    cooldown_s: float = _COOLDOWN,
    webhook_env: str = typer.Option(
        None, "--webhook-env", help="Variable that holds the URL to tell events to."
    ),
    as_json: bool = _JSON,
) -> int:
    """Have a question asked of every clip from now on, by whatever service serves the stream."""
    from pipeline.serve.watching import begin_watch
    from pipeline.settings.sources import read_variable
    from pipeline.values.watch import Watch, without_secret

    rule = (expect, window_s, raise_after, clear_after, cooldown_s)
    webhook = None if webhook_env is None else read_variable(webhook_env)
    watch = Watch(watch_id, stream, question, *rule, webhook=webhook)
    with open_store_of(context) as store:
        begin_watch(store, watch)
    print_json(without_secret(watch)) if as_json else print(f"{watch_id}: watching {stream}")
    return 0


@app.command("ls")
def list_watches(context: typer.Context, as_json: bool = _JSON) -> int:
    """All standing questions."""
    from pipeline.values.watch import without_secret

    with open_store_of(context) as store:
        found = [pair for name in store.list_streams() for pair in store.list_watches(name)]
    if as_json:
        print_json({"watches": [to_plain(without_secret(watch)) for watch, _ in found]})
        return 0
    print_table(
        ("STREAM", "WATCH", "QUESTION", "EXPECT", "ASKED UP TO", "NOW"),
        (
            (
                watch.stream_id,
                watch.watch_id,
                watch.question,
                watch.expect,
                hms(state.end_s),
                "raised" if state.is_raised else "",
            )
            for watch, state in found
        ),
    )
    return 0


@app.command("rm")
def remove(
    context: typer.Context, watch_id: str, stream: str = _STREAM, as_json: bool = _JSON
) -> int:
    """Ask it no more; its events stay."""
    with open_store_of(context) as store:
        store.remove_watch(stream, watch_id)
    print_json({"removed": watch_id}) if as_json else print(f"removed {watch_id}")
    return 0


@app.command()
def events(context: typer.Context, stream: str = _STREAM, as_json: bool = _JSON) -> int:
    """What was found, in order."""
    with open_store_of(context) as store:
        store.get_info(stream)
        found = list(_iter_events(store, stream))
    _show(found, as_json)
    return 0


@app.command("test")
def back_test(
    context: typer.Context,
    question: str,
    stream: str = _STREAM,
    start_s: float = typer.Option(None, "--from", help="Seconds of the stream."),
    end_s: float = typer.Option(None, "--to"),
    expect: str = _EXPECT,
    window_s: float = _WINDOW,
    raise_after: int = _RAISE,
    clear_after: int = _CLEAR,
    cooldown_s: float = _COOLDOWN,
    as_json: bool = _JSON,
) -> int:
    """The events that a question would have made over a past range; nothing is stored."""
    from pipeline.serve.service import Service
    from pipeline.values.watch import Watch

    settings = settings_of(context, {"serve": {"host": "127.0.0.1"}})
    rule = (expect, window_s, raise_after, clear_after, cooldown_s)
    watch = Watch("test", stream, question, *rule)
    service = Service(settings)
    try:
        service.store.get_info(stream)
        found = list(service.evaluator.replay(watch, start_s, end_s))
    finally:
        service.close()
    _show(found, as_json)
    return 0


def _iter_events(store: "ClipStore", stream: str) -> Iterator["Event"]:
    mark = None
    while page := store.list_events(stream, after=mark, limit=PAGE):
        yield from (event for _, event in page)
        mark, _ = page[-1]


def _show(found: "list[Event]", as_json: bool) -> None:
    if as_json:
        print_json({"events": found})
        return
    rows = ((e.kind, hms(e.start_s), hms(e.end_s), e.watch_id, e.answer) for e in found)
    print_table(("EVENT", "FROM", "TO", "WATCH", "ANSWER"), rows)
    note(f"{len(found)} events")
