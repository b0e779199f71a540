"""`aot streams top`: all streams as they run, looked at again and again."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.cli.output import escape, hms, megabytes, print_json, print_table

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.store import ClipStore

HEADERS = ("STREAM", "STATUS", "LAG", "STORED", "CLIPS/MIN", "TOKENS/S", "MB/H", "COVERAGE", "GAPS")


@dataclass(frozen=True)
class StreamLook:
    """One stream at one moment."""

    stream_id: str
    status: str
    lag_s: float | None
    """Behind the wall clock, as far as clips and gaps are stored; None for what is not running."""
    end_s: float
    clips: int
    tokens: int
    bytes: int
    coverage: float
    gaps: int


@dataclass(frozen=True)
class StreamRates:
    """A stream, and what it did since the look before; averages of all of it at the first."""

    stream_id: str
    status: str
    lag_s: float | None
    end_s: float
    clips_per_min: float
    tokens_per_s: float
    bytes_per_hour: float
    coverage: float
    gaps: int


def watch_streams(store: "ClipStore", every_s: float, *, once: bool, as_json: bool) -> None:
    """Show all streams, again every so many seconds until interrupted."""
    looks, seen_s = look_at_streams(store, time.time()), time.monotonic()
    rates = [rate(look, None, 0.0) for look in looks.values()]
    if once:
        print_json({"streams": rates}) if as_json else print_table(HEADERS, map(_row, rates))
        return
    if as_json:
        _watch_lines(store, every_s, looks, seen_s)
    else:
        _watch_table(store, every_s, looks, seen_s, rates)


def look_at_streams(store: "ClipStore", now_s: float) -> dict[str, StreamLook]:
    """All streams by id, as the store has them; `now_s` is Unix time."""
    from pipeline.api.views import view_overview
    from pipeline.values.types import BrokenStream

    looks: dict[str, StreamLook] = {}
    for overview in store.iter_overviews():
        view = view_overview(store, overview)
        start_s = None if isinstance(overview, BrokenStream) else overview.info.wall_start_s
        lag_s = None
        if view.status == "running" and start_s is not None:
            lag_s = max(0.0, now_s - start_s - view.end_s)
        looks[view.stream_id] = StreamLook(
            view.stream_id,
            view.status,
            lag_s,
            view.end_s,
            view.clips,
            view.tokens,
            view.bytes,
            view.coverage,
            view.gaps,
        )
    return looks


def rate(look: StreamLook, before: StreamLook | None, took_s: float) -> StreamRates:
    """What a stream did in `took_s` since the look before, or over its whole length."""
    if before is None:
        before, took_s = StreamLook(look.stream_id, "", None, 0.0, 0, 0, 0, 0.0, 0), look.end_s

    def per_s(after: int, earlier: int) -> float:
        return max(0, after - earlier) / took_s if took_s > 0 else 0.0

    return StreamRates(
        look.stream_id,
        look.status,
        look.lag_s,
        look.end_s,
        clips_per_min=60 * per_s(look.clips, before.clips),
        tokens_per_s=per_s(look.tokens, before.tokens),
        bytes_per_hour=3600 * per_s(look.bytes, before.bytes),
        coverage=look.coverage,
        gaps=look.gaps,
    )


def _watch_lines(
    store: "ClipStore", every_s: float, looks: Mapping[str, StreamLook], seen_s: float
) -> None:
    while True:
        time.sleep(every_s)
        looks, seen_s, rates = _look_again(store, looks, seen_s)
        print_json({"streams": rates})


def _watch_table(
    store: "ClipStore",
    every_s: float,
    looks: Mapping[str, StreamLook],
    seen_s: float,
    rates: list[StreamRates],
) -> None:
    from rich.live import Live

    with Live(_table(rates), auto_refresh=False) as live:
        while True:
            time.sleep(every_s)
            looks, seen_s, rates = _look_again(store, looks, seen_s)
            live.update(_table(rates), refresh=True)


def _look_again(
    store: "ClipStore", before: Mapping[str, StreamLook], seen_s: float
) -> tuple[dict[str, StreamLook], float, list[StreamRates]]:
    looks, now_s = look_at_streams(store, time.time()), time.monotonic()
    rates = [rate(look, before.get(name), now_s - seen_s) for name, look in looks.items()]
    return looks, now_s, rates


def _table(rates: Iterable[StreamRates]) -> "Table":
    from rich.table import Table

    table = Table(*HEADERS, box=None, header_style="bold", pad_edge=False)
    for each in rates:
        table.add_row(*(escape(str(cell)) for cell in _row(each)))
    return table


def _row(rates: StreamRates) -> tuple[object, ...]:
    return (
        rates.stream_id,
        rates.status,
        "-" if rates.lag_s is None else f"{rates.lag_s:.0f} s",
        hms(rates.end_s),
        f"{rates.clips_per_min:.1f}",
        f"{rates.tokens_per_s:.1f}",
        megabytes(rates.bytes_per_hour),
        f"{rates.coverage:.1%}",
        rates.gaps,
    )
