"""`aot streams`: what is stored, what is running, and how to end it."""

import time
from collections import deque
from typing import Any

import typer

from pipeline.cli.output import (
    confirm,
    escape,
    hms,
    local_time,
    megabytes,
    note,
    open_store_of,
    print_fields,
    print_json,
    print_table,
    settings_of,
)
from pipeline.cli.progress import start_detached, watch
from pipeline.values.errors import UnknownStream
from pipeline.values.plain import to_plain

app = typer.Typer(
    help="Streams: list, show, watch, pause, resume, remove.", invoke_without_command=True
)
_JSON = "pipeline.cli.streams.json"
"""Under which a group's `--json` is kept for its commands."""


_FOR_MACHINES = {"made_with", "file"}
"""Fields for `--json` alone: all that a session goes on by; `settings` says what people ask for."""


@app.callback()
def default(context: typer.Context, as_json: bool = typer.Option(False, "--json")) -> None:
    """Without a command: list."""
    context.meta[_JSON] = as_json
    if context.invoked_subcommand is None:
        list_streams(context, as_json=as_json)


def _wants_json(context: typer.Context, as_json: bool) -> bool:
    """`--json` counts before the command and behind it."""
    return as_json or bool(context.meta.get(_JSON))


@app.command("ls")
def list_streams(context: typer.Context, as_json: bool = typer.Option(False, "--json")) -> int:
    """All streams with how much of each is stored."""
    from pipeline.api.views import view_streams

    with open_store_of(context) as store:
        views = list(view_streams(store))
    if _wants_json(context, as_json):
        print_json({"streams": views})
        return 0
    print_table(
        ("STREAM", "STATUS", "STORED", "CLIPS", "TOKENS", "SIZE", "BYTES/H", "COVERAGE", "GAPS"),
        (
            (
                view.stream_id,
                view.status,
                hms(view.end_s),
                view.clips,
                view.tokens,
                megabytes(view.bytes),
                megabytes(view.bytes_per_hour),
                f"{view.coverage:.1%}",
                view.gaps,
            )
            for view in views
        ),
    )
    return 0


@app.command()
def show(context: typer.Context, name: str, as_json: bool = typer.Option(False, "--json")) -> int:
    """Everything known of one stream."""
    from pipeline.api.shared import look_up_reading
    from pipeline.api.views import gaps_by_reason, view_stream
    from pipeline.store.levels import nodes_of
    from pipeline.store.retention import oldest_wall_s

    settings = settings_of(context)
    rules = settings.retention_rules()
    with open_store_of(context) as store:
        shared = look_up_reading(store, name, settings)
        try:
            info, view = store.get_info(name), view_stream(store, name)
        except UnknownStream:
            if shared is None:
                raise
            return _show_unread(context, name, to_plain(shared), as_json)
        gaps, lease = store.list_gaps(name), store.get_lease(name)
        oldest_s = oldest_wall_s(store, name)
        levels = store.measure_levels(nodes_of(store.iter_spans(name)))
    value = {
        **to_plain(info),
        **to_plain(view),
        "levels": len(levels),
        "level_bytes": sum(levels.values()),
        "gaps_by_reason": to_plain(gaps_by_reason(gaps)),
        "gap_list": to_plain(gaps),
        "oldest_footage": None if oldest_s is None else local_time(oldest_s),
        "retention": to_plain(rules),
        "writer": None if lease is None else lease.holder,
        "clock": info.clock,
        "shared": to_plain(shared),
    }
    if _wants_json(context, as_json):
        print_json(value)
    else:
        print_fields({name: part for name, part in value.items() if name not in _FOR_MACHINES})
    return 0


def _show_unread(context: typer.Context, name: str, shared: dict[str, Any], as_json: bool) -> int:
    """A stream of a cluster's list of which nothing is stored yet."""
    value = {"stream_id": name, "status": "waiting", "shared": shared}
    if _wants_json(context, as_json):
        print_json(value)
    else:
        print_table(("", ""), value.items())
    return 0


@app.command()
def pause(context: typer.Context, name: str, as_json: bool = typer.Option(False, "--json")) -> int:
    """Have a detached stream read by nobody; what it stored stays, `resume` goes on behind it."""
    from pipeline.api import sessions

    state = sessions.pause(settings_of(context), name)
    if _wants_json(context, as_json):
        print_json({"stream_id": name, "state": state})
    else:
        print(f"{name}: {state or 'no session was running'}")
    return 0 if state else 1


@app.command()
def resume(
    context: typer.Context,
    name: str,
    source: str = typer.Option(
        None, "--source", help="Where the video lies now, or its URL with user and password."
    ),
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """Go on with a stream as it was begun, behind what is stored: detached, or here without Ray."""
    from pipeline.api import sessions
    from pipeline.cli.live import watch_live
    from pipeline.ingest.live import are_live

    settings = settings_of(context)
    if sessions.resume_shared(settings, name, source):
        if _wants_json(context, as_json):
            print_json({"detached": [name]})
        else:
            print(f"{name} is on the list of the cluster again; see `aot cluster status`")
        return 0
    settings, request = sessions.prepare_resume(settings, name, source)
    if settings.ray.enabled:
        return start_detached(settings, [request], _wants_json(context, as_json))
    if are_live([request]):
        return watch_live(settings, [request], _wants_json(context, as_json))
    from pipeline.ingest.run import ingest

    return watch(ingest(settings, [request]), _wants_json(context, as_json))


@app.command()
def logs(
    context: typer.Context,
    name: str,
    lines: int = typer.Option(50, "--lines", "-n", min=1, help="At most so many, the last ones."),
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """What happened to an endless source that this machine reads, or read."""
    settings = settings_of(context)
    kept = settings.stream_logs()
    found = [] if kept is None else list(deque(kept.read(name), maxlen=lines))
    if not found:
        with open_store_of(context) as store:
            store.get_info(name)  # says where there is no such stream
    if _wants_json(context, as_json):
        print_json({"stream_id": name, "lines": found})
        return 0
    for line in found:
        shown = (str(line.get(key, "")) for key in ("time", "level", "message"))
        print(escape(" ".join(shown)))
    return 0


@app.command()
def top(
    context: typer.Context,
    every_s: float = typer.Option(2.0, "--every", min=0.2, help="Seconds between two looks."),
    once: bool = typer.Option(False, "--once", help="One look, and no more."),
    as_json: bool = typer.Option(False, "--json", help="One line of JSON a look."),
) -> int:
    """All streams as they run: lag, rates, coverage, gaps; until interrupted."""
    from pipeline.cli.top import watch_streams

    with open_store_of(context) as store:
        watch_streams(store, every_s, once=once, as_json=_wants_json(context, as_json))
    return 0


@app.command()
def metrics(
    context: typer.Context,
    address: str = typer.Option(
        None, "--at", help="HOST:PORT where Prometheus may ask, until interrupted; else one page."
    ),
    every_s: float = typer.Option(5.0, "--every", min=0.5, help="Seconds between two looks."),
) -> int:
    """What a cluster's sessions of endless sources count, as Prometheus reads it."""
    from pipeline.ingest.metrics import Metrics, serve
    from pipeline.ingest.on_ray import connect_cluster, look_at_hosts

    page = Metrics()
    with connect_cluster(settings_of(context)) as cluster:
        known = look_at_hosts(cluster, page, set())
        if address is None:
            print(page.render().decode(), end="")
            return 0
        with serve(page, address) as port:
            note(f"metrics at port {port} of {address}")
            while True:
                time.sleep(every_s)
                known = look_at_hosts(cluster, page, known)


@app.command("rm")
def remove(
    context: typer.Context,
    name: str,
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."),
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """Delete a stream and all its records."""
    from pipeline.api import sessions

    if not yes:
        confirm(f"delete stream {name} and all its records?")
    removed = sessions.remove(settings_of(context), name)
    if _wants_json(context, as_json):
        print_json(removed)
    else:
        print(f"deleted {name}: {removed.clips} clips, {megabytes(removed.size_bytes)}")
    return 0
