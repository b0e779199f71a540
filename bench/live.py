"""`aot bench live`: endless streams on this machine, from a camera's frame to tokens that are read.

Cameras are one generated scene, 360p H.264 at 5 pictures a second with a keyframe a second, played
over RTSP by a process of its own, sampled at 1 fps: one decoder's process a stream, one model for
all, an embedded store. Measured are:

- for 1, 4, 16 streams: freshness, from the arrival of a frame's packet to its tokens being readable
  in the store; CPU of all processes but the camera's, as a share of one core;
- how many streams hold: no step down, no picture dropped, every sample encoded;
- supervision: CPU of the decoder's process, the pipe and the session over that of the bare parts in
  one process (PyAV decoding all of the same URL, the same encoder and reducer), in turns; what the
  decoder spares (`workers.decode.spare`) counts for it;
- what holding still frames saves: frames encoded of a generated camera and of a recorded one.
"""

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bench.camera import draw_still, draw_street, encode_units, iter_decode_all, iter_live_pictures
from bench.facts import measured_commit
from bench.folders import own_folder, store_url
from bench.random_checkpoint import CheckpointSize, write_random_checkpoint
from bench.rtsp_server import Recording, serve_apart
from pipeline.ingest.live import LiveEnd, ingest_live
from pipeline.ingest.live_source import open_source
from pipeline.ingest.request import IngestRequest
from pipeline.settings import Settings, load_settings
from pipeline.store.embedded import start_embedded
from workers.decode.frame import resize
from workers.live.child import NAME
from workers.live.push import InlinePusher
from workers.live.session import LiveProgress, run_live_session
from workers.live.settings import LiveSettings
from workers.live.stillness import StillnessGate
from workers.names import ClockSource
from workers.seams import Push, SessionReport
from workers.types import CompressedClip, Cursor, PixelFormat, StreamGap, VideoSource

BUNDLED = Path(__file__).parents[1] / "demo" / "weights"
HEIGHT, WIDTH, CAMERA_FPS, SCENE_S = 360, 640, 5, 12
STREAMS = (1, 4, 16)
MORE_STREAMS = (32, 48)
"""Tried in this order while the machine holds what came before."""
SECONDS = 12.0
START_S = 90.0
"""For all streams of a measurement to have come in."""
MAX_WAIT_S = 2.0
"""A frame that took longer is late: the first rung of overload."""
FAST = 8
"""For the CPU of supervision: a camera and a sampling so many times as fast."""
FAST_FRAMES, ROUNDS = 96, 5
_SCHEDULED = 2
"""CPUCLOCK_SCHED of <linux/posix-timers.h>: nanoseconds, where /proc counts hundredths."""
STILL_S = 120
RECORDED = Path("shared/videos/surveillance_one_by_one.mp4")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Load:
    """Some streams for some seconds."""

    streams: int
    freshness_p50_s: float
    freshness_p99_s: float
    encoded: int
    expected: int
    """Samples of that time."""
    dropped: int
    """Pictures that a decoder's process dropped because nobody took them."""
    rungs: tuple[str, ...]
    """Of overload that were seen; `full` alone where nothing was given up."""
    cores: float
    """Busy with decoding, encoding, reducing and storing."""
    camera_cores: float
    load_average: float
    """Of the machine over the minute before; other work counts."""

    @property
    def holds(self) -> bool:
        """Nothing was given up and nothing was late."""
        all_read = self.encoded >= 0.95 * self.expected and not self.dropped
        return all_read and self.rungs == ("full",) and self.freshness_p99_s <= MAX_WAIT_S


def run(
    *,
    seconds: float = SECONDS,
    streams: Sequence[int] = STREAMS,
    more: Sequence[int] = MORE_STREAMS,
    rounds: int = ROUNDS,
    recorded: Path = RECORDED,
    on_progress: Report = lambda _: None,
) -> dict[str, object]:
    """Measure and return the bench's figures; `seconds` of every number of streams."""
    with tempfile.TemporaryDirectory(prefix="aot-bench-") as name:
        model = bundled_model(Path(name))
        loads = list(measure_loads(model, streams, more, seconds, on_progress))
        supervision = _measure_supervision(model, rounds, on_progress)
    return {
        "bench": "live",
        "commit": measured_commit(),
        "device": "cpu",
        "model": "bundled" if model == BUNDLED else "random",
        **_flat(loads, tuple(streams)),
        **supervision,
        **_measure_stillness(recorded, on_progress),
        "loads": [{**asdict(load), "holds": load.holds} for load in loads],
    }


def bundled_model(folder: Path) -> Path:
    """The model that comes with the product, or a random one where it is not there."""
    if (BUNDLED / "config.json").is_file():
        return BUNDLED
    return write_random_checkpoint(folder / "model", CheckpointSize())


def _flat(loads: list[Load], shown: tuple[int, ...]) -> dict[str, object]:
    figures: dict[str, object] = {}
    for load in loads:
        if load.streams in shown:
            figures[f"freshness_p50_s_{load.streams}"] = load.freshness_p50_s
            figures[f"freshness_p99_s_{load.streams}"] = load.freshness_p99_s
    return figures | {
        "streams_held": max((load.streams for load in loads if load.holds), default=0)
    }


# Streams side by side


def measure_loads(
    model: Path, streams: Sequence[int], more: Sequence[int], seconds: float, on_progress: Report
) -> Iterator[Load]:
    """Each number of `streams` for so many seconds, and of `more` while the one before held."""
    recording = make_recording(CAMERA_FPS)
    held = True
    for count in (*streams, *more):
        if count in more and not held:
            return
        with serve_apart(recording) as (url, camera_pid), _settings(model) as settings:
            load = measure_load(settings, url, camera_pid, count, seconds)
        held = load.holds
        on_progress(
            f"{count} streams: fresh within {load.freshness_p50_s:.2f} s (p50), "
            f"{load.freshness_p99_s:.2f} s (p99), {load.encoded} of {load.expected} frames, "
            f"{load.dropped} dropped, {'/'.join(load.rungs)}, {load.cores:.2f} cores, "
            f"load average {load.load_average:.1f}"
        )
        yield load


def make_recording(fps: int) -> Recording:
    """The generated scene as a camera's substream, however fast it plays."""
    pictures = draw_street(SCENE_S * fps, fps, height=HEIGHT, width=WIDTH)
    return Recording(encode_units(pictures, fps, keyframe_every=CAMERA_FPS), fps)


@contextmanager
def _settings(model: Path, fps: float = 1.0) -> Iterator[Settings]:
    with own_folder() as folder:
        overrides: dict[str, Any] = {
            "model": {"id": str(model)},
            "ingest": {"fps": fps},
            "live": {"networks": ("127.0.0.0/8",)},
            "store": {"url": store_url(folder)},
            "ray": {"enabled": False},
        }
        yield load_settings(None, overrides)


def measure_load(settings: Settings, url: str, camera_pid: int, count: int, seconds: float) -> Load:
    """Ingest one camera `count` times, and look at it for `seconds` once all have come in.

    Raises:
        RuntimeError: a stream failed, or did not come in.
    """
    stop, window = threading.Event(), _Window(count, seconds, camera_pid, _store_pid(settings))
    requests = [IngestRequest(VideoSource(url, f"cam{i}", 1.0)) for i in range(count)]
    timer = threading.Timer(START_S + seconds, stop.set)
    timer.start()
    try:
        for value in ingest_live(settings, requests, stop=stop):
            if isinstance(value, LiveEnd):
                if value.error is not None:
                    raise RuntimeError(f"{value.stream_id} failed: {value.error}")
                continue
            window.see(value)
            if window.is_over:
                stop.set()
    finally:
        stop.set()
        timer.cancel()
    return window.result()


def _store_pid(settings: Settings) -> int:
    pid = start_embedded(Path(settings.store.url.removeprefix("embedded://"))).pid
    assert pid is not None
    return pid


class _Window:
    """Gathers what was seen between the first moment all streams were there and its end."""

    def __init__(self, count: int, seconds: float, camera_pid: int, store_pid: int) -> None:
        self._count, self._seconds = count, seconds
        self._camera_pid, self._store_pid = camera_pid, store_pid
        self._last: dict[str, LiveProgress] = {}
        self._began_s = self._ended_s = 0.0
        self._cpu: list[tuple[float, float]] = []
        self._fresh_s: list[float] = []
        self._rungs: dict[str, None] = {}

    @property
    def is_over(self) -> bool:
        """Whether all that is wanted was seen."""
        return self._ended_s > 0

    def see(self, value: LiveProgress) -> None:
        """Count what one stream tells, from when all of them have encoded twice."""
        before = self._last.get(value.stream_id)
        self._last[value.stream_id] = value
        if self.is_over:
            return
        if not self._began_s:
            ready = [p for p in self._last.values() if p.encoded >= 2]
            if len(ready) == self._count:
                self._began_s = time.monotonic()
                self._cpu.append(self._measure_cpu())
            return
        self._rungs[value.rung] = None
        if before is not None and value.encoded > before.encoded and value.freshness_s is not None:
            self._fresh_s.append(value.freshness_s)
        if time.monotonic() - self._began_s >= self._seconds:
            self._ended_s = time.monotonic()
            self._cpu.append(self._measure_cpu())

    def _measure_cpu(self) -> tuple[float, float]:
        """CPU seconds of the product so far, and of the camera."""
        ours = [pid for pid in descendants(os.getpid()) if pid != self._camera_pid]
        return sum(map(cpu_s, [*ours, self._store_pid])), cpu_s(self._camera_pid)

    def result(self) -> Load:
        """What was measured.

        Raises:
            RuntimeError: streams did not come in, or so late that the window was cut short.
        """
        if not self.is_over or not self._fresh_s:
            raise RuntimeError(f"{self._count} streams did not come in within {START_S:g} s")
        took_s = self._ended_s - self._began_s
        cores, camera_cores = (
            round((after - before) / took_s, 2) for before, after in zip(*self._cpu, strict=True)
        )
        return Load(
            streams=self._count,
            freshness_p50_s=round(float(np.quantile(self._fresh_s, 0.5)), 3),
            freshness_p99_s=round(float(np.quantile(self._fresh_s, 0.99)), 3),
            encoded=len(self._fresh_s),
            expected=int(self._count * took_s),
            dropped=sum(p.source.shed for p in self._last.values()),
            rungs=tuple(self._rungs),
            cores=cores,
            camera_cores=camera_cores,
            load_average=round(os.getloadavg()[0], 1),
        )


def descendants(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds a process has used, by its own clock; 0 for one that is gone."""
    try:
        return time.clock_gettime((~pid << 3) | _SCHEDULED)
    except OSError:
        return 0.0


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat behind the name: the state first."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


# What supervision costs


def _measure_supervision(model: Path, rounds: int, on_progress: Report) -> dict[str, object]:
    recording, shares = make_recording(CAMERA_FPS * FAST), []
    with (
        serve_apart(recording) as (url, _),
        _settings(model, fps=float(FAST)) as settings,
        InlinePusher(settings.compress_settings()) as pusher,
    ):
        bare_cpu_s(url, pusher)
        for number in range(rounds):
            bare_s = bare_cpu_s(url, pusher)
            live_s = supervised_cpu_s(settings, url, pusher)
            shares.append(round(live_s / bare_s - 1, 3))
            on_progress(
                f"round {number + 1}: {FAST_FRAMES} frames bare {bare_s:.2f} s CPU, "
                f"supervised {live_s:.2f} s"
            )
    return {"supervision": round(statistics.median(shares), 3), "supervision_rounds": shares}


def bare_cpu_s(url: str, pusher: InlinePusher) -> float:
    """CPU of decoding all pictures of a URL and encoding and reducing the samples, one process."""
    state, began_s = None, 0.0
    size, clip_frames = pusher.info.pixel_format, pusher.info.clip_frames
    pictures = iter_live_pictures(url, every=CAMERA_FPS)
    for number, rgb in enumerate(islice(pictures, FAST_FRAMES + 1), 1):
        last = number % clip_frames == 0
        state = pusher.push(Push(resize(rgb, size)[None], state, last=last), timeout_s=60.0).state
        began_s = began_s or time.process_time()  # opening is not counted, nor the first frame
    return time.process_time() - began_s


def supervised_cpu_s(settings: Settings, url: str, pusher: InlinePusher) -> float:
    """CPU of a session and its decoder's process for as many frames, without the store."""
    stop, began_s, first = threading.Event(), 0.0, 0
    source = VideoSource(url, "cam", float(FAST))
    live = open_source(settings.live, IngestRequest(source), stop)
    session = run_live_session(
        source, LiveSettings(), pusher.info, pusher, Forgetful(), live, stop=stop
    )
    used_s = 0.0
    for progress in session:
        if not began_s and progress.encoded:
            began_s, first = _tree_cpu_s(), progress.encoded
        if began_s and not used_s and progress.encoded >= first + FAST_FRAMES:
            used_s = _tree_cpu_s() - began_s
            stop.set()
    return used_s


def _tree_cpu_s() -> float:
    """Of this process and the decoders; the camera's process does other work."""
    decoders = [pid for pid in descendants(os.getpid())[1:] if _name_of(pid) == NAME]
    return sum(map(cpu_s, decoders)) + time.process_time()


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


class Forgetful:
    """A sink that keeps nothing."""

    def position(self) -> Cursor | None:
        return None

    def recover_open(self) -> Cursor | None:
        return None

    def covered_s(self) -> float:
        return 0.0

    def fix_wall_start(self, wall_start_s: float) -> float:
        return wall_start_s

    def tell_clock(self, epoch: int, clock: ClockSource) -> None:
        pass

    def put(self, clip: CompressedClip) -> int:
        return 0

    def put_open(self, clip: CompressedClip) -> int:
        return 0

    def put_gap(self, gap: StreamGap) -> None:
        pass

    def finish(self, report: SessionReport) -> None:
        pass

    def close(self) -> None:
        pass


# What holding still frames saves


def _measure_stillness(recorded: Path, on_progress: Report) -> dict[str, object]:
    size = PixelFormat(height=HEIGHT, width=WIDTH)
    drawn = count_encoded(draw_still(STILL_S, height=HEIGHT, width=WIDTH))
    on_progress(f"a still camera: {drawn[0]} of {drawn[1]} frames encoded")
    figures: dict[str, object] = {"still_encoded": drawn[0], "still_frames": drawn[1]}
    if recorded.is_file():
        pictures = (pixels for _, pixels in iter_decode_all(recorded, size, 1.0))
        found = count_encoded(pictures)
        on_progress(f"{recorded.name}: {found[0]} of {found[1]} frames encoded")
        figures |= {"recorded_encoded": found[0], "recorded_frames": found[1]}
    return figures


def count_encoded(pictures: Iterator[np.ndarray]) -> tuple[int, int]:
    """(Frames that are not held, all frames)."""
    gate, encoded, frames = StillnessGate(), 0, 0
    for rgb in pictures:
        frames += 1
        encoded += not gate.is_still(rgb)
    return encoded, frames
