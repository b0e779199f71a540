"""Predictions beside what was measured, and by how much they differ.

Three ways. Each prediction is made of quantities that were measured apart from what it predicts:

    cores     of many streams side by side, from the cores of few (the table of docs/benchmarks.md,
              live; and, measured anew here, 2 and 4 streams for 12)
    bytes     of a record and of the server's memory for one, by formula; measured here
    recovery  the next clip after a decoder was killed (docs/reliability.md, kills), by the same
              steps that the loss of a machine takes, without the finding out and the claim
"""

import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.live import Load, bundled_model, measure_loads
from bench.query import CLIP_S, make_clip, moved_to
from bench.simulation.services import Services
from bench.simulation.sizing import record_bytes
from pipeline.store import StoreConfig, open_store
from pipeline.store.embedded import stop_embedded
from pipeline.store.redis.connection import write_rows
from pipeline.values.types import ClipSpan, StreamInfo

BOUND = 0.15
CORES = {1: 0.03, 4: 0.10, 16: 0.37, 32: 0.75, 48: 1.15}
"""Streams and busy cores, both cores free (docs/benchmarks.md, live, 85e83ca)."""
FEW = (1, 4, 16)
KILL_P50_S, KILL_P95_S = 8.9, 9.7
"""docs/reliability.md: 20 kills of a decoder, 1 fps, 8 frames a clip."""
TEST_KEYFRAME_S = 1.0
"""Of the camera in that test."""
CLIPS = 300
TOKENS = 157
ROWS = 50_000


@dataclass(frozen=True)
class Check:
    """One prediction."""

    what: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return self.predicted / self.measured - 1

    @property
    def holds(self) -> bool:
        """Whether it is within the bound."""
        return abs(self.error) <= BOUND


def check_all(
    services: Services, *, live: bool, on_progress: Callable[[str], None] = lambda _: None
) -> list[Check]:
    """All checks; `live` runs cameras for some minutes."""
    checks = [*check_cores(CORES, FEW), *check_bytes(services), *check_recovery(services)]
    if live:
        with tempfile.TemporaryDirectory(prefix="aot-bench-") as name:
            model = bundled_model(Path(name))
            loads = measure_loads(model, (2, 4, 12), (), 12.0, on_progress)
            checks += check_loads(list(loads))
    return checks


def check_cores(measured: dict[int, float], few: Sequence[int]) -> list[Check]:
    """Cores of the larger numbers of streams from those of the smaller ones."""
    per_stream = sum(measured[count] for count in few) / sum(few)
    return [
        Check(f"cores of {count} streams", round(per_stream * count, 3), cores)
        for count, cores in measured.items()
        if count not in few
    ]


def check_loads(loads: Sequence[Load]) -> list[Check]:
    """The same of a run that was just made, by the CPU time of each frame encoded."""
    spent = {load.streams: load.cores * load.streams / max(load.encoded, 1) for load in loads}
    *few, most = spent
    per_frame = statistics.mean(spent[count] / count for count in few)
    return [Check(f"CPU of {most} streams, measured now", per_frame * most, spent[most])]


def check_bytes(services: Services) -> list[Check]:
    """A record's bytes, and a server's memory a clip, written and measured here."""
    with tempfile.TemporaryDirectory(prefix="aot-bench-") as folder:
        try:
            with open_store(StoreConfig(f"embedded://{folder}/store")) as store:
                store.put_info(StreamInfo("hour", "bench", "random", "bench"))
                lease = store.acquire_lease("hour", "bench", ttl_s=600)
                clip, before = make_clip(0, TOKENS), store.stats().used_bytes
                spans = [
                    store.put_clip(moved_to(clip, index), lease, fingerprint="bench")
                    for index in range(CLIPS)
                ]
                used = (store.stats().used_bytes - before) / CLIPS
                before = store.stats().used_bytes
                cold = replace(spans[0], cold="2592000-2594400-3fa85f64@104857600")
                write_rows(store.config, (_row(cold, index) for index in range(CLIPS, ROWS)))
                row = (store.stats().used_bytes - before) / (ROWS - CLIPS)
        finally:
            stop_embedded(Path(folder) / "store")
    record = record_bytes(TOKENS, services)
    return [
        Check("bytes of a record", record, spans[0].size_bytes),
        Check("server's memory a clip", record + services.row_bytes, used),
        Check("server's memory a cold clip", services.cold_row_bytes, row),
    ]


def _row(row: ClipSpan, index: int) -> ClipSpan:
    start_s = index * CLIP_S
    return replace(row, index=index, start_s=start_s, end_s=start_s + CLIP_S)


def check_recovery(services: Services, *, seed: int = 0) -> list[Check]:
    """The next clip after a decoder's end: start, keyframe, the next sample, seven more."""
    rng = random.Random(seed)
    tested = replace(services, keyframe_s=TEST_KEYFRAME_S)
    times_s = [
        tested.start_cpu_s + rng.uniform(0, tested.keyframe_s) + rng.uniform(0, 1) + 7
        for _ in range(10_000)
    ]
    ranked = statistics.quantiles(times_s, n=100)
    return [
        Check("next clip after a kill, p50 s", round(ranked[49], 2), KILL_P50_S),
        Check("next clip after a kill, p95 s", round(ranked[94], 2), KILL_P95_S),
    ]
