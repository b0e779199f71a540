"""A live ingest that is watched, disturbed and accounted for: what the tests of faults share."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psutil

from pipeline.ingest.live import LiveEnd, ingest_live
from pipeline.ingest.request import IngestRequest
from pipeline.settings import Settings, load_settings
from pipeline.store import ClipStore
from tests.pipeline.support import digests
from workers.live.child import NAME
from workers.live.session import LiveProgress
from workers.types import VideoSource

ROOT = Path(__file__).parents[3]
STREAM = "cam"


def live_settings(store_url: str, *, fps: float = 5.0, clip_frames: int = 5, **live) -> Settings:
    """The bundled model, a camera on loopback, limits of seconds."""
    return load_settings(
        None,
        {
            "model": {"id": str(ROOT / "demo/weights")},
            "store": {"url": store_url, "appendfsync": "always"},
            "ingest": {"fps": fps, "clip_frames": clip_frames, "lease_s": 3},
            "live": {
                "networks": ("127.0.0.0/8",),
                "stall_s": 2.0,
                "open_timeout_s": 4.0,
                **live,
            },
            "ray": {"enabled": False},
        },
    )


class LiveRun:
    """One camera's ingest in a thread; its progress, and how it ended."""

    def __init__(self, settings: Settings, url: str) -> None:
        self.last = LiveProgress(STREAM)
        self.error: Exception | None = None
        self.outages: list[str] = []
        self._stop = threading.Event()
        source = VideoSource(url, STREAM, settings.ingest.fps)
        self._news = ingest_live(settings, [IngestRequest(source)], stop=self._stop)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for value in self._news:
                if isinstance(value, LiveEnd):
                    self.error = value.error
                else:
                    if value.outage is not None and value.outage != self.last.outage:
                        self.outages.append(value.outage)
                    self.last = value
        except Exception as error:
            self.error = error

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def wait(self, condition: Callable[[], bool], timeout_s: float = 90.0) -> float:
        """Seconds until something holds; fails where the run ends before."""
        began_s = time.monotonic()
        while not condition():
            assert self.is_running, f"it ended: {self.error!r}"
            assert time.monotonic() - began_s < timeout_s, f"not in {timeout_s} s: {self.last}"
            time.sleep(0.02)
        return time.monotonic() - began_s

    def wait_for_clips(self, more: int, timeout_s: float = 90.0) -> float:
        """Seconds until so many clips more are durable."""
        there = self.last.clips
        return self.wait(lambda: self.last.clips >= there + more, timeout_s)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self.is_running


@contextmanager
def running(settings: Settings, url: str) -> Iterator[LiveRun]:
    """A run that has stored two clips, stopped at the end."""
    run = LiveRun(settings, url)
    try:
        run.wait_for_clips(2, 120)
        yield run
    finally:
        run.stop()


def decoder_of(pid: int | None = None) -> int:
    """The process that decodes for a process, this one by default."""
    while True:
        for child in psutil.Process(pid).children(recursive=True):
            if child.status() == psutil.STATUS_ZOMBIE:
                continue
            if child.name() == NAME:
                return child.pid
        time.sleep(0.01)


class Ledger:
    """Digests that a reader saw; nothing of it may change or go."""

    def __init__(self, store: ClipStore, stream_id: str = STREAM) -> None:
        self._store, self._stream_id = store, stream_id
        self.seen = digests(store, stream_id)

    def look(self) -> int:
        """See again; how many clips there are."""
        now = digests(self._store, self._stream_id)
        lost = {place for place, digest in self.seen.items() if now.get(place) != digest}
        assert not lost, f"lost or changed: {lost}"
        self.seen = now
        return len(now)


def check_line(
    store: ClipStore, *, clip_s: float, step_s: float, stream_id: str = STREAM
) -> dict[str, float]:
    """Every second is in exactly one clip or gap, but for a clip's length; seconds by reason."""
    spans, gaps = store.list_spans(stream_id), store.list_gaps(stream_id)
    assert [span.index for span in spans] == list(range(len(spans))), "lost or doubled"
    seconds = {"clip": sum(span.end_s - span.start_s for span in spans)}
    for gap in gaps:
        seconds[gap.reason] = seconds.get(gap.reason, 0.0) + gap.end_s - gap.start_s
    parts = sorted((part.start_s, part.end_s) for part in [*spans, *gaps])
    for before, after in pairwise(parts):
        assert after[0] - before[1] < clip_s + 1.5 * step_s, f"unaccounted: {before} {after}"
        # Nobody's clock: a new epoch may begin a little before the last sample's second is over.
        assert before[1] - after[0] < 0.6 * step_s, f"twice: {before} {after}"
    line_s = parts[-1][1] - parts[0][0]
    assert abs(sum(seconds.values()) - line_s) < max(clip_s, 0.02 * line_s), (seconds, line_s)
    wall_s = store.get_info(stream_id).wall_start_s
    assert wall_s is not None
    seconds["behind"] = time.time() - (wall_s + parts[-1][1])
    return seconds
