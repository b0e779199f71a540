"""`aot bench soak`: a day of cameras in minutes; nothing may grow.

A camera is a still scene in which one thing passes a minute, played over RTSP so many times too
fast. Each stream has its decoder's process, and a clock that runs as fast as the camera, by which
retention goes too; sessions, pusher, sink, spool and an embedded store are the product's own.
Decoders are killed now and then, so that what a reconnect leaves behind shows.

Looked at, ten times an hour of the stream: resident bytes, open files and threads of this process,
of every decoder and of the store's server; bytes of the records, which a retention rule bounds.
Compared are the medians of two hours (of twenty-four, so in proportion): of the last, and of one in
the beginning. That is the second, or begins when every stream's records have come to their bound: a
store that is still being filled grows, and should.
"""

import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from bench.camera import draw_still, encode_units
from bench.facts import measured_commit
from bench.folders import own_folder, store_url
from bench.random_checkpoint import CheckpointSize, write_random_checkpoint
from bench.rtsp_server import Recording, serve_apart
from pipeline.ingest.job import IngestJob
from pipeline.ingest.request import IngestRequest
from pipeline.settings import load_settings
from pipeline.store import ClipStore, open_store
from pipeline.store.embedded import start_embedded
from pipeline.store.retention import EVERY_S
from workers.decode.live import Pace, Picture
from workers.live.child import Request
from workers.live.forks import Forks
from workers.live.overload import OverloadRule
from workers.live.process import DecoderProcess
from workers.live.push import InlinePusher
from workers.live.session import LiveProgress, run_live_session
from workers.live.settings import LiveSettings
from workers.live.source import Backoff, LiveSource
from workers.live.stillness import StillnessRule
from workers.types import VideoSource

HOURS, STREAMS, SPEED, FPS = 24.0, 4, 60, 1.0
SLOWEST = 4.0
"""A machine that takes so many times as long is not waited for."""
HEIGHT, WIDTH = 180, 320
SCENE_S = 60
KEYFRAME_EVERY = 5
"""Pictures."""
START_S, END_S = 120.0, 60.0
LOOKS_PER_HOUR = 10
FLAT = 0.05
"""Most that anything may grow by."""
HOUR = 1 / 24
"""Share of the run whose medians are compared."""
SETTLED = 500
"""Pictures of a decoder, or a quarter of those that it gives."""
FULL = 0.9
"""Of the bound of a stream's records: from then on as much goes as comes."""
DEATHS = 8
"""Of every decoder, in the whole run."""
AWAY_S = 30.0
"""Of the stream's time, that a decoder's death takes."""
PUSH_TIMEOUT_S = 600.0
"""A machine that other work holds up is waited for."""
MAX_BYTES = 400_000
"""Of one stream's records."""
QUANTITIES = ("rss_bytes", "files", "threads")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Look:
    """One process at one moment."""

    share: float
    """Of the run that was done."""
    rss_bytes: int
    files: int
    threads: int


@dataclass
class Soak:
    """What was seen of every process, by what it does."""

    looks: dict[str, list[Look]] = field(default_factory=dict)
    record_bytes: list[int] = field(default_factory=list)
    """Of the largest stream, at every look."""
    store_bytes: list[tuple[float, int]] = field(default_factory=list)
    """What the server says that it uses."""
    full_at: float | None = None
    """Share of the run from which on no stream's records grew; None where they all still did."""

    @property
    def compared_from(self) -> float:
        """Share of the run at which the first hour begins that is compared."""
        return max(HOUR, self.full_at or 0.0)

    def growth(self, who: str, what: str) -> float | None:
        """From the first window to the last, as a fraction; None where one of them is empty."""
        samples = [(look.share, getattr(look, what)) for look in self.looks[who]]
        return grow(samples, self.compared_from)


def grow(samples: Sequence[tuple[float, float]], begins: float = HOUR) -> float | None:
    """Medians of the hour that begins at this share of the run, and of the last one, compared."""
    before, after = (
        [value for share, value in samples if low <= share <= low + HOUR]
        for low in (begins, 1.0 - HOUR)
    )
    if not before or not after:
        return None
    return statistics.median(after) / statistics.median(before) - 1


def is_flat(growths: Iterable[float | None]) -> bool:
    """Whether all were compared, and nothing grew by more than `FLAT`."""
    return all(growth is not None and growth <= FLAT for growth in growths)


def run(
    *,
    hours: float = HOURS,
    streams: int = STREAMS,
    speed: int = SPEED,
    fps: float = FPS,
    on_progress: Report = lambda _: None,
) -> dict[str, object]:
    """Run, and return the bench's figures; `speed`: stream seconds in a second, as asked for;
    `fps`: pictures in a second of the stream."""
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder())
        recording = make_recording(speed, fps)
        url, _ = stack.enter_context(serve_apart(recording))
        bench = _Bench(folder, url, speed, fps, hours, streams, on_progress)
        return bench.run()


def make_recording(speed: int, fps: float) -> Recording:
    """A minute of the scene, to be played so many times too fast; with a camera's keyframes."""
    step = max(1, round(1 / fps))
    pictures = islice(draw_still(SCENE_S, height=HEIGHT, width=WIDTH), 0, None, step)
    return Recording(encode_units(pictures, KEYFRAME_EVERY), speed / step)


class FastConnection:
    """A decoder's process whose pictures lie on a clock that runs faster; killed after a while."""

    def __init__(self, request: Request, camera: "_Camera", lives_s: float) -> None:
        self._process = DecoderProcess(request, stop=camera.stop, forks=camera.forks)
        self._camera, self._lives_s = camera, lives_s

    def __enter__(self) -> "FastConnection":
        self._process.__enter__()
        self._camera.pid, self._camera.taken = self._process.pid, 0
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.__exit__(*exc_info)

    @property
    def shed(self) -> int:
        """As the decoder's."""
        return self._process.shed

    def set_pace(self, pace: Pace) -> None:
        """As the decoder's."""
        self._process.set_pace(pace)

    def __iter__(self) -> Iterator[Picture]:
        camera = self._camera
        began_s = camera.now_s + AWAY_S
        for picture in self._process:
            media_s = picture.media_s * camera.speed
            camera.taken += 1
            camera.now_s = began_s + media_s
            yield replace(picture, media_s=media_s, arrived_s=camera.now_s, sent_s=None)
            if media_s > self._lives_s:
                os.kill(self._process.pid, signal.SIGKILL)
                self._lives_s = float("inf")


@dataclass
class _Camera:
    """One stream: its clock, and where it stands."""

    name: str
    speed: int
    stop: threading.Event
    now_s: float
    """Unix time of the last picture by the camera's clock, which the session goes by."""
    forks: Forks = field(default_factory=Forks)
    pid: int | None = None
    """Of its decoder."""
    taken: int = 0
    """Pictures of it."""
    progress: LiveProgress | None = None
    error: Exception | None = None


class _Bench:
    def __init__(
        self,
        folder: Path,
        url: str,
        speed: int,
        fps: float,
        hours: float,
        streams: int,
        report: Report,
    ) -> None:
        self._url, self._speed, self._fps, self._hours = url, speed, fps, hours
        self._report = report
        self._settled = min(SETTLED, hours * 3600 * fps / (DEATHS + 1) / 4)
        self._stop = threading.Event()
        self._folder = folder
        given: dict[str, Any] = {
            "model": {"id": str(write_random_checkpoint(folder / "model", CheckpointSize()))},
            "ingest": {"fps": fps},
            "live": {"networks": ("127.0.0.0/8",)},
            "store": {"url": store_url(folder)},
            "retention": {"max_bytes_per_stream": MAX_BYTES},
            "ray": {"enabled": False},
        }
        self._job = IngestJob.of(load_settings(None, given))
        began_s = time.time() - hours * 3600
        self._cameras = [
            _Camera(f"cam{number}", speed, self._stop, began_s) for number in range(streams)
        ]
        self._soak = Soak()

    def run(self) -> dict[str, object]:
        """Ingest until all streams stood for all hours, then the figures."""
        with InlinePusher(self._job.compress) as pusher, open_store(self._job.store) as store:
            threads = [
                threading.Thread(target=self._ingest, args=(camera, pusher), daemon=True)
                for camera in self._cameras
            ]
            for thread in threads:
                thread.start()
            began_s = time.monotonic()
            try:
                self._watch(store, began_s)
                took_s = time.monotonic() - began_s
            finally:
                self._stop.set()
                self._join(threads)
            return self._figures(store, took_s)

    def _join(self, threads: Sequence[threading.Thread]) -> None:
        for camera, thread in zip(self._cameras, threads, strict=True):
            thread.join(END_S)
            if thread.is_alive():
                camera.error = TimeoutError(f"its session did not end within {END_S:g} s")

    def _ingest(self, camera: _Camera, pusher: InlinePusher) -> None:
        settings, job = self._job.settings, self._job
        request = IngestRequest(VideoSource(self._url, camera.name, self._fps))
        rng, lives_s = random.Random(camera.name), self._hours * 3600 / (DEATHS + 1)
        wanted = Request(
            url=self._url, shown="the camera", fps=None, networks=settings.live.networks
        )
        live = LiveSource(
            lambda: FastConnection(wanted, camera, lives_s * rng.uniform(0.7, 1.3)),
            backoff=Backoff(first_s=0.1, longest_s=1.0),
            stop=self._stop,
            seed=1,
        )
        slow = OverloadRule(*(limit_s * self._speed for limit_s in (2.0, 3.0, 30.0)))
        rules = LiveSettings(
            stillness=StillnessRule(), overload=slow, push_timeout_s=PUSH_TIMEOUT_S
        )
        factory = replace(
            job.sink(request, pusher.info),
            path=None,
            spool=settings.spool_rules(),
            clock=lambda: camera.now_s,
        )
        try:
            with camera.forks, closing(factory.open()) as sink:
                for progress in run_live_session(
                    request.source,
                    rules,
                    pusher.info,
                    pusher,
                    sink,
                    live,
                    stop=self._stop,
                    clock=lambda: camera.now_s,
                ):
                    camera.progress = progress
        except Exception as error:
            camera.error = error
            self._stop.set()

    # Looking

    def _watch(self, store: ClipStore, began_s: float) -> None:
        """Look until all streams have stood for all hours, or one of them failed."""
        server = start_embedded(self._folder / "store").pid
        length_s = self._hours * 3600 / self._speed
        every_s = min(3600 / LOOKS_PER_HOUR / self._speed, length_s / 100)
        told = 0
        while (share := self._stood_s() / (self._hours * 3600)) < 1.0:
            if self._stop.wait(every_s):
                return
            if time.monotonic() - began_s > SLOWEST * length_s + START_S:
                raise RuntimeError(f"only {share:.0%} in {SLOWEST:g} times the time: too slow")
            if not share:
                continue
            self._look("session", os.getpid(), share)
            self._look("store", server, share)
            for camera in self._cameras:
                if camera.taken >= self._settled:
                    self._look(f"decoder {camera.name}", camera.pid, share)
            self._look_at_store(store, share)
            if share * 24 >= told:
                self._report(self._line(share, time.monotonic() - began_s))
                told = int(share * 24) + 1

    def _stood_s(self) -> float:
        """What the stream that is furthest behind has stored of its time."""
        ends = [camera.progress.position_s if camera.progress else 0.0 for camera in self._cameras]
        return min(ends)

    def _look(self, who: str, pid: int | None, share: float) -> None:
        look = None if pid is None else look_at(pid, share)
        if look is not None:
            self._soak.looks.setdefault(who, []).append(look)

    def _look_at_store(self, store: ClipStore, share: float) -> None:
        names = store.list_streams()
        sizes = [store.get_overview(name).totals.size_bytes for name in names]
        self._soak.record_bytes.append(max(sizes, default=0))
        if self._soak.full_at is None and min(sizes, default=0) >= FULL * MAX_BYTES:
            self._soak.full_at = share
        self._soak.store_bytes.append((share, store.stats().used_bytes))

    def _line(self, share: float, took_s: float) -> str:
        mine = self._soak.looks["session"][-1]
        return (
            f"hour {share * self._hours:.1f} after {took_s:.0f} s: session "
            f"{mine.rss_bytes / 1e6:.0f} MB, {mine.files} files, {mine.threads} threads, store "
            f"{self._soak.looks['store'][-1].rss_bytes / 1e6:.1f} MB, records "
            f"{self._soak.record_bytes[-1] / 1e6:.2f} MB"
        )

    # What came of it

    def _figures(self, store: ClipStore, took_s: float) -> dict[str, object]:
        for camera in self._cameras:
            if camera.error is not None:
                raise RuntimeError(f"{camera.name} failed: {camera.error}") from camera.error
        soak, ends = self._soak, [c.progress for c in self._cameras if c.progress is not None]
        growth = {
            f"{what}_growth": _rounded(_largest(soak.growth(who, what) for who in soak.looks))
            for what in QUANTITIES
        }
        growth["store_growth"] = _rounded(grow(soak.store_bytes, soak.compared_from))
        written = sum(progress.stored_bytes for progress in ends) / len(ends)
        # A rule is applied once a minute, and then looks at whole clips.
        slack = 1.1 * written / (self._hours * 3600) * EVERY_S + written / ends[0].clips
        peak = max(soak.record_bytes)
        return {
            "bench": "soak",
            "commit": measured_commit(),
            "device": "cpu",
            "hours": self._hours,
            "streams": len(self._cameras),
            "fps": self._fps,
            "speed": round(self._stood_s() / took_s, 1),
            "took_s": round(took_s),
            "compared_from_hour": round(soak.compared_from * self._hours, 2),
            **growth,
            "record_bytes_limit": MAX_BYTES,
            "record_bytes_peak": peak,
            "within_retention": peak <= MAX_BYTES + slack,
            "flat": is_flat(growth.values()),
            "clips": sum(progress.clips for progress in ends),
            "frames": sum(progress.frames for progress in ends),
            "encoded": sum(progress.encoded for progress in ends),
            "shed": sum(progress.source.shed for progress in ends),
            "connections": sum(progress.source.connections for progress in ends),
            "longest_unaccounted_s": round(
                max(unaccounted_s(store, camera.name) for camera in self._cameras), 3
            ),
            "processes": {
                who: {
                    what: [
                        getattr(looks[0], what),
                        getattr(looks[-1], what),
                        _rounded(soak.growth(who, what)),
                    ]
                    for what in QUANTITIES
                }
                for who, looks in soak.looks.items()
            },
        }


def look_at(pid: int, share: float) -> Look | None:
    """A process as the kernel counts it; None where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        files = len(os.listdir(f"/proc/{pid}/fd"))
        facts = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        return Look(share, int(facts["VmRSS"].split()[0]) * 1024, files, int(facts["Threads"]))
    except (OSError, KeyError):
        return None


def unaccounted_s(store: ClipStore, stream_id: str) -> float:
    """The longest stretch of a stream's line that is in no clip, not held and in no gap."""
    pieces = [(span.start_s, span.end_s) for span in store.iter_spans(stream_id)]
    pieces += [(gap.start_s, gap.end_s) for gap in store.list_gaps(stream_id)]
    end_s = longest_s = 0.0
    for start_s, stop_s in sorted(pieces):
        longest_s, end_s = max(longest_s, start_s - end_s), max(end_s, stop_s)
    return longest_s


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
