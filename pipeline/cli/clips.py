"""`aot clips`: the records themselves: list, export, import, verify."""

from pathlib import Path

import typer

from pipeline.cli.output import (
    hms,
    megabytes,
    note,
    one_line,
    print_json,
    print_table,
    settings_of,
    to_plain,
)

app = typer.Typer(help="Records of a stream: list, export, import, verify.", no_args_is_help=True)

_FROM = typer.Option(None, "--from", help="Start: 14:00, 750, -10m, ISO 8601.")
_TO = typer.Option(None, "--to", help="End, in the same forms.")


@app.command("ls")
def list_clips(
    context: typer.Context,
    name: str,
    start: str = _FROM,
    end: str = _TO,
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """The clips of a range, from the index alone."""
    with _store(context) as store:
        spans = _spans(store, name, start, end)
    if as_json:
        print_json({"clips": to_plain(spans)})
        return 0
    print_table(
        ("CLIP", "EPOCH", "FROM", "TO", "TOKENS", "SIZE"),
        (
            (s.index, s.epoch, hms(s.start_s), hms(s.end_s), s.num_tokens, megabytes(s.size_bytes))
            for s in spans
        ),
    )
    return 0


@app.command("export")
def export(
    context: typer.Context,
    name: str,
    output: Path = typer.Option(..., "--output", "-o", help="Arrow file to write."),
    start: str = _FROM,
    end: str = _TO,
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """Write the clips of a range to one Arrow file that pyarrow and pandas read."""
    from pipeline.store.arrow import export_clips
    from pipeline.store.keys import record_id

    with _store(context) as store:
        spans = _spans(store, name, start, end)
        records = ((record_id(s.stream_id, s.epoch, s.index), store.get_record(s)) for s in spans)
        count = export_clips(records, output, info=store.get_info(name))
    if as_json:
        print_json({"clips": count, "output": str(output)})
    else:
        print(f"{name}: {count} clips to {output}")
    return 0


@app.command("import")
def import_clips(
    context: typer.Context,
    name: str,
    source: Path = typer.Argument(..., help="A file `aot clips export` wrote."),
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """Put exported clips back into the store under their stream's own id."""
    from pipeline.transfer import import_stream

    with _store(context) as store:
        count = import_stream(store, name, source)
    if as_json:
        print_json({"clips": count})
    else:
        print(f"{name}: {count} clips from {source}")
    return 0


@app.command()
def verify(context: typer.Context, name: str, as_json: bool = typer.Option(False, "--json")) -> int:
    """Read and check every record of a stream."""
    with _store(context) as store:
        store.get_info(name)
        report = store.verify(name)
    if as_json:
        print_json({**to_plain(report), "ok": report.ok})
    else:
        for _, error in report.corrupt:
            note(one_line(ValueError(error)))
        size = megabytes(report.size_bytes)
        print(f"{name}: {report.num_clips} clips, {size}, {len(report.corrupt)} corrupt")
    return 0 if report.ok else 1


def _spans(store, name: str, start: str | None, end: str | None) -> list:
    from pipeline.ask.question import Question, resolve_range

    if start is None and end is None:
        store.get_info(name)
        return store.list_spans(name)
    return store.list_spans(name, *resolve_range(store, name, Question("-", (name,), start, end)))


def _store(context: typer.Context):
    from pipeline.store import open_store

    return open_store(settings_of(context).store_config())
