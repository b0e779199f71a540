"""`aot bench ingest`: what the pipeline adds to decoding, encoding and reducing, and its memory.

Two measurements, both in this process, without Ray (which would spread the CPU time):

- Overhead: one generated 1080p video goes through the whole path into an embedded store of its own
  (session, clips, records, digests, Redis, lease), and through its bare parts: decode all clips,
  encode them one by one, reduce them one by one. Both take turns; CPU time of the process, and of
  the Redis server for the pipeline; the models are loaded before. The encoder is SigLIP at 384 px,
  base width, 4 of its layers: a thirteenth of what SigLIP-so400m costs a frame, so that the share
  of everything else is overstated rather than understated.
- Memory: an hour of video (a short scene repeated, its packets copied) through the same path with
  a small model, the resident size looked at after every clip.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from bench.camera import write_camera_clips
from bench.facts import measured_commit
from bench.folders import own_folder, store_url
from bench.random_checkpoint import CheckpointSize, write_random_checkpoint
from pipeline.ingest.job import IngestJob
from pipeline.ingest.request import IngestRequest
from pipeline.settings import Settings, load_settings
from pipeline.store import StoreConfig, open_store
from pipeline.store.embedded import start_embedded
from workers.clips import open_clips
from workers.compress import CompressSettings, reducer_for
from workers.compress.device import fixed_threads
from workers.compress.inline import InlineWorkers
from workers.models import open_vision_encoder
from workers.session import Progress, SessionSettings, run_session
from workers.types import VideoSource

GOP = 50
SCENE_S = 8
ENCODER = CheckpointSize(
    image_size=384,
    patch_size=14,
    vision_layers=4,
    vision_dim=768,
    vision_heads=12,
    vision_mlp_dim=3072,
    llm_dim=896,
    llm_heads=14,
    llm_layers=1,
)
"""SigLIP-base's width at 384 px in patches of 14, four layers, tokens of Qwen2-0.5B's width."""
SMALL = CheckpointSize()
HOUR_S = 3600
WARM_UP = 0.10
"""Share of the hour after which the memory must not grow any more."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Round:
    """CPU seconds of one turn of both contestants."""

    pipeline_s: float
    decode_s: float
    encode_s: float
    reduce_s: float
    wall_s: float
    """Of the pipeline."""

    @property
    def overhead(self) -> float:
        """CPU time of the pipeline over that of its bare parts."""
        return self.pipeline_s / (self.decode_s + self.encode_s + self.reduce_s)


@dataclass
class Memory:
    """Resident bytes after every clip, by the share of the video that was done."""

    samples: list[tuple[float, int]] = field(default_factory=list)

    def growth(self, since: float = WARM_UP) -> float | None:
        """From a share of the video to its end, as a fraction; None where it was not seen."""
        late = [size for done, size in self.samples if done >= since]
        if len(late) < 20:
            return None
        tenth = len(late) // 10
        before, after = statistics.median(late[:tenth]), statistics.median(late[-tenth:])
        return after / before - 1


def run(
    *,
    seconds: int = 24,
    rounds: int = 5,
    hour_s: int = HOUR_S,
    on_progress: Report = lambda _: None,
) -> dict[str, object]:
    """Measure and return the bench's figures.

    `seconds`: length of the video for the overhead; `hour_s`: of the one for the memory.
    """
    with own_folder() as folder:
        store = StoreConfig(store_url(folder))
        open_store(store).close()
        memory, hour = _measure_memory(folder, store, hour_s, on_progress)
        figures, last = _measure_overhead(folder, store, seconds, rounds, on_progress)
    return summarise(figures, last, memory) | {
        "seconds": seconds,
        "hour_s": hour_s,
        "hour_x_realtime": round(hour.x_realtime, 1),
    }


def summarise(figures: list[Round], last: Progress, memory: Memory) -> dict[str, object]:
    """`overhead` and the stages are medians over the rounds; `x_realtime` is by wall clock."""

    def median(name: str) -> float:
        return round(statistics.median(getattr(f, name) for f in figures), 3)

    growth, late_growth = memory.growth(), memory.growth(since=0.5)
    return {
        "bench": "ingest",
        "commit": measured_commit(),
        "device": "cpu",
        "overhead": median("overhead"),
        "overhead_rounds": [round(f.overhead, 3) for f in figures],
        "x_realtime": round(last.footage_s / statistics.median(f.wall_s for f in figures), 2),
        "retention": round(last.retention, 4),
        "rss_growth": None if growth is None else round(growth, 4),
        "rss_growth_second_half": None if late_growth is None else round(late_growth, 4),
        "rss_mb": round(memory.samples[-1][1] / 1e6, 1) if memory.samples else None,
        "pipeline_cpu_s": median("pipeline_s"),
        "decode_cpu_s": median("decode_s"),
        "encode_cpu_s": median("encode_s"),
        "reduce_cpu_s": median("reduce_s"),
    }


# --- overhead --------------------------------------------------------------------------------


def _measure_overhead(
    folder: Path, store: StoreConfig, seconds: int, rounds: int, on_progress: Report
) -> tuple[list[Round], Progress]:
    on_progress(f"encoding {seconds} s of 1080p")
    loops = max(1, seconds // SCENE_S)
    video = write_camera_clips(folder, (GOP,), seconds=SCENE_S, loops=loops)[GOP]
    model = write_random_checkpoint(folder / "encoder", ENCODER)
    settings = bench_settings(model, store)
    figures, last = [], Progress("none")
    with InlineWorkers(settings.compress_settings()) as workers:
        bare = _Bare(settings.compress_settings(), workers)
        bare.measure(video)  # warms both: they share code and weights of equal size
        for number in range(1, rounds + 1):
            on_progress(f"overhead, round {number} of {rounds}")
            parts = bare.measure(video) if number % 2 else None  # the order alternates
            pipeline_s, wall_s, last = _whole(settings, video, workers, number)
            figures.append(Round(pipeline_s, *(parts or bare.measure(video)), wall_s=wall_s))
    return figures, last


def _whole(
    settings: Settings, video: Path, workers: InlineWorkers, number: int
) -> tuple[float, float, Progress]:
    """(CPU seconds with the server's, wall seconds, last progress) of a run into the store."""
    before = (_cpu_s(settings), time.perf_counter())
    last = ingest_video(settings, video, f"round{number}", workers)
    return _cpu_s(settings) - before[0], time.perf_counter() - before[1], last


class _Bare:
    """The parts by themselves, with a model of their own."""

    def __init__(self, settings: CompressSettings, workers: InlineWorkers) -> None:
        self._encoder = open_vision_encoder(settings.model)
        self._reducer = reducer_for(self._encoder, settings)
        self._info, self._threads = workers.info, settings.threads

    def measure(self, video: Path) -> tuple[float, float, float]:
        """CPU seconds of decoding all, encoding all, reducing all."""
        laps = [time.process_time()]
        with open_clips(VideoSource(str(video), "bare"), self._info, None) as reader:
            clips = list(reader)
        laps.append(time.process_time())
        with fixed_threads(self._threads):
            features = [self._encoder.encode(clip.pixels) for clip in clips]
            laps.append(time.process_time())
            for each in features:
                self._reducer.compress_clips([each])
        laps.append(time.process_time())
        decode_s, encode_s, reduce_s = (after - before for before, after in pairwise(laps))
        return decode_s, encode_s, reduce_s


# --- memory ----------------------------------------------------------------------------------


def _measure_memory(
    folder: Path, store: StoreConfig, hour_s: int, on_progress: Report
) -> tuple[Memory, Progress]:
    on_progress(f"making {hour_s} s of 360p")
    size = {"height": 360, "width": 640}
    small = folder / "hour"
    small.mkdir()
    loops = hour_s // SCENE_S
    video = write_camera_clips(small, (GOP,), seconds=SCENE_S, loops=loops, **size)[GOP]
    settings = bench_settings(write_random_checkpoint(folder / "small", SMALL), store)
    memory, said = Memory(), 0

    def look(progress: Progress) -> None:
        nonlocal said
        done = progress.position_s / hour_s
        resident_bytes = _resident_bytes()
        if resident_bytes is not None and progress.state == "running":
            memory.samples.append((done, resident_bytes))
        if done >= said / 10:
            on_progress(
                f"memory: {progress.position_s:.0f} s, {(resident_bytes or 0) / 1e6:.0f} MB"
            )
            said += 1

    with InlineWorkers(settings.compress_settings()) as workers:
        return memory, ingest_video(settings, video, "hour", workers, look)


# --- shared ----------------------------------------------------------------------------------


def ingest_video(
    settings: Settings,
    video: Path,
    stream_id: str,
    workers: InlineWorkers,
    look: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """The pipeline with workers that are loaded already; the last progress."""
    request = IngestRequest(VideoSource(str(video), stream_id))
    sink = IngestJob(settings, settings.store_config()).sink(request, workers.info).open()
    progress = Progress(stream_id)
    try:
        for progress in run_session(
            request.source, SessionSettings(), workers, sink, open_clips=open_clips
        ):
            look(progress)
    finally:
        sink.close()
    return progress


def bench_settings(model: Path, store: StoreConfig) -> Settings:
    """All in this process, on its CPU."""
    given = {
        "model": {"id": str(model), "device": "cpu", "dtype": "float32"},
        "store": {"url": store.url},
        "ray": {"enabled": False},
    }
    return load_settings(None, given)


def _cpu_s(settings: Settings) -> float:
    """CPU seconds of this process and of the store's server."""
    folder = Path(settings.store.url.removeprefix("embedded://"))
    return time.process_time() + _process_cpu_s(start_embedded(folder).pid)


def _process_cpu_s(pid: int | None) -> float:
    """CPU seconds of another process; 0 where the system does not tell (outside Linux)."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(facts[11]) + int(facts[12])) / 100


def _resident_bytes() -> int | None:
    """Resident size of this process; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
