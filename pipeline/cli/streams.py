"""`aot streams`: what is stored, what is running, and how to end it."""

import typer

from pipeline.cli.output import hms, megabytes, print_json, print_table, settings_of, to_plain

app = typer.Typer(help="Streams: list, show, pause, resume, remove.", invoke_without_command=True)


@app.callback()
def default(context: typer.Context, as_json: bool = typer.Option(False, "--json")) -> None:
    """Without a command: list."""
    if context.invoked_subcommand is None:
        list_streams(context, as_json=as_json)


@app.command("ls")
def list_streams(context: typer.Context, as_json: bool = typer.Option(False, "--json")) -> int:
    """All streams with how much of each is stored."""
    with _store(context) as store:
        rows = [_facts(store, stream_id) for stream_id in store.list_streams()]
    if as_json:
        print_json({"streams": rows})
        return 0
    print_table(
        ("STREAM", "STATUS", "STORED", "CLIPS", "TOKENS", "SIZE", "BYTES/H", "COVERAGE", "GAPS"),
        (
            (
                row["stream_id"],
                row["status"],
                hms(row["end_s"]),
                row["clips"],
                row["tokens"],
                megabytes(row["bytes"]),
                megabytes(row["bytes_per_hour"]),
                f"{row['coverage']:.1%}",
                row["gaps"],
            )
            for row in rows
        ),
    )
    return 0


@app.command()
def show(context: typer.Context, name: str, as_json: bool = typer.Option(False, "--json")) -> int:
    """Everything known of one stream."""
    with _store(context) as store:
        info, facts = store.get_info(name), _facts(store, name)
        gaps, lease = store.list_gaps(name), store.get_lease(name)
    value = {
        **to_plain(info),
        **facts,
        "gap_list": to_plain(gaps),
        "writer": None if lease is None else lease.holder,
    }
    if as_json:
        print_json(value)
    else:
        print_table(("", ""), value.items())
    return 0


@app.command()
def pause(context: typer.Context, name: str, as_json: bool = typer.Option(False, "--json")) -> int:
    """End a detached session; what it stored stays, `resume` goes on behind it."""
    from pipeline.ingest.run import cluster_of

    settings = settings_of(context)
    with _store(context) as store:
        store.get_info(name)
    with cluster_of(settings) as cluster:
        session = cluster.find_session(name)
        state = None if session is None else session.stop().state
    if as_json:
        print_json({"stream_id": name, "state": state})
    else:
        print(f"{name}: {state or 'no session was running'}")
    return 0 if state else 1


@app.command()
def resume(context: typer.Context, name: str, as_json: bool = typer.Option(False, "--json")) -> int:
    """Start a detached session of a known stream again, behind what is stored."""
    from pipeline.ingest.run import IngestRequest, detach
    from workers.types import VideoSource

    with _store(context) as store:
        info = store.get_info(name)
    kept = ("reducer", "retention", "clip_frames")
    settings = settings_of(context, {"ingest": {key: info.settings.get(key) for key in kept}})
    fps = info.settings.get("fps")
    source = VideoSource(
        info.source,
        name,
        fps if isinstance(fps, (int, float)) else None,
        wall_start_s=info.wall_start_s,
    )
    detach(settings, [IngestRequest(source)])
    if as_json:
        print_json({"detached": [name]})
    else:
        print(f"started {name}; `aot streams` shows how far it is")
    return 0


@app.command("rm")
def remove(
    context: typer.Context,
    name: str,
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."),
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """Delete a stream and all its records."""
    if not yes:
        typer.confirm(f"delete stream {name} and all its records?", abort=True)
    with _store(context) as store:
        removed = store.delete_stream(name)
    if as_json:
        print_json(removed)
    else:
        print(f"deleted {name}: {removed.clips} clips, {megabytes(removed.size_bytes)}")
    return 0


def _store(context: typer.Context):
    from pipeline.store import open_store

    return open_store(settings_of(context).store_config())


def _facts(store, stream_id: str) -> dict:
    from pipeline.ask.retrieval import covered_s

    info, spans = store.get_info(stream_id), store.list_spans(stream_id)
    footage_s = covered_s(spans, None, None)
    end_s = max((span.end_s for span in spans), default=0.0)
    begun_s = min((span.start_s for span in spans), default=0.0)
    size_bytes = sum(span.size_bytes for span in spans)
    num_tokens = sum(span.num_tokens for span in spans)
    return {
        "stream_id": stream_id,
        "status": info.status,
        "error": info.error,
        "clips": len(spans),
        "start_s": begun_s,
        "end_s": end_s,
        "footage_s": footage_s,
        "tokens": num_tokens,
        "tokens_per_s": num_tokens / footage_s if footage_s else 0.0,
        "bytes": size_bytes,
        "bytes_per_hour": size_bytes / footage_s * 3600 if footage_s else 0.0,
        "coverage": min(1.0, footage_s / (end_s - begun_s)) if end_s > begun_s else 0.0,
        "gaps": len(store.list_gaps(stream_id)),
    }
