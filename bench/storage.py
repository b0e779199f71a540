"""`aot bench storage`: what looking clips up costs in a long stream, and reading cold ones.

index     a stream of 10^4, 10^5 and 10^6 rows in an embedded store: median milliseconds of what
          every question and every write asks of the index. Rows are written as they are, without
          their values; the clips that are put and read are real
cold      an hour (900 clips of 250 tokens) twice, in the server and in Parquet files on the
          local disk: seconds of a question's retrieval (index, choice within a budget, verified
          records) of the one over the other, taking turns; the page cache is warm for both
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.facts import measured_commit
from bench.folders import own_folder, store_url
from bench.query import CLIP_S, STREAM_ID, make_clip, moved_to
from pipeline.ask.retrieval import fit_to_budget
from pipeline.store import ClipStore, StoreConfig, open_store
from pipeline.store.cold.run import cool
from pipeline.store.redis.connection import wait_until_idle, write_rows
from pipeline.values.types import ClipSpan, Lease, StreamInfo

SIZES = (10_000, 100_000, 1_000_000)
WINDOW_S = 600.0
BUDGET_TOKENS = 25_000
"""Of the question whose range is the whole hour: a hundred clips of it, evenly spaced."""
Report = Callable[[str], None]


@dataclass(frozen=True)
class Retrieval:
    """Seconds of one turn, and the CPU seconds of this process in it: of cold clips all that they
    take, of hot ones without the server's."""

    hot_s: float
    cold_s: float
    hot_cpu_s: float
    cold_cpu_s: float


def run(
    *,
    sizes: tuple[int, ...] = SIZES,
    times: int = 51,
    num_clips: int = 900,
    num_tokens: int = 250,
    rounds: int = 9,
    on_progress: Report = lambda _: None,
) -> dict[str, object]:
    """Measure and return the bench's figures."""
    with own_folder() as folder:
        config = StoreConfig(store_url(folder), cold=str(folder / "cold"))
        with open_store(config) as store:
            index = {str(size): _measure_index(store, size, times, on_progress) for size in sizes}
            cold = _measure_cold(store, num_clips, num_tokens, rounds, on_progress)
    return {"bench": "storage", "commit": measured_commit(), "index": index} | cold


def _measure_index(
    store: ClipStore, size: int, times: int, on_progress: Report
) -> dict[str, float]:
    """Medians in milliseconds; the stream is removed again."""
    on_progress(f"a stream of {size} clips")
    lease, tiny = _begin(store), make_clip(0, 5)
    store.put_clip(moved_to(tiny, 0), lease, fingerprint="bench")
    row = store.list_spans(STREAM_ID)[0]
    write_rows(store.config, (_row(row, index) for index in range(1, size - 64)))
    wait_until_idle(store.config)
    at = iter(range(size - 64, size + 64))
    last = store.put_clip(moved_to(tiny, next(at)), lease, fingerprint="bench")
    middle_s = size / 2 * CLIP_S
    asks: dict[str, tuple[Callable[[], object], int]] = {
        "window_ms": (lambda: store.list_spans(STREAM_ID, middle_s, middle_s + WINDOW_S), times),
        "latest_ms": (lambda: _latest(store), times),
        "put_ms": (
            lambda: store.put_clip(moved_to(tiny, next(at)), lease, fingerprint="bench"),
            times,
        ),
        "put_again_ms": (
            lambda: store.put_clip(moved_to(tiny, last.index), lease, fingerprint="bench"),
            times,
        ),
        "summary_ms": (lambda: store.get_overview(STREAM_ID), times),
        "streams_ms": (lambda: list(store.iter_overviews()), times),
        "list_hot_ms": (lambda: store.list_hot(STREAM_ID, most_clips=1024), 9),
        "list_all_ms": (lambda: sum(1 for _ in store.iter_spans(STREAM_ID)), 1),
    }
    figures = {name: _median_ms(ask, number) for name, (ask, number) in asks.items()}
    store.release_lease(lease)
    figures["remove_ms"] = _median_ms(lambda: store.delete_stream(STREAM_ID), 1)
    return figures


def _latest(store: ClipStore) -> list[ClipSpan]:
    """The last minute of the stream, as a question on what is happening now asks for it."""
    position = store.get_position(STREAM_ID)
    assert position is not None
    return store.list_spans(STREAM_ID, position.end_s - 60.0)


def _measure_cold(
    store: ClipStore, num_clips: int, num_tokens: int, rounds: int, on_progress: Report
) -> dict[str, object]:
    on_progress(f"an hour of {num_clips} clips in both tiers")
    names = {"hot": "hour-hot", "cold": "hour-cold"}
    base = [make_clip(index, num_tokens) for index in range(8)]
    for name in names.values():
        lease = _begin(store, name)
        for index in range(num_clips):
            clip = replace(moved_to(base[index % 8], index), stream_id=name)
            store.put_clip(clip, lease, fingerprint="bench")
        store.release_lease(lease)
    started_s = time.perf_counter()
    [cooled] = cool(store, 0.0, names["cold"])
    moved_s = time.perf_counter() - started_s
    wait_until_idle(store.config)
    end_s = num_clips * CLIP_S
    # All of a stretch of ten minutes, and clips here and there of the whole.
    questions = {
        "window": (end_s / 2, end_s / 2 + WINDOW_S, 10**9),
        "spread": (0.0, end_s, BUDGET_TOKENS),
    }
    figures: dict[str, object] = {
        "moved_clips": cooled.moved.clips,
        "moved_files": cooled.moved.files,
        "moved_mb_s": round(cooled.moved.size_bytes / 1e6 / moved_s, 1),
    }
    for what, (start_s, stop_s, budget) in questions.items():
        turns = []
        for number in range(rounds + 1):
            on_progress(f"{what}, round {number} of {rounds}")
            order = ("hot", "cold") if number % 2 else ("cold", "hot")
            times = {tier: _retrieve(store, names[tier], start_s, stop_s, budget) for tier in order}
            turns.append(Retrieval(*(times[tier][n] for n in (0, 1) for tier in ("hot", "cold"))))
        figures |= summarise(what, turns[1:])  # the first warms both
    return figures


def summarise(what: str, turns: list[Retrieval]) -> dict[str, object]:
    """Medians; the ratio is that of the rounds."""
    return {
        f"{what}_hot_ms": round(statistics.median(turn.hot_s for turn in turns) * 1e3, 1),
        f"{what}_cold_ms": round(statistics.median(turn.cold_s for turn in turns) * 1e3, 1),
        f"{what}_ratio": round(statistics.median(turn.cold_s / turn.hot_s for turn in turns), 2),
        f"{what}_cpu_ratio": round(
            statistics.median(turn.cold_cpu_s / turn.hot_cpu_s for turn in turns), 2
        ),
        f"{what}_ratio_rounds": [round(turn.cold_s / turn.hot_s, 2) for turn in turns],
    }


def _retrieve(
    store: ClipStore, name: str, start_s: float, stop_s: float, budget: int
) -> tuple[float, float]:
    """(seconds, CPU seconds of this process)."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    chosen = fit_to_budget(store.list_spans(name, start_s, stop_s), budget)
    for _ in store.iter_clips(chosen):
        pass
    return time.perf_counter() - began_s, time.process_time() - began_cpu_s


def _begin(store: ClipStore, name: str = STREAM_ID) -> Lease:
    store.put_info(StreamInfo(name, "bench", "random", "bench"))
    return store.acquire_lease(name, "bench", ttl_s=3600)


def _row(row: ClipSpan, index: int) -> ClipSpan:
    start_s = index * CLIP_S
    return replace(row, index=index, start_s=start_s, end_s=start_s + CLIP_S)


def _median_ms(body: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        began_s = time.perf_counter()
        body()
        taken.append(time.perf_counter() - began_s)
    return round(statistics.median(taken) * 1e3, 3)
