"""`aot ingest`: videos into the store."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from pipeline.cli.output import settings_of
from pipeline.cli.progress import start_detached, watch

if TYPE_CHECKING:
    from pipeline.ingest.request import IngestRequest
    from pipeline.settings import Settings


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
    follow: bool = typer.Option(
        False, "--follow", help="Files are still being written: wait for more (TS, MKV, fMP4)."
    ),
    allow_net: list[str] = typer.Option(
        None, "--allow-net", help="Network that sources may lie in: 192.168.1.0/24."
    ),
    allow_device: list[str] = typer.Option(
        None, "--allow-device", help="Camera of this machine that may be read: /dev/video0."
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
            "devices": tuple(allow_device) if allow_device else None,
            "transport": transport,
            "hold_still": hold_still,
        },
        "metrics": {"address": metrics},
        "ray": {"workers": workers, **_ray(ray)},
        "store": {"url": store},
    }
    settings = settings_of(context, overrides)
    asked = _Asked(urls, stream, start_time, zone, recursive, join, resume, restart, follow)
    return _run(settings, _make_requests(settings, asked), detach, as_json)


def _run(settings: "Settings", requests: list["IngestRequest"], detach: bool, as_json: bool) -> int:
    from pipeline.ingest.live import are_live

    live = are_live(requests)  # refuses a mixture, however it is to run
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


@dataclass(frozen=True)
class _Asked:
    """Which videos, and as what they are to be stored."""

    urls: Sequence[str]
    stream: str | None
    start_time: str | None
    zone: str | None
    recursive: bool
    join: bool
    resume: bool
    restart: bool
    follow: bool


def _make_requests(settings: "Settings", asked: _Asked) -> list["IngestRequest"]:
    from pipeline.ingest.request import IngestRequest, find_videos
    from pipeline.values.errors import InvalidQuery
    from pipeline.values.times import parse_wall_time
    from workers.decode.policy import is_network_url
    from workers.types import VideoSource

    below = asked.recursive or asked.join
    files = [file for url in asked.urls for file in find_videos(url, recursive=below)]
    files = list(dict.fromkeys(files))
    if asked.resume and asked.restart:
        raise InvalidQuery("got --resume and --restart; the one goes on, the other starts anew")
    if asked.follow and asked.join:
        raise InvalidQuery("got --follow and --join; it is finished files that are joined")
    named = _name_joined(asked, files) if asked.join else _name_each(asked, files)
    start, fps, hold_s = asked.start_time, settings.ingest.fps, settings.ingest.max_hold_s
    follow_s = settings.ingest.follow_limit_s
    wall_start_s = None if start is None else parse_wall_time(start)
    return [
        IngestRequest(
            VideoSource(
                url,
                name,
                fps,
                wall_start_s=wall_start_s,
                max_hold_s=hold_s,
                follow_s=follow_s if asked.follow and not is_network_url(url) else None,
            ),
            resume=asked.resume,
            restart=asked.restart,
            zone=_zone(asked.zone or settings.ingest.zone, start),
            files=tuple(map(os.path.abspath, files)) if asked.join else (),
        )
        for url, name in named
    ]


def _name_each(asked: _Asked, files: Sequence[str]) -> list[tuple[str, str]]:
    """Every file with the stream that it is to be."""
    from pipeline.ingest.request import stream_names
    from pipeline.values.errors import InvalidQuery

    if asked.stream is not None and len(files) > 1:
        raise InvalidQuery(
            f"got one stream id for {len(files)} videos; leave --stream out, or join them: --join"
        )
    if asked.start_time is not None and len(files) > 1:
        raise InvalidQuery(
            f"got one start time for {len(files)} videos, which did not all begin at "
            f"{asked.start_time}; ingest them one by one, each with its own --start-time, or as "
            "one stream with --join"
        )
    names = [asked.stream] if asked.stream is not None else stream_names(files)
    return list(zip(files, names, strict=True))


def _name_joined(asked: _Asked, files: Sequence[str]) -> list[tuple[str, str]]:
    """The folder that holds all files with the stream that they are to be together."""
    from pipeline.ingest.request import stream_name
    from pipeline.values.errors import InvalidQuery

    if any("://" in file for file in files):
        raise InvalidQuery("got a URL to --join; it takes files and folders of one camera")
    given = [os.path.abspath(url) for url in asked.urls]
    folder = os.path.commonpath([g if os.path.isdir(g) else os.path.dirname(g) for g in given])
    return [(folder, asked.stream if asked.stream is not None else stream_name(folder))]


def _zone(zone: str | None, start_time: str | None) -> str | None:
    """As given, else the offset that the start time has."""
    from pipeline.values.times import parse_zone

    if zone is None:
        offset = re.search(r"(Z|[+-]\d\d:?\d\d)$", start_time or "")
        return None if offset is None else offset[1]
    parse_zone(zone)
    return zone
