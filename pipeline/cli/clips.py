"""`aot clips`: the records themselves: list, export, import, verify, repair, remove."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipeline.cli.output import (
    confirm,
    hms,
    megabytes,
    note,
    open_store_of,
    print_json,
    print_table,
    settings_of,
)
from pipeline.values.plain import one_line, to_plain

if TYPE_CHECKING:
    from pipeline.store import ClipStore
    from pipeline.values.types import ClipSpan, Gap

app = typer.Typer(
    help="Records of a stream: list, export, import, verify, remove.", no_args_is_help=True
)

REPAIR_LEASE_S = 600.0
"""Every record is read meanwhile."""
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
    with open_store_of(context) as store:
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
    force: bool = typer.Option(False, "--force", help="Replace a file that is there."),
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """Write the clips of a range to one Arrow file that pyarrow and pandas read."""
    from dataclasses import replace

    from pipeline.store.arrow import export_clips
    from pipeline.store.keys import record_id

    with open_store_of(context) as store:
        spans, info = _spans(store, name, start, end), store.get_info(name)
        if start is not None or end is not None:  # there, the rest is still to come
            info = replace(info, status="paused")
        gaps = [gap for gap in store.list_gaps(name) if _touches(spans, gap)]
        records = (
            (record_id(s.stream_id, s.epoch, s.index), record)
            for s in spans
            if (record := _record_of(store, s)) is not None
        )
        count = export_clips(records, output, info=info, gaps=gaps, replace=force)
    if as_json:
        print_json({"clips": count, "output": str(output)})
    else:
        print(f"{name}: {count} clips to {output}")
    return 0


@app.command("import")
def import_clips(
    context: typer.Context,
    name: str,
    source: str = typer.Argument(
        ..., help="What `aot clips export` wrote; or a Parquet file, or folder, of the cold tier."
    ),
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """Put exported clips back into the store under their stream's own id."""
    from pipeline.api.transfer import import_stream

    with open_store_of(context) as store:
        count = import_stream(store, name, source)
    if as_json:
        print_json({"clips": count})
    else:
        print(f"{name}: {count} clips from {source}")
    return 0


@app.command()
def verify(context: typer.Context, name: str, as_json: bool = typer.Option(False, "--json")) -> int:
    """Read and check every record of a stream."""
    with open_store_of(context) as store:
        store.get_info(name)
        report = store.verify(name)
    if as_json:
        print_json({**to_plain(report), "ok": report.ok})
    else:
        for error in (
            *(error for _, error in report.corrupt),
            *report.bad_rows,
            *report.bad_levels,
        ):
            note(one_line(ValueError(error)))
        size = megabytes(report.size_bytes)
        num_corrupt = len(report.corrupt) + len(report.bad_rows)
        print(f"{name}: {report.num_clips} clips, {size}, {num_corrupt} corrupt")
    return 0 if report.ok else 1


@app.command("repair")
def repair_clips(
    context: typer.Context, name: str, as_json: bool = typer.Option(False, "--json")
) -> int:
    """Drop records that do not read; have the next ingest fill in what is lost or failed."""
    from pipeline.ingest.lease import new_writer, take_lease
    from pipeline.store.repair import repair

    with open_store_of(context) as store:
        store.get_info(name)
        lease = take_lease(store, name, writer=new_writer(), lease_s=REPAIR_LEASE_S)
        try:
            done = repair(store, lease)
        finally:
            store.release_lease(lease)
    if as_json:
        print_json(done)
    elif done.goes_on_at_s is None:
        print(f"{name}: nothing is missing")
    else:
        print(
            f"{name}: {done.damaged} damaged, {done.failed} failed; ingest its source again to "
            f"fill them in from {hms(done.goes_on_at_s)}"
        )
    return 0


@app.command("rm")
def remove_clips(
    context: typer.Context,
    name: str,
    start: str = _FROM,
    end: str = _TO,
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."),
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """Delete every clip that has a part in a range, also while the stream is written."""
    from pipeline.ask.question import Question, look_up_stream
    from pipeline.values.errors import InvalidQuery

    if start is None and end is None:
        raise InvalidQuery(f"got no range; say --from or --to, or `aot streams rm {name}` for all")
    with open_store_of(context) as store:
        part = look_up_stream(store, name, Question("-", (name,), start, end))
        if part.clips and not yes:
            first_s = min(clip.start_s for clip in part.clips)
            last_s = max(clip.end_s for clip in part.clips)
            confirm(f"delete {len(part.clips)} clips of {name}, {hms(first_s)} to {hms(last_s)}?")
        removed = part.delete_from(store)
        is_open = store.get_open(name) is not None
    if as_json:
        print_json(removed)
    else:
        print(f"{name}: deleted {removed.clips} clips, {megabytes(removed.size_bytes)}")
    if is_open and end is None:
        note(f"{name}: the clip that is being written is not among them")
    return 0


@app.command("prune")
def prune_clips(
    context: typer.Context,
    name: str = typer.Argument(None, help="Of all streams when it is left out."),
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """Apply the settings' retention rules now: sessions do so by themselves while they run."""
    from pipeline.store.retention import prune
    from pipeline.values.errors import InvalidSettings

    rules = settings_of(context).retention_rules()
    if not rules.remove:
        raise InvalidSettings(
            "no retention rule is set; set retention.max_age, max_bytes_per_stream or max_bytes"
        )
    removed: dict[str, tuple[int, int]] = {}
    with open_store_of(context) as store:
        for stream_id, part in prune(store, rules, name):
            clips, size_bytes = removed.get(stream_id, (0, 0))
            removed[stream_id] = clips + part.clips, size_bytes + part.size_bytes
    if as_json:
        shown = {name: {"clips": n, "size_bytes": size} for name, (n, size) in removed.items()}
        print_json({"streams": shown})
        return 0
    for stream_id, (clips, size_bytes) in removed.items():
        print(f"{stream_id}: deleted {clips} clips, {megabytes(size_bytes)}")
    if not removed:
        print("nothing is older or larger than the rules allow")
    return 0


@app.command("fade")
def fade_footage(
    context: typer.Context,
    name: str = typer.Argument(None, help="Of all streams when it is left out."),
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """Apply `retention.fade` now: sessions do so by themselves while they run."""
    from pipeline.store.retention import fade
    from pipeline.values.errors import InvalidSettings

    rules = settings_of(context).retention_rules().fade
    if not rules:
        raise InvalidSettings("no rule is set; set retention.fade, such as [{after: 1d, keep: 2%}]")
    with open_store_of(context) as store:
        faded = dict(fade(store, rules, name))
    if as_json:
        print_json({"streams": {name: to_plain(counts) for name, counts in faded.items()}})
        return 0
    for stream_id, counts in faded.items():
        size = megabytes(counts.size_bytes)
        print(f"{stream_id}: faded {counts.clips} clips, {counts.tokens} tokens and {size} less")
    if not faded:
        print("nothing is old enough to fade")
    return 0


def _touches(spans: "Sequence[ClipSpan]", gap: "Gap") -> bool:
    """Whether a gap lies among the clips, or at their ends."""
    starts, ends = (s.start_s for s in spans), (s.end_s for s in spans)
    return bool(spans) and gap.end_s >= min(starts) and gap.start_s <= max(ends)


def _record_of(store: "ClipStore", span: "ClipSpan") -> bytes | None:
    """None for a clip that was removed since it was listed."""
    from pipeline.values.errors import MissingValue

    try:
        return store.get_record(span)
    except MissingValue:
        if not store.list_removed([span]):
            raise
        note(f"{span.stream_id}: clip {span.index} was removed meanwhile; left out")
        return None


def _spans(store: "ClipStore", name: str, start: str | None, end: str | None) -> "list[ClipSpan]":
    from pipeline.ask.question import Question, look_up_stream, spans_of

    if start is None and end is None:
        store.get_info(name)
        return store.list_spans(name)
    return spans_of([look_up_stream(store, name, Question("-", (name,), start, end))])
