"""`aot bench scale`: what more compress workers, and more sessions, are worth.

On a private Ray cluster of this machine, with the session, feed, pool and actors of the product.
What stands in: a compress worker sleeps where a GPU would work (`batch_s` a batch of up to
`BATCH_CLIPS`), so that the cores of this machine are not what bounds it; a clip is of plain pixels,
not decoded, and a reader waits `clip_s` for each as a decoder would that has a core of its own;
records go nowhere. So it measures what the product adds: placement, queues, batches, transfers
between processes. Efficiency of n is the rate with n over n times that with one.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from aot import AOTConfig, ClipTokens
from bench.facts import measured_commit, processor
from workers.cluster.cluster import (
    Cluster,
    ClusterSettings,
    PoolSettings,
    SessionHandle,
    open_cluster,
)
from workers.compress import CompressSettings
from workers.models.base import ModelIdentity
from workers.seams import Push, Pushed, SessionReport, WorkerInfo
from workers.types import (
    Clip,
    ClipStats,
    CompressedClip,
    Cursor,
    FailedClip,
    GapReason,
    PixelFormat,
    SourceEnd,
    StreamGap,
    VideoSource,
)

COUNTS = (1, 2, 4)
START_S = 300.0
"""For all sessions of a measurement to start, each a process of its own."""
BATCH_CLIPS = 4
WARM_CLIPS = 8
"""Of each session, before it is measured: workers that load late have joined by then."""
KEPT = 64
"""Tokens of a clip that a stand-in keeps."""
INFO = WorkerInfo(
    identity=ModelIdentity("sleeps", "local", "stand-in", "w", "p", "float32"),
    pixel_format=PixelFormat(384, 384),
    grid=(27, 27),
    dim=896,
    reducer="none",
    config=AOTConfig(),
    clip_frames=8,
)


class SleepingWorker:
    """A `Compressor` that takes a GPU's time and no processor's; the time is its model's name."""

    info = INFO
    batch_clips = BATCH_CLIPS
    batches_at_once = 1

    def __init__(self, settings: CompressSettings) -> None:
        self._batch_s = float(settings.model)

    def compress(self, clips: Sequence[Clip]) -> list[CompressedClip | FailedClip]:
        """Sleep as long as a batch takes."""
        time.sleep(self._batch_s)
        return [_compressed(clip) for clip in clips]

    def push(self, pushes: Sequence[Push]) -> list[Pushed | Exception]:
        """Nothing here is live."""
        raise NotImplementedError("a stand-in for files was pushed live frames")

    def finish(self, state: Any, dtype: torch.dtype) -> ClipTokens:
        """Nothing here is live."""
        raise NotImplementedError("a stand-in for files was told to finish a live clip")

    def close(self) -> None:
        """Holds nothing."""


@dataclass
class PlainReader:
    """Clips of plain pixels, `clip_s` apart at least."""

    source: VideoSource
    num_clips: int
    clip_s: float
    interval_s: float = 1.0
    end: SourceEnd = "complete"

    @property
    def total_s(self) -> float:
        """Seconds of the stream."""
        return float(self.num_clips * INFO.clip_frames)

    def why_gap(self, index: int) -> GapReason:
        """There are none."""
        return "gap"

    def __iter__(self) -> Iterator[Clip]:
        pixels = np.zeros((INFO.clip_frames, 384, 384, 3), np.uint8)
        for index in range(self.num_clips):
            time.sleep(self.clip_s)
            pts_s = index * INFO.clip_frames + np.arange(INFO.clip_frames, dtype=np.float64)
            yield Clip(self.source.stream_id, 0, index, pixels, pts_s, float(pts_s[-1]) + 1.0)


@contextmanager
def open_plain(
    source: VideoSource, info: WorkerInfo, cursor: Cursor | None
) -> Iterator[PlainReader]:
    """Of a URL such as `plain:40,0.1`: so many clips, so many seconds each."""
    num_clips, clip_s = source.url.removeprefix("plain:").split(",")
    yield PlainReader(source, int(num_clips), float(clip_s))


class NoSink:
    """A sink that keeps nothing, and its own factory."""

    def open(self) -> "NoSink":
        """Itself."""
        return self

    def position(self) -> Cursor | None:
        """Always at the start."""
        return None

    def put(self, clip: CompressedClip) -> int:
        """Let it go."""
        return 0

    def put_gap(self, gap: StreamGap) -> None:
        """Let it go."""

    def finish(self, report: SessionReport) -> None:
        """Note nothing."""

    def close(self) -> None:
        """Holds nothing."""


def run(
    *,
    on_progress: Any = lambda text: None,
    batch_s: float = 0.4,
    clip_s: float = 0.5,
    seconds: float = 15.0,
    counts: Sequence[int] = COUNTS,
) -> dict[str, Any]:
    """Rates and efficiencies with so many compress workers, and with so many sessions; 1 first."""
    figures: dict[str, Any] = {
        "commit": measured_commit(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "batch_s": batch_s,
        "clip_s": clip_s,
    }
    with open_cluster(ClusterSettings(num_cpus=32)) as cluster:
        for what in ("workers", "sessions"):
            for count in counts:
                rate = _measure(cluster, what, count, batch_s, clip_s, seconds)
                figures[f"{what}_{count}_clips_per_s"] = round(rate, 2)
                alone = figures[f"{what}_1_clips_per_s"]
                figures[f"{what}_{count}_efficiency"] = round(rate / count / alone, 3)
                on_progress(f"{count} {what}: {rate:.2f} clips/s")
    figures["load_after"] = round(os.getloadavg()[0], 1)
    return figures


def _measure(
    cluster: Cluster, what: str, count: int, batch_s: float, clip_s: float, seconds: float
) -> float:
    """Clips a second of all sessions together, once all of them and all workers are at work.

    Workers are measured under eight sessions that always have clips for them; sessions over as many
    workers as leave none waiting.
    """
    of_workers = what == "workers"
    num_sessions, num_workers = (8, count) if of_workers else (count, 4)
    compress = CompressSettings(model=str(batch_s), reducer=f"{what}{count}")
    pool = PoolSettings(workers=num_workers, clips_in_flight=8)
    url = f"plain:1000000,{0.0 if of_workers else clip_s}"
    sessions = [
        cluster.start_session(
            VideoSource(url, f"{what}{count}-{number}"),
            NoSink(),
            compress,
            open_clips=open_plain,
            pool=pool,
            open_compressor=SleepingWorker,
        )
        for number in range(num_sessions)
    ]
    try:
        _await_all(sessions)
        began_s, begun = time.monotonic(), _count(sessions)
        time.sleep(seconds)
        return (_count(sessions) - begun) / (time.monotonic() - began_s)
    finally:
        for session in sessions:
            session.stop()


def _await_all(sessions: Sequence[SessionHandle]) -> None:
    """Until each has begun. Raises `TimeoutError` after `START_S`, and what a session failed of."""
    until_s = time.monotonic() + START_S
    while not all(session.status().clips > WARM_CLIPS for session in sessions):
        if time.monotonic() > until_s:
            clips = [session.status().clips for session in sessions]
            raise TimeoutError(
                f"sessions had {clips} clips after {START_S:g} s, expected more than {WARM_CLIPS}"
            )
        _count(sessions)
        time.sleep(0.2)


def _count(sessions: Sequence[SessionHandle]) -> int:
    """Clips of all so far; raises what one of them failed of."""
    states = [session.status() for session in sessions]
    for state in states:
        if state.error is not None:
            raise state.error
    return sum(state.clips for state in states)


def _compressed(clip: Clip) -> CompressedClip:
    tokens = ClipTokens(
        tokens=torch.zeros(KEPT, INFO.dim),
        frame=torch.zeros(KEPT, dtype=torch.int64),
        cell=torch.arange(KEPT),
        mass=torch.ones(KEPT),
        kind=torch.zeros(KEPT, dtype=torch.uint8),
        grid=(14, 14),
    )
    stats = ClipStats(frames_in=INFO.clip_frames, tokens_in=INFO.clip_frames * 196, tokens_out=KEPT)
    return CompressedClip(
        clip.stream_id,
        clip.epoch,
        clip.index,
        float(clip.pts_s[0]),
        clip.end_s,
        tuple(clip.pts_s.tolist()),
        tokens,
        stats=stats,
    )
