"""`aot ingest`: videos into the store, with a view of how far it is."""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from pipeline.cli.output import (
    hms,
    megabytes,
    note,
    print_json,
    settings_of,
)
from pipeline.values.plain import escape, one_line, to_plain

if TYPE_CHECKING:
    from pipeline.ingest.request import IngestRequest
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
    restart: bool = typer.Option(
        False, "--restart", help="Have this video instead of what the stream holds."
    ),
    zone: str = typer.Option(
        None, "--zone", help="Zone of the stream's wall times: Europe/Berlin, +02:00."
    ),
    recursive: bool = typer.Option(
        False, "--recursive", "-r", help="Look for videos in the folders below a folder too."
    ),
    join: bool = typer.Option(
        False, "--join", help="Make one stream of all: files of one camera, also below a folder."
    ),
    allow_net: list[str] = typer.Option(
        None, "--allow-net", help="Network that sources may lie in: 192.168.1.0/24."
    ),
    transport: str = typer.Option(None, "--transport", help="Of RTSP: tcp or udp."),
    hold_still: bool = typer.Option(
        None, "--hold-still", help="Do not encode frames of a camera that show nothing new."
    ),
    metrics: str = typer.Option(
        None, "--metrics", help="HOST:PORT where Prometheus may ask while a live source is read."
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
        "live": {
            "networks": tuple(allow_net) if allow_net else None,
            "transport": transport,
            "hold_still": hold_still,
        },
        "metrics": {"address": metrics},
        "ray": {"workers": workers, **_ray(ray)},
        "store": {"url": store},
    }
    from pipeline.ingest.request import find_videos
    from pipeline.values.errors import InvalidQuery

    settings = settings_of(context, overrides)
    found = [file for url in urls for file in find_videos(url, recursive=recursive or join)]
    files = list(dict.fromkeys(found))
    if resume and restart:
        raise InvalidQuery("got --resume and --restart; the one goes on, the other starts anew")
    requests = [
        replace(
            request,
            resume=resume,
            restart=restart,
            zone=_zone(zone or settings.ingest.zone, start_time),
        )
        for request in (
            [_joined(settings, urls, files, stream, start_time)]
            if join
            else _requests(settings, files, stream, start_time)
        )
    ]
    from pipeline.ingest.live import are_live

    live = are_live(requests)
    if detach:
        return start_detached(settings, requests, as_json)
    if live:
        from pipeline.cli.live import watch_live

        return watch_live(settings, requests, as_json)
    from pipeline.ingest.run import ingest as run

    return watch(run(settings, requests, keep_going=len(requests) > 1), as_json)


def _ray(choice: str | None) -> dict[str, Any]:
    if choice is None:
        return {}
    return {"enabled": False} if choice == "off" else {"enabled": True, "address": choice}


def _requests(
    settings: "Settings",
    files: list[str],
    stream: str | None,
    start_time: str | None,
) -> list["IngestRequest"]:
    from pipeline.ingest.request import IngestRequest, stream_names
    from pipeline.values.errors import InvalidQuery
    from pipeline.values.times import parse_wall_time
    from workers.types import VideoSource

    if stream is not None and len(files) > 1:
        raise InvalidQuery(
            f"got one stream id for {len(files)} videos; leave --stream out, or join them: --join"
        )
    if start_time is not None and len(files) > 1:
        raise InvalidQuery(
            f"got one start time for {len(files)} videos, which did not all begin at {start_time}; "
            "ingest them one by one, each with its own --start-time, or as one stream with --join"
        )
    wall_start_s = None if start_time is None else parse_wall_time(start_time)
    names = [stream] if stream is not None else stream_names(files)
    fps, max_hold_s = settings.ingest.fps, settings.ingest.max_hold_s
    return [
        IngestRequest(
            VideoSource(file, name, fps, wall_start_s=wall_start_s, max_hold_s=max_hold_s)
        )
        for file, name in zip(files, names, strict=True)
    ]


def _joined(
    settings: "Settings",
    urls: list[str],
    files: list[str],
    stream: str | None,
    start_time: str | None,
) -> "IngestRequest":
    """One stream of all files; it is called after the folder that holds them."""
    from pipeline.ingest.request import IngestRequest, stream_name
    from pipeline.values.errors import InvalidQuery
    from pipeline.values.times import parse_wall_time
    from workers.types import VideoSource

    if any("://" in file for file in files):
        raise InvalidQuery("got a URL to --join; it takes files and folders of one camera")
    paths = [os.path.abspath(file) for file in files]
    given = [os.path.abspath(url) for url in urls]
    folder = os.path.commonpath([g if os.path.isdir(g) else os.path.dirname(g) for g in given])
    ingest = settings.ingest
    source = VideoSource(
        folder,
        stream if stream is not None else stream_name(folder),
        ingest.fps,
        wall_start_s=None if start_time is None else parse_wall_time(start_time),
        max_hold_s=ingest.max_hold_s,
    )
    return IngestRequest(source, files=tuple(paths))


def _zone(zone: str | None, start_time: str | None) -> str | None:
    """As given, else the offset that the start time has."""
    from pipeline.values.errors import InvalidQuery

    if zone is None:
        offset = re.search(r"(Z|[+-]\d\d:?\d\d)$", start_time or "")
        return None if offset is None else offset[1]
    if not re.fullmatch(r"[+-]\d\d:\d\d", zone):
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise InvalidQuery(
                f"got zone {zone!r}, expected a name such as Europe/Berlin or an offset such as "
                "+02:00"
            ) from None
    return zone


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
        fields["error"] = {"code": _code(value.error), "message": _message(value.error)}
    return fields


def _code(error: Exception) -> str:
    from aot.errors import AOTError
    from pipeline.values.errors import PipelineError
    from workers.errors import WorkerError

    if isinstance(error, (PipelineError, WorkerError, AOTError)):
        return error.code
    return "InternalError"


def _message(error: Exception) -> str:
    kind = f"{type(error).__name__}: " if _code(error) == "InternalError" else ""
    return kind + one_line(error)


def _summary(value: "Progress") -> str:
    if value.error is not None:
        return f"{value.stream_id}: failed: {_code(value.error)}: {_message(value.error)}"
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
