"""`aot bench decode`: the GOP plan against PyAV decoding everything and against the ffmpeg CLI.

One generated 1080p clip per GOP length (what it shows: `bench.camera`), sampled at 1 fps
to 384x384 RGB. The contestants take turns in one run, each on one thread; what counts is CPU time
(of the children, for ffmpeg), so that a busy machine disturbs little.
"""

import contextlib
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from bench.camera import iter_decode_all, write_camera_clips
from bench.facts import measured_commit
from workers.decode.reader import VideoReader
from workers.types import PixelFormat, VideoSource

GOPS = (50, 250)
FPS = 1.0
SCENE_S = 10
PIXEL_FORMAT = PixelFormat(height=384, width=384)

Sampled = list[tuple[float, np.ndarray]]


@dataclass
class GopFigures:
    """CPU seconds of each contestant over all rounds on the clip of one GOP length."""

    gop: int
    bitrate_mbps: float
    plan_s: float = 0.0
    decode_all_s: float = 0.0
    ffmpeg_s: float | None = None
    identical: bool = True
    rounds: list[dict[str, float]] = field(default_factory=list)


def run(
    *,
    seconds: int = SCENE_S,
    loops: int = 4,
    rounds: int = 2,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, object]:
    """Measure and return the bench's figures; the contract's keys are described in `summarise`.

    The clips show `seconds` of scene, `loops` times over. `on_progress` is told what is being
    done, a line at a time.
    """
    ffmpeg = shutil.which("ffmpeg")
    with tempfile.TemporaryDirectory(prefix="aot-bench-") as folder, _one_thread():
        on_progress(f"encoding {seconds} s of 1080p with a GOP of {GOPS[0]} and {GOPS[1]} frames")
        paths = write_camera_clips(Path(folder), GOPS, seconds=seconds, loops=loops)
        figures = [
            _measure(path, gop, seconds * loops, rounds, ffmpeg, on_progress)
            for gop, path in paths.items()
        ]
    return summarise(figures, seconds * loops)


def summarise(figures: list[GopFigures], seconds: int) -> dict[str, object]:
    """`vs_decode_all_gop50` and the like: how many times less CPU the plan takes.

    `vs_ffmpeg_*` is None without an ffmpeg on PATH. `identical` is True only if every frame of
    every round had the time and the pixels of the full decode.
    """
    result: dict[str, object] = {
        "bench": "decode",
        "commit": measured_commit(),
        "device": "cpu",
        "identical": all(f.identical for f in figures),
        "seconds": seconds,
    }
    for f in figures:
        suffix = f"gop{f.gop}"
        result[f"vs_decode_all_{suffix}"] = round(f.decode_all_s / f.plan_s, 2)
        ffmpeg = None if f.ffmpeg_s is None else round(f.ffmpeg_s / f.plan_s, 2)
        result[f"vs_ffmpeg_{suffix}"] = ffmpeg
        result[f"x_realtime_{suffix}"] = round(seconds * len(f.rounds) / f.plan_s, 1)
        result[f"bitrate_mbps_{suffix}"] = round(f.bitrate_mbps, 1)
    return result


def _measure(
    path: Path,
    gop: int,
    seconds: int,
    rounds: int,
    ffmpeg: str | None,
    on_progress: Callable[[str], None],
) -> GopFigures:
    figures = GopFigures(gop, path.stat().st_size * 8 / seconds / 1e6)
    figures.ffmpeg_s = 0.0 if ffmpeg else None
    for number in range(1, rounds + 1):
        on_progress(f"GOP {gop}, round {number} of {rounds}")
        planned, plan_s = _timed(lambda: _plan(path))
        everything, all_s = _timed(lambda: list(iter_decode_all(path, PIXEL_FORMAT, FPS)))
        figures.plan_s += plan_s
        figures.decode_all_s += all_s
        figures.identical = figures.identical and _same(planned, everything)
        one_round = {"plan_s": plan_s, "decode_all_s": all_s}
        if ffmpeg and figures.ffmpeg_s is not None:
            one_round["ffmpeg_s"] = _ffmpeg_cpu_s(ffmpeg, path)
            figures.ffmpeg_s += one_round["ffmpeg_s"]
        figures.rounds.append(one_round)
    return figures


def _plan(path: Path) -> Sampled:
    source = VideoSource(str(path), "bench", fps=FPS)
    with VideoReader(source, PIXEL_FORMAT) as reader:
        return [(frame.pts_s, frame.pixels) for frame in reader]


def _timed(work: Callable[[], Sampled]) -> tuple[Sampled, float]:
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def _ffmpeg_cpu_s(ffmpeg: str, path: Path) -> float:
    """CPU seconds of the ffmpeg CLI for the same work, on one thread."""
    size = f"{PIXEL_FORMAT.width}:{PIXEL_FORMAT.height}"
    command = [
        *(ffmpeg, "-v", "error", "-nostdin", "-threads", "1", "-filter_threads", "1"),
        *("-i", str(path), "-an", "-vf", f"fps={FPS:g},scale={size}:flags=bicubic"),
        *("-pix_fmt", "rgb24", "-f", "rawvideo", "-"),
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=600)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _same(frames: Sampled, others: Sampled) -> bool:
    return len(frames) == len(others) and all(
        abs(a - b) < 1e-6 and np.array_equal(p, q)
        for (a, p), (b, q) in zip(frames, others, strict=True)
    )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
