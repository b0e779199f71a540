"""`aot bench query`: what a question costs before the language model speaks.

An hour of one stream is put into an embedded store of its own (900 clips of 4 s, tokens of a
7-billion-class model at about 10 %), then measured:

    index_ms          median of listing all 900 spans
    get_ratio         bytes per second of our verified reads (fetch, digest, Arrow, tensors) over
                      plain redis-py GETs of the same keys; the two take turns in one run
    first_token_s     seconds to the first token of an answer from the cache
    first_token_speedup   the same window decoded and encoded again, over `first_token_s`

`run` measures the first two and takes a function that measures the last, which need a model;
`run_all` is the whole bench.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from aot import ClipTokens
from bench.facts import measured_commit
from bench.folders import own_folder, store_url
from bench.query_answer import measure_first_token
from bench.query_crowd import measure_crowd
from bench.query_kept import measure_kept_prompt
from bench.query_range import measure_ranges
from pipeline.store import ClipStore, StoreConfig, open_store
from pipeline.store.redis.connection import iter_plain_values, wait_until_idle
from pipeline.values.types import ClipSpan, StreamInfo
from workers.types import ClipStats, CompressedClip

STREAM_ID = "hour"
CLIP_S = 4.0
FRAMES = 8
GRID = (14, 14)
WIDTH = 896
"""LLaVA-OneVision 0.5B; 250 tokens of it are 448 kB a clip."""

FirstToken = Callable[[], Mapping[str, float]]
"""Gives `first_token_s` and `first_token_speedup`."""


@dataclass(frozen=True)
class ReadFigures:
    """Seconds of one round over all clips, and the CPU seconds of this process in it."""

    plain_s: float
    verified_s: float
    plain_cpu_s: float
    verified_cpu_s: float


def run_all(*, on_progress: Callable[[str], None] = lambda _: None) -> dict[str, object]:
    """All figures, those of a kept prompt (`query_kept`), of long ranges (`query_range`) and of a
    crowd (`query_crowd`) too."""
    figures = run(
        first_token=partial(measure_first_token, on_progress=on_progress), on_progress=on_progress
    )
    figures |= measure_kept_prompt(on_progress=on_progress)
    figures |= measure_ranges(on_progress=on_progress)
    return figures | measure_crowd(on_progress=on_progress)


def run(
    *,
    num_clips: int = 900,
    num_tokens: int = 250,
    rounds: int = 7,
    first_token: FirstToken | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, object]:
    """Measure and return the bench's figures; keys of `first_token` are None without it."""
    with _filled_store(num_clips, num_tokens, on_progress) as (store, put_ms):
        spans = store.list_spans(STREAM_ID)
        wait_until_idle(store.config)  # it rewrites the log of what was just stored
        on_progress(f"listing {len(spans)} clips")
        index_ms = _median_ms(lambda: store.list_spans(STREAM_ID), 31)
        window_ms = _median_ms(lambda: store.list_spans(STREAM_ID, 1800.0, 1860.0), 31)
        figures = []
        for number in range(1, rounds + 1):
            on_progress(f"reading {len(spans)} clips, round {number} of {rounds}")
            figures.append(_read_round(store, spans, plain_first=number % 2 == 0))
    result = summarise(figures, spans)
    result |= {
        "index_ms": round(index_ms, 3),
        "window_index_ms": round(window_ms, 3),
        "put_ms": round(put_ms, 3),
        "first_token_s": None,
        "first_token_speedup": None,
    }
    return result | dict(first_token() if first_token else {})


def summarise(figures: list[ReadFigures], spans: list[ClipSpan]) -> dict[str, object]:
    """`get_ratio` is the median over the rounds of plain seconds over verified seconds."""
    size_bytes = sum(span.size_bytes for span in spans)
    plain_s = statistics.median(f.plain_s for f in figures)
    verified_s = statistics.median(f.verified_s for f in figures)
    return {
        "bench": "query",
        "commit": measured_commit(),
        "device": "cpu",
        "clips": len(spans),
        "megabytes": round(size_bytes / 1e6, 1),
        "get_ratio": round(statistics.median(f.plain_s / f.verified_s for f in figures), 3),
        "get_ratio_rounds": [round(f.plain_s / f.verified_s, 3) for f in figures],
        "plain_mb_s": round(size_bytes / 1e6 / plain_s, 1),
        "verified_mb_s": round(size_bytes / 1e6 / verified_s, 1),
        "plain_cpu_ms": _per_clip_ms([f.plain_cpu_s for f in figures], spans),
        "verified_cpu_ms": _per_clip_ms([f.verified_cpu_s for f in figures], spans),
    }


def _read_round(store: ClipStore, spans: list[ClipSpan], *, plain_first: bool) -> ReadFigures:
    def plain() -> None:
        for _ in iter_plain_values(store.config, spans):
            pass

    def verified() -> None:
        for _ in store.iter_clips(spans):
            pass

    if plain_first:
        plain_s, verified_s = _timed(plain), _timed(verified)
    else:
        verified_s, plain_s = _timed(verified), _timed(plain)
    return ReadFigures(plain_s[0], verified_s[0], plain_s[1], verified_s[1])


@contextmanager
def _filled_store(
    num_clips: int, num_tokens: int, on_progress: Callable[[str], None]
) -> Iterator[tuple[ClipStore, float]]:
    """An embedded store with an hour in it, and the milliseconds a put took."""
    on_progress(f"storing {num_clips} clips of {num_tokens} tokens")
    with own_folder() as folder, open_store(StoreConfig(store_url(folder))) as store:
        store.put_info(StreamInfo(STREAM_ID, "bench", "random", "bench"))
        lease = store.acquire_lease(STREAM_ID, "bench", ttl_s=3600)
        clips = [make_clip(index, num_tokens) for index in range(8)]
        started_s = time.perf_counter()
        for index in range(num_clips):
            clip = moved_to(clips[index % len(clips)], index)
            store.put_clip(clip, lease, fingerprint="bench")
        yield store, (time.perf_counter() - started_s) * 1e3 / num_clips


def make_clip(index: int, num_tokens: int) -> CompressedClip:
    """A clip of seeded tokens, as wide as LLaVA-OneVision 0.5B's."""
    seeded = torch.Generator().manual_seed(index)
    cells = GRID[0] * GRID[1]
    tokens = ClipTokens(
        tokens=torch.randn(num_tokens, WIDTH, generator=seeded).to(torch.bfloat16),
        frame=torch.randint(0, FRAMES, (num_tokens,), generator=seeded),
        cell=torch.randint(0, cells, (num_tokens,), generator=seeded),
        mass=torch.rand(num_tokens, generator=seeded) * FRAMES,
        kind=torch.randint(0, 3, (num_tokens,), generator=seeded).to(torch.uint8),
        grid=GRID,
    )
    stats = ClipStats(frames_in=FRAMES, tokens_in=FRAMES * cells, tokens_out=num_tokens)
    return moved_to(CompressedClip(STREAM_ID, 0, 0, 0.0, 0.0, (), tokens, stats=stats), index)


def moved_to(clip: CompressedClip, index: int) -> CompressedClip:
    """The same as clip `index` of the stream."""
    start_s = index * CLIP_S
    pts_s = tuple(start_s + frame * CLIP_S / FRAMES for frame in range(FRAMES))
    return CompressedClip(
        STREAM_ID, 0, index, start_s, start_s + CLIP_S, pts_s, clip.tokens, stats=clip.stats
    )


def _timed(body: Callable[[], None]) -> tuple[float, float]:
    """(seconds, CPU seconds of this process)."""
    cpu_s, started_s = time.process_time(), time.perf_counter()
    body()
    return time.perf_counter() - started_s, time.process_time() - cpu_s


def _median_ms(body: Callable[[], object], times: int) -> float:
    return statistics.median(_timed(lambda: (body(), None)[1])[0] for _ in range(times)) * 1e3


def _per_clip_ms(seconds: list[float], spans: list[ClipSpan]) -> float:
    return round(statistics.median(seconds) * 1e3 / len(spans), 3)
