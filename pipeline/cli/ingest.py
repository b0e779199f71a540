"""`aot ingest`: videos into the store, with a view of how far it is."""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipeline.cli.output import (
    escape,
    hms,
    megabytes,
    one_line,
    print_json,
    settings_of,
    to_plain,
)
from workers.redact import redact_url

if TYPE_CHECKING:
    from pipeline.ingest.run import IngestRequest
    from pipeline.settings import Settings
    from workers.session import Progress


def ingest(
    context: typer.Context,
    urls: list[str] = typer.Argument(..., metavar="URL|FILE|DIR..."),
    stream: str = typer.Option(None, "--stream", "-s", help="Stream id; default: the file's name."),
    model: str = typer.Option(None, "--model", "-m", help="Hub id or folder of the checkpoint."),
    fps: float = typer.Option(None, "--fps", help="Frames sampled per second of the stream."),
    clip_frames: int = typer.Option(None, "--clip-frames", help="Frames in a clip."),
    retention: float = typer.Option(None, "--retention", help="Share of the tokens to keep."),
    reducer: str = typer.Option(None, "--reducer", help="aot, none, uniform, random, ..."),
    start_time: str = typer.Option(None, "--start-time", help="Wall time of second 0, ISO 8601."),
    resume: bool = typer.Option(
        False, "--resume", help="Go on with the stream although its file was moved."
    ),
    detach: bool = typer.Option(False, "--detach", help="Go on after this command has ended."),
    workers: int = typer.Option(None, "--workers", help="Compress workers."),
    ray: str = typer.Option(None, "--ray", help="HOST:PORT of a cluster, auto, or off."),
    store: str = typer.Option(None, "--store", help="URL of the store."),
    as_json: bool = typer.Option(False, "--json", help="One line of JSON per video."),
) -> int:
    """Bring videos into the store; go on where an earlier run stopped."""
    overrides: dict[str, Any] = {
        "model": {"id": model},
        "ingest": {
            "fps": fps,
            "clip_frames": clip_frames,
            "retention": retention,
            "reducer": reducer,
        },
        "ray": {"workers": workers, **_ray(ray)},
        "store": {"url": store},
    }
    settings = settings_of(context, overrides)
    requests = _requests(settings, urls, stream, start_time, resume)
    if detach:
        return _detach(settings, requests, as_json)
    from pipeline.ingest.run import ingest as run

    return _watch(run(settings, requests, keep_going=len(requests) > 1), as_json)


def _ray(choice: str | None) -> dict[str, Any]:
    if choice is None:
        return {}
    return {"enabled": False} if choice == "off" else {"enabled": True, "address": choice}


def _requests(
    settings: "Settings", urls: list[str], stream: str | None, start_time: str | None, resume: bool
) -> list["IngestRequest"]:
    from pipeline.errors import InvalidQuery
    from pipeline.ingest.run import IngestRequest, find_videos
    from pipeline.times import parse_wall_time
    from workers.types import VideoSource

    files = [file for url in urls for file in find_videos(url)]
    if stream is not None and len(files) > 1:
        raise InvalidQuery(f"got one stream id for {len(files)} videos; leave --stream out")
    wall_start_s = None if start_time is None else parse_wall_time(start_time)
    sources = [
        VideoSource(
            file, stream or stream_name(file), settings.ingest.fps, wall_start_s=wall_start_s
        )
        for file in files
    ]
    _refuse_twins(sources)
    return [IngestRequest(source, resume) for source in sources]


def _refuse_twins(sources: list) -> None:
    from pipeline.errors import InvalidQuery

    names = [source.stream_id for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidQuery(f"several videos would be stream {twice[0]}; ingest them one by one")


def stream_name(url: str) -> str:
    """A stream id from a file's name: what an id cannot hold becomes `_`."""
    stem = Path(redact_url(url).rpartition("/")[2]).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem)[:64].strip("_") or "video"


def _detach(settings: "Settings", requests: list["IngestRequest"], as_json: bool) -> int:
    from pipeline.ingest.run import detach

    started = detach(settings, requests, keep_going=len(requests) > 1)
    if as_json:
        print_json({"detached": started})
    elif started:
        print(f"started {', '.join(started)}; `aot streams` shows how far they are")
    return 0 if len(started) == len(requests) else 1


def _watch(progress: Iterable["Progress"], as_json: bool) -> int:
    last: dict[str, Progress] = {}
    with _view() as show:
        for value in progress:
            last[value.stream_id] = value
            show(value)
    for value in last.values():
        if as_json:
            print_json(_as_json(value))
        else:
            print(_summary(value))
    return 1 if any(value.state == "failed" for value in last.values()) else 0


def _as_json(value: "Progress") -> dict[str, Any]:
    fields = {**to_plain(value), "retention": value.retention, "x_realtime": value.x_realtime}
    if value.error is not None:
        fields["error"] = {"code": _code(value.error), "message": one_line(value.error)}
    return fields


def _code(error: Exception) -> str:
    return getattr(error, "code", type(error).__name__)


def _summary(value: "Progress") -> str:
    if value.error is not None:
        return f"{value.stream_id}: failed: {_code(value.error)}: {one_line(value.error)}"
    if value.state == "complete" and not value.clips and value.resumed_s is not None:
        return f"{value.stream_id}: already complete, {hms(value.position_s)} stored"
    return (
        f"{value.stream_id}: {value.state}, {value.clips} clips of {hms(value.footage_s)}, "
        f"{value.tokens_out} of {value.tokens_in} tokens ({value.retention:.1%}), "
        f"{megabytes(value.stored_bytes)}, {value.x_realtime:.1f}x real time"
        + (f", {value.gaps} gaps" if value.gaps else "")
        + (f", {value.damaged} damaged frames" if value.damaged else "")
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
