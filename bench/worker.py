"""What a compress worker does on a card: frames a second, its busy share, waits of the host.

The tower has the sizes of SigLIP-so400m and random weights; frames lie decoded in memory. Two
threads give it batches, as an actor's do. Busy is the time between the marks that the worker sets
around the work of each batch; gaps within a batch are in the kernels' own share, which a profile
of some more batches tells.
"""

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.random_checkpoint import CheckpointSize, write_random_checkpoint
from bench.random_tower import KEPT_LAYERS, SO400M
from workers.compress import CompressSettings, CompressWorker
from workers.compress.accelerator.conveyor import Underway
from workers.seams import Push, Pushed, WorkerInfo
from workers.types import Clip, CompressedClip

TOWER = CheckpointSize(
    image_size=int(SO400M["image_size"]),
    patch_size=int(SO400M["patch_size"]),
    vision_layers=KEPT_LAYERS,
    vision_dim=int(SO400M["hidden_size"]),
    vision_heads=int(SO400M["num_attention_heads"]),
    vision_mlp_dim=int(SO400M["intermediate_size"]),
    llm_layers=1,
    llm_dim=896,
    llm_heads=14,
    llm_kv_heads=2,
    llm_mlp_dim=128,
)
"""The vision half of LLaVA-OneVision 0.5B; of the language half only the width matters."""
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
"""Calls in which a host waits, as a profile names them."""
MADE_CLIPS = 16


def measure_worker(
    *,
    device: str = "cuda",
    reducers: tuple[str, ...] = ("adaptive", "aot"),
    tower: CheckpointSize = TOWER,
    batch_clips: int = 8,
    seconds: float = 5.0,
) -> dict[str, Any]:
    """Figures of a worker of each reducer, keyed by `worker_REDUCER_...`."""
    figures: dict[str, Any] = {"worker_batch_clips": batch_clips}
    with tempfile.TemporaryDirectory() as folder:
        began_s = time.perf_counter()
        model = _write(Path(folder) / "model", tower, device)
        figures["worker_checkpoint_s"] = round(time.perf_counter() - began_s, 1)
        for name in reducers:
            settings = CompressSettings(
                str(model),
                device=device,
                dtype="bfloat16",
                reducer=name,
                batch_clips=batch_clips,
            )
            worker = CompressWorker(settings)
            for key, value in _measure(worker, batch_clips, seconds).items():
                figures[f"worker_{name}_{key}"] = value
            worker.close()
    return figures


def _write(folder: Path, tower: CheckpointSize, device: str) -> Path:
    """The checkpoint; a CPU takes half a minute to draw its weights."""
    try:
        with torch.device(device):
            return write_random_checkpoint(folder, tower, dtype=torch.bfloat16)
    except (RuntimeError, ValueError) as error:
        print(f"weights are drawn on the host: {error}")
        return write_random_checkpoint(folder, tower, dtype=torch.bfloat16)


def _measure(worker: CompressWorker, batch_clips: int, seconds: float) -> dict[str, Any]:
    clips = _make_clips(worker.info)
    batches = [clips[start : start + batch_clips] for start in range(0, len(clips), batch_clips)]
    began_s = time.perf_counter()
    for batch in batches * 3:  # compiles, captures and fills the caches of memory
        worker.compress(batch)
    warm_up_s = time.perf_counter() - began_s
    flow = _flow(worker, batches, seconds)
    return {"warm_up_s": round(warm_up_s, 1), **flow, **_waits(worker, batches[0])}


def _make_clips(info: WorkerInfo) -> list[Clip]:
    generator = np.random.default_rng(0)
    size = (info.pixel_format.height, info.pixel_format.width, 3)
    clips = []
    for index in range(MADE_CLIPS):
        still = generator.integers(0, 200, size, dtype=np.uint8)
        noise = generator.integers(0, 40, (info.clip_frames, *size), dtype=np.uint8)
        pts_s = index * info.clip_frames + np.arange(info.clip_frames, dtype=np.float64)
        clips.append(Clip("bench", 0, index, still + noise, pts_s, float(pts_s[-1]) + 1))
    return clips


def _flow(worker: CompressWorker, batches: list[list[Clip]], seconds: float) -> dict[str, Any]:
    """Batches from as many threads as the worker takes, until the time is over."""
    done: list[list[CompressedClip]] = []
    began_s = time.perf_counter()

    def give(first: int) -> None:
        turn = first
        while turn == first or time.perf_counter() - began_s < seconds:
            results = worker.compress(batches[turn % len(batches)])
            done.append([clip for clip in results if isinstance(clip, CompressedClip)])
            turn += 1

    with ThreadPoolExecutor(worker.batches_at_once) as threads, _marks() as spans:
        list(threads.map(give, range(worker.batches_at_once)))
    wall_s = time.perf_counter() - began_s
    stats = [clip.stats for batch in done for clip in batch]
    frames = sum(stat.frames_in for stat in stats)
    encode_s, reduce_s = (sum(getattr(s, n) for s in stats) for n in ("encode_s", "reduce_s"))
    return {
        "frames_per_s": round(frames / wall_s, 1),
        "busy_share": round(sum(spans) / wall_s, 4),
        "encode_ms_per_frame": round(1000 * encode_s / max(frames, 1), 4),
        "reduce_ms_per_frame": round(1000 * reduce_s / max(frames, 1), 4),
        "reduce_over_encode": round(reduce_s / max(encode_s, 1e-9), 5),
        "retention": round(
            sum(s.tokens_out for s in stats) / max(1, sum(s.tokens_in for s in stats)), 4
        ),
        "failed_clips": sum(len(batches[0]) - len(batch) for batch in done),
    }


@contextmanager
def _marks() -> Iterator[list[float]]:
    """Seconds of the device's time of every batch that is awaited inside."""
    spans: list[float] = []
    lock, wait = threading.Lock(), Underway.wait

    def wait_and_note(self: Underway) -> list[Pushed | None]:
        results = wait(self)
        with lock:
            spans.append(self.reduced.seconds_since(self.began))
        return results

    Underway.wait = wait_and_note
    try:
        yield spans
    finally:
        Underway.wait = wait


def _waits(worker: CompressWorker, batch: list[Clip]) -> dict[str, Any]:
    """A profile of batches: launches of a batch and waits in them, and the kernels' share of time.

    One event awaited a batch is the one for its results; a profile adds two waits of its own.
    """
    if not torch.cuda.is_available():
        return {}
    pushes = [Push(clip.pixels) for clip in batch]
    rounds = 4
    for _ in range(3):
        worker.push(pushes)

    def run(function: Callable[[Any], Any], given: Any) -> tuple[Counter[str], float]:
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        threads = ThreadPoolExecutor(worker.batches_at_once)
        with torch.profiler.profile(activities=activities) as profile, threads:
            list(threads.map(function, [given] * rounds))
        events = list(profile.events() or [])
        kernels = [e for e in events if "CUDA" in str(e.device_type)]
        calls = Counter(e.name for e in events if e.name.startswith("cuda"))
        return calls, _covered([(e.time_range.start, e.time_range.end) for e in kernels])

    figures: dict[str, Any] = {}
    for name, function, given in (
        ("compress", worker.compress, batch),
        ("push", worker.push, pushes),
    ):
        try:
            calls, share = run(function, given)
        except Exception as error:  # a profile is an extra, and its tools are not everywhere
            figures[f"{name}_profile"] = f"{type(error).__name__}: {error}"
            continue
        figures[f"{name}_waits_per_batch"] = {
            call: calls[call] / rounds for call in WAITS if calls[call]
        }
        launches = sum(n for call, n in calls.items() if "Launch" in call)
        figures[f"{name}_launches_per_batch"] = launches / rounds
        figures[f"{name}_kernels_share"] = round(share, 4)
    return figures


def _covered(spans: list[tuple[float, float]]) -> float:
    """Share of the time from the first to the last in which at least one span runs."""
    if not spans:
        return 0.0
    spans = sorted(spans)
    first, reached, covered = spans[0][0], spans[0][0], 0.0
    for start, end in spans:
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered / (reached - first)
