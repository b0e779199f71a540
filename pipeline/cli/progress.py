"""Sessions that a command began: how far they are, and what became of every video."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.cli.output import explain_error, hms, megabytes, note, print_json
from pipeline.values.plain import escape, to_plain

if TYPE_CHECKING:
    from pipeline.ingest.request import IngestRequest
    from pipeline.settings import Settings
    from workers.session import Progress


def start_detached(settings: "Settings", requests: list["IngestRequest"], as_json: bool) -> int:
    """Start sessions that outlive this command; its exit code."""
    from pipeline.ingest.on_ray import detach

    started = detach(settings, requests, keep_going=len(requests) > 1)
    if as_json:
        print_json({"detached": started})
    elif started:
        print(f"started {', '.join(started)}; `aot streams` shows how far they are")
    return 0 if len(started) == len(requests) else 1


def watch(progress: Iterable["Progress"], as_json: bool) -> int:
    """Show how far it is; say at the end, however it comes, what became of every video."""
    last: dict[str, Progress] = {}
    try:
        with _view() as show:
            for value in progress:
                last[value.stream_id] = value
                show(value)
    finally:
        for value in last.values():
            _print_result(value if value.done else replace(value, state="stopped"), as_json)
    failed = [value.stream_id for value in last.values() if value.state == "failed"]
    if len(last) > 1:
        some = f"; not: {', '.join(failed)}" if failed else ""
        note(f"{len(last) - len(failed)} of {len(last)} videos stored{some}")
    return 1 if failed else 0


def _print_result(value: "Progress", as_json: bool) -> None:
    if as_json:
        print_json(_as_json(value))
    else:
        print(_summary(value))


def _as_json(value: "Progress") -> dict[str, Any]:
    fields = {**to_plain(value), "retention": value.retention, "x_realtime": value.x_realtime}
    if value.error is not None:
        fields["error"] = dict(zip(("code", "message"), explain_error(value.error), strict=True))
    return fields


def _summary(value: "Progress") -> str:
    if value.error is not None:
        return f"{value.stream_id}: failed: {': '.join(explain_error(value.error))}"
    if value.state == "complete" and not value.clips and value.resumed_s is not None:
        return f"{value.stream_id}: already complete, {hms(value.position_s)} stored"
    return (
        f"{value.stream_id}: {value.state}, {value.clips} clips of {hms(value.footage_s)}, "
        f"{value.tokens_out} of {value.tokens_in} tokens ({value.retention:.1%}), "
        f"{megabytes(value.stored_bytes)}, {value.x_realtime:.1f}x real time"
        + (f", {value.gaps} gaps" if value.gaps else "")
        + (f", {value.damaged} damaged frames" if value.damaged else "")
        + (", truncated: the source ends before its end" if value.truncated else "")
    )


@contextmanager
def _view() -> Iterator[Any]:
    """A progress bar on a terminal; nothing where stderr is a file."""
    if not sys.stderr.isatty():
        yield lambda value: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(value: "Progress") -> None:
            name = escape(value.stream_id)
            if value.stream_id not in tasks:
                tasks[value.stream_id] = bars.add_task(name, total=None, facts="starting")
            facts = (
                f"{value.x_realtime:.1f}x  {value.retention:.1%}  {megabytes(value.stored_bytes)}"
            )
            task = tasks[value.stream_id]
            bars.update(task, completed=value.position_s, total=value.total_s, facts=facts)

        yield show
