"""Endless sources on the command line: `aot up`, and the view that `aot ingest` has of them too.

A line when something happens, and one now and then.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import typer

from pipeline.cli.output import (
    common_of,
    explain_error,
    hms,
    megabytes,
    note,
    print_json,
    settings_of,
)
from pipeline.values.plain import to_plain

if TYPE_CHECKING:
    from pipeline.ingest.metrics import Metrics
    from pipeline.ingest.request import IngestRequest
    from pipeline.settings import Settings
    from workers.live.session import LiveProgress

EVERY_S = 10.0


def up(
    context: typer.Context,
    metrics: str = typer.Option(
        None, "--metrics", help="HOST:PORT where Prometheus may ask; default: metrics.address."
    ),
    detach: bool = typer.Option(
        False, "--detach", help="Have a Ray cluster keep them; `aot cluster` shows how."
    ),
    as_json: bool = typer.Option(False, "--json", help="One line of JSON per stream at the end."),
) -> int:
    """Keep every stream that the settings name under `streams:`, until interrupted.

    What is added to the settings file, removed from it or changed there is
    begun, ended or begun anew once the file is written, or on SIGHUP. With
    --detach a cluster keeps them, shared by its machines; the same command
    again brings changes to it.
    """
    from pipeline.cli.watched import WatchedSettings
    from pipeline.ingest.live import named_streams

    settings = settings_of(context, {"metrics": {"address": metrics}})
    if detach:
        return _up_detached(settings, as_json)
    requests = named_streams(settings)
    watched = WatchedSettings(common_of(context))
    watched.listen()
    return watch_live(settings, requests, as_json, keep=True, look=watched.look)


def _up_detached(settings: "Settings", as_json: bool) -> int:
    from pipeline.ingest.share import up as up_on_ray

    kept = up_on_ray(settings)
    if as_json:
        print_json({"detached": kept.streams, "ended": kept.ended})
        return 0
    print(f"{len(kept.streams)} streams are kept by the cluster; see `aot cluster status`")
    if kept.ended:
        print(f"ended, as the settings do not name them: {', '.join(kept.ended)}")
    return 0


def watch_live(
    settings: "Settings",
    requests: Sequence["IngestRequest"],
    as_json: bool,
    *,
    keep: bool = False,
    look: "Callable[[], Settings | None] | None" = None,
) -> int:
    """Ingest until interrupted; 1 when a source failed for good, which a kept one does not."""
    from pipeline.ingest.live import LiveEnd, ingest_live

    last: dict[str, LiveProgress] = {}
    told_s: dict[str, float] = {}
    failed: dict[str, Exception] = {}
    with ExitStack() as stack:
        stack.callback(_tell_all, last, as_json)
        logs = settings.stream_logs()
        if logs is not None:
            logs.keep()
        metrics = _serve_metrics(settings, stack)
        for news in ingest_live(
            settings, requests, stop=threading.Event(), keep=keep, look=look, metrics=metrics
        ):
            if isinstance(news, LiveEnd):
                if news.error is not None:
                    failed[news.stream_id] = news.error
                    if len(requests) > 1:
                        _tell_end(news.stream_id, news.error, as_json)
                continue
            before = last.get(news.stream_id)
            last[news.stream_id] = news
            happened = before is None or (before.outage, before.rung) != (news.outage, news.rung)
            if happened or time.monotonic() - told_s[news.stream_id] > EVERY_S:
                told_s[news.stream_id] = time.monotonic()
                note(_line(news))
    if failed and len(requests) == 1:
        raise next(iter(failed.values()))
    return 1 if failed else 0


def _serve_metrics(settings: "Settings", stack: ExitStack) -> "Metrics | None":
    """Answer where the settings say, until the command ends."""
    address = settings.metrics.address
    if address is None:
        return None
    from pipeline.ingest.metrics import Metrics, serve

    metrics = Metrics()
    port = stack.enter_context(serve(metrics, address))
    note(f"metrics at port {port} of {address}")
    return metrics


def _tell_all(last: Mapping[str, "LiveProgress"], as_json: bool) -> None:
    for progress in last.values():
        print_json(to_plain(progress)) if as_json else print(_line(progress))


def _tell_end(stream_id: str, error: Exception, as_json: bool) -> None:
    """Why one of several ended; of an only one the command tells it, as it does of any error."""
    code, message = explain_error(error)
    note(f"{stream_id}: {code}: {message}")
    if as_json:
        print_json({"stream_id": stream_id, "error": {"code": code, "message": message}})


def _line(progress: "LiveProgress") -> str:
    """One stream's state in one line."""
    if progress.outage is not None:
        return f"{progress.stream_id}: away: {progress.outage}"
    parts = [
        f"{hms(progress.position_s)} stored",
        f"{progress.clips} clips",
        f"{progress.encoded} of {progress.frames} frames encoded",
        megabytes(progress.stored_bytes),
    ]
    if progress.freshness_s is not None:
        parts.append(f"fresh within {progress.freshness_s:.1f} s")
    if progress.gaps:
        parts.append(", ".join(f"{count} {reason}" for reason, count in progress.gaps.items()))
    if progress.rung != "full":
        parts.append(f"reading at {progress.rung!r}")
    return f"{progress.stream_id}: " + ", ".join(parts)
