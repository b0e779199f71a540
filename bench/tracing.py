"""`aot bench tracing`: what traces cost the path of a clip, where they are sent and where not.

Two measurements, both of CPU time of this process; the collector is another:

- A clip's trace by itself: made, sent, its thread's share included, over the CPU time of a clip on
  the whole path (decode, encode, reduce, store). The model is a tiny one, so that the share is
  overstated rather than understated.
- The whole path with traces and without, in turns: what is left of the difference beside the noise.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from bench.camera import write_camera_clips
from bench.facts import measured_commit
from bench.folders import own_folder, store_url
from bench.ingest import GOP, SCENE_S, SMALL, bench_settings, ingest_video
from bench.random_checkpoint import write_random_checkpoint
from pipeline.settings import Settings, load_settings
from pipeline.store import StoreConfig, open_store
from workers.compress.inline import InlineWorkers
from workers.tracing.open import TraceSettings, open_tracer
from workers.tracing.spans import NO_TRACER, Tracer, trace_clip
from workers.types import CompressedClip

Report = Callable[[str], None]


@dataclass(frozen=True)
class Figures:
    """CPU seconds."""

    trace_s: float
    """Of one clip's trace, made and sent."""
    nothing_s: float
    """Of one where nothing is traced."""
    off_s: tuple[float, ...]
    """Of a clip on the whole path without traces, each round."""
    on_s: tuple[float, ...]
    """The same with traces."""


def run(
    *,
    seconds: int = 160,
    rounds: int = 5,
    traces: int = 4000,
    on_progress: Report = lambda _: None,
) -> dict[str, object]:
    """Measure and return the bench's figures; `seconds` is the length of the video."""
    with own_folder() as folder, _collector() as endpoint:
        store = StoreConfig(store_url(folder))
        open_store(store).close()
        figures = _measure(folder, store, endpoint, seconds, rounds, traces, on_progress)
    return summarise(figures) | {"seconds": seconds}


def summarise(figures: Figures) -> dict[str, object]:
    """`share` is the trace of a clip over the clip; `ratio` the median of on over off."""
    clip_s = statistics.median(figures.off_s)
    ratios = [on / off for on, off in zip(figures.on_s, figures.off_s, strict=True)]
    return {
        "bench": "tracing",
        "commit": measured_commit(),
        "device": "cpu",
        "clip_cpu_ms": round(clip_s * 1e3, 2),
        "trace_cpu_us": round(figures.trace_s * 1e6, 1),
        "off_cpu_us": round(figures.nothing_s * 1e6, 2),
        "share": round(figures.trace_s / clip_s, 5),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def _measure(
    folder: Path,
    store: StoreConfig,
    endpoint: str,
    seconds: int,
    rounds: int,
    traces: int,
    on_progress: Report,
) -> Figures:
    on_progress(f"making {seconds} s of 360p")
    loops = max(1, seconds // SCENE_S)
    video = write_camera_clips(folder, (GOP,), seconds=SCENE_S, loops=loops, height=360, width=640)[
        GOP
    ]
    off = bench_settings(write_random_checkpoint(folder / "small", SMALL), store)
    on = load_settings(None, {**off.model_dump(), "tracing": {"endpoint": endpoint}})
    spent: dict[str, list[float]] = {"off": [], "on": []}
    with InlineWorkers(off.compress_settings()) as workers:
        for name, settings in (("warm", off), ("warm-too", on)):
            ingest_video(settings, video, name, workers)
        for number in range(rounds):
            on_progress(f"round {number + 1} of {rounds}")
            turns = (("off", off), ("on", on))
            for name, settings in turns if number % 2 else reversed(turns):
                spent[name].append(_clip_cpu_s(settings, video, f"{name}{number}", workers))
    on_progress(f"{traces} traces by themselves")
    with open_store(store) as opened:
        [clip] = opened.iter_clips(opened.list_spans("warm")[:1])
    trace_s = _trace_cpu_s(open_tracer(TraceSettings(endpoint)), clip, traces)
    nothing_s = _trace_cpu_s(NO_TRACER, clip, traces)
    return Figures(trace_s, nothing_s, tuple(spent["off"]), tuple(spent["on"]))


def _clip_cpu_s(settings: Settings, video: Path, stream_id: str, workers: InlineWorkers) -> float:
    before_s = time.process_time()
    last = ingest_video(settings, video, stream_id, workers)
    return (time.process_time() - before_s) / last.clips


def _trace_cpu_s(tracer: Tracer, clip: CompressedClip, traces: int) -> float:
    """CPU seconds of one trace, sent when `close` returns; slow enough that none is dropped."""
    before_s = time.process_time()
    for number in range(traces):
        with trace_clip(tracer, clip):
            pass
        if number % 50 == 49 and tracer is not NO_TRACER:
            time.sleep(0.05)
    tracer.close()
    return (time.process_time() - before_s) / traces


@contextmanager
def _collector() -> Iterator[str]:
    """Something that takes what is sent and keeps nothing, in a process of its own."""
    command = [sys.executable, "-m", "bench.tracing"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


class _Taker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


if __name__ == "__main__":
    with HTTPServer(("127.0.0.1", 0), _Taker) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
