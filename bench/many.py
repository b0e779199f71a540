"""`python -m bench.many`: how many streams that are nearly idle a machine carries, and their cost.

Cameras are one generated scene, a picture in 5 seconds, of which every second one is encoded,
played over RTSP by a process of its own; everything else is the product's `aot up` in this process:
a session and a decoder's process a stream, one model for all, an embedded store. Streams are added
a few at a time, until all are there or the machine has no more memory to give; then what is there
runs on. Counted are memory and CPU a stream, and whether anything was shed.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.camera import draw_street, encode_units
from bench.facts import measured_commit, processor
from bench.folders import own_folder, store_url
from bench.live import HEIGHT, WIDTH, bundled_model, cpu_s, descendants
from bench.rtsp_server import Recording, serve_apart
from pipeline.ingest.live import LiveEnd, ingest_live, named_streams
from pipeline.settings import Settings, load_settings
from pipeline.store.embedded import start_embedded
from workers.live.session import LiveProgress

SPARE_BYTES = 3 << 30
"""Of the machine's memory, left to others."""
ADDED_AT_ONCE, ADD_EVERY_S = 12, 3.0
RAMP_S = 600.0
LATE_S = 90.0
"""What has not come in so long after the last was added counts as silent."""


@dataclass(frozen=True)
class Carried:
    """Streams that ran for a while after the last of them had come in."""

    streams: int
    wanted: int
    bound_by: str
    """What kept it from more; `nothing` where all came in."""
    ramp_s: float
    held_s: float
    encoded: int
    expected: int
    """Frames of that time."""
    shed: int
    """Pictures that nobody took."""
    rungs: tuple[str, ...]
    """Of overload that were seen; `full` alone where nothing was given up."""
    silent: int
    """Streams of which no frame was encoded in that time."""
    freshness_p50_s: float
    freshness_p99_s: float
    cores: float
    camera_cores: float
    decoder_mb: float
    """Memory of one decoder: its share of what it shares included."""
    session_mb: float
    """What a stream adds to the process that reads all of them."""
    load_before: float


def carry(
    count: int,
    seconds: float,
    *,
    fps: float = 0.1,
    camera_fps: float = 0.2,
    ramp_s: float = RAMP_S,
) -> Carried:
    """Add up to `count` streams in up to `ramp_s`, and look at them for `seconds`."""
    load_before = round(os.getloadavg()[0], 1)
    pictures = draw_street(4, max(1, round(camera_fps)), height=HEIGHT, width=WIDTH)
    recording = Recording(encode_units(pictures, max(1, round(camera_fps))), camera_fps)
    with own_folder() as folder, serve_apart(recording) as (url, camera_pid):
        names = [f"cam{number:04}" for number in range(count)]
        settings = load_settings(
            None,
            {
                "model": {"id": str(bundled_model(folder))},
                "ingest": {"fps": fps},
                "live": {"networks": ("127.0.0.0/8",), "stall_s": 60.0, "open_timeout_s": 60.0},
                "store": {"url": store_url(folder)},
                "spool": {"folder": str(folder / "spool")},
                "log": {"folder": str(folder / "logs")},
                "ray": {"enabled": False},
                "streams": [{"name": name, "url": url} for name in names],
            },
        )
        store_pid = start_embedded(Path(settings.store.url.removeprefix("embedded://"))).pid
        assert store_pid is not None
        meter = _Meter(settings, seconds, ramp_s, camera_pid, store_pid)
        return meter.run(load_before)


class _Meter:
    """Adds streams, then counts."""

    def __init__(
        self, settings: Settings, seconds: float, ramp_s: float, camera_pid: int, store_pid: int
    ) -> None:
        self._settings, self._seconds, self._ramp_s = settings, seconds, ramp_s
        self._fps = settings.ingest.fps or 1.0
        self._camera_pid, self._store_pid = camera_pid, store_pid
        self._wanted = min(ADDED_AT_ONCE, self._limit)
        self._bound_by = ""
        self._began_s = self._added_s = time.monotonic()
        self._last: dict[str, LiveProgress] = {}
        self._base_bytes = 0

    @property
    def _limit(self) -> int:
        return len(self._settings.streams)

    def run(self, load_before: float) -> Carried:
        """Until the time is over.

        Raises:
            RuntimeError: a stream was refused.
        """
        stop = threading.Event()
        first = self._with_streams(self._wanted)
        since_s, cpu, before = 0.0, (0.0, 0.0), dict[str, LiveProgress]()
        fresh_s: list[float] = []
        rungs: dict[str, None] = {}
        for value in ingest_live(
            first, named_streams(first), stop=stop, keep=True, look=self._look
        ):
            if isinstance(value, LiveEnd):
                continue
            known = self._last.get(value.stream_id)
            self._last[value.stream_id] = value
            if not since_s:
                if self._are_all_there():
                    since_s, cpu, before = time.monotonic(), self._cpu(), dict(self._last)
                continue
            rungs[value.rung] = None
            if known is not None and value.encoded > known.encoded and value.freshness_s:
                fresh_s.append(value.freshness_s)
            if time.monotonic() - since_s > self._seconds and not stop.is_set():
                held_s, after = time.monotonic() - since_s, self._cpu()
                decoder_mb, session_mb = self._memory()
                stop.set()
                self._result = (held_s, after, decoder_mb, session_mb)
        held_s, after, decoder_mb, session_mb = self._result
        fresh_s.sort()
        mine, camera = ((b - a) / held_s for a, b in zip(cpu, after, strict=True))
        return Carried(
            streams=self._wanted,
            wanted=self._limit,
            bound_by=self._bound_by,
            ramp_s=round(since_s - self._began_s, 1),
            held_s=round(held_s, 1),
            encoded=len(fresh_s),
            expected=int(self._wanted * held_s * self._fps),
            shed=sum(
                one.source.shed - before[name].source.shed
                for name, one in self._last.items()
                if name in before
            ),
            rungs=tuple(rungs),
            silent=self._wanted
            - sum(
                name in before and one.encoded > before[name].encoded
                for name, one in self._last.items()
            ),
            freshness_p50_s=round(fresh_s[len(fresh_s) // 2], 3),
            freshness_p99_s=round(fresh_s[len(fresh_s) * 99 // 100], 3),
            cores=round(mine, 3),
            camera_cores=round(camera, 3),
            decoder_mb=decoder_mb,
            session_mb=session_mb,
            load_before=load_before,
        )

    def _with_streams(self, count: int) -> Settings:
        return self._settings.model_copy(update={"streams": self._settings.streams[:count]})

    def _are_all_there(self) -> bool:
        """All that were added, or as many as came soon after the last of them."""
        if not self._bound_by:
            return False
        there = sum(one.encoded > 0 for one in self._last.values())
        return there >= self._wanted or time.monotonic() - self._added_s > LATE_S

    def _look(self) -> Settings | None:
        """A few streams more, once those before have a process that runs."""
        now_s = time.monotonic()
        if self._bound_by or now_s - self._added_s < ADD_EVERY_S:
            return None
        if not self._base_bytes and self._last:
            self._base_bytes = _rss_bytes(os.getpid())
        seen = sum(one.frames > 0 for one in self._last.values())
        if available_bytes() < SPARE_BYTES:
            self._bound_by = "memory"
        elif self._wanted >= self._limit:
            self._bound_by = "nothing"
        elif now_s - self._began_s > self._ramp_s:
            self._bound_by = "time to start"
        elif seen < self._wanted - 4 * ADDED_AT_ONCE:
            return None  # those before first
        if self._bound_by:
            return None
        self._added_s = now_s
        self._wanted = min(self._limit, self._wanted + ADDED_AT_ONCE)
        return self._with_streams(self._wanted)

    def _cpu(self) -> tuple[float, float]:
        """CPU seconds of the product, and of the camera."""
        ours = [pid for pid in descendants(os.getpid()) if pid != self._camera_pid]
        return sum(map(cpu_s, [*ours, self._store_pid])), cpu_s(self._camera_pid)

    def _memory(self) -> tuple[float, float]:
        """MB of one decoder, and what a stream adds here."""
        others = {os.getpid(), self._camera_pid, self._store_pid}
        decoders = [_pss_bytes(pid) for pid in descendants(os.getpid()) if pid not in others]
        each = sum(decoders) / max(1, self._wanted)
        grown = _rss_bytes(os.getpid()) - self._base_bytes
        return round(each / 1e6, 1), round(grown / max(1, self._wanted) / 1e6, 2)


def available_bytes() -> int:
    """What the machine can give before it swaps or kills."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("the kernel does not tell how much memory is available")


def _pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(arguments: Sequence[str], *, tell: Callable[[str], None] = print) -> int:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.many")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument(
        "--ramp", type=float, default=RAMP_S, help="seconds to add them in, at most"
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--fps", type=float, default=0.1, help="frames encoded a second")
    parser.add_argument("--camera-fps", type=float, default=0.2, help="pictures a second")
    options = parser.parse_args(arguments)
    carried = carry(
        options.streams,
        options.seconds,
        fps=options.fps,
        camera_fps=options.camera_fps,
        ramp_s=options.ramp,
    )
    facts = {"bench": "many", "commit": measured_commit(), "processor": processor()}
    tell(json.dumps(facts | asdict(carried)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
