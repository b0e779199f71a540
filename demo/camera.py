"""A generated camera on loopback: a scene as H.264 over RTSP, ingested while it plays."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bench.camera import encode_units
from bench.rtsp_server import CameraServer, Recording
from demo.world.scenes import Scene
from demo.world.video import iter_frames
from pipeline.ingest.live import LiveEnd, ingest_live
from pipeline.ingest.request import IngestRequest
from pipeline.settings import Settings
from workers.live.session import LiveProgress
from workers.types import VideoSource

FPS = 10
SIZE = 448
LONGEST_S = 120.0
"""The camera is stopped after so long, whatever happens, where nothing else is said."""


@contextmanager
def live_camera(
    settings: Settings, scene: Scene, stream: str, *, frames: int, longest_s: float = LONGEST_S
) -> Iterator[LiveProgress]:
    """A camera that shows a scene again and again is ingested inside, from `frames` frames on.

    Stream second 0 is the scene's; the session goes on by itself until the block is left.

    Raises:
        RuntimeError: the stream failed, or the frames did not come.
    """
    units = encode_units(iter_frames(scene, size=SIZE, fps=FPS), FPS)
    stop = threading.Event()
    timer = threading.Timer(longest_s, stop.set)
    with CameraServer(Recording(units, FPS)) as camera:
        request = IngestRequest(VideoSource(camera.url, stream, settings.ingest.fps))
        news = ingest_live(settings, [request], stop=stop)
        timer.start()
        try:
            yield _wait_for_frames(news, frames)
        finally:
            timer.cancel()
            stop.set()
            for _ in news:  # until what is open is committed
                pass


def _wait_for_frames(news: Iterator[LiveProgress | LiveEnd], frames: int) -> LiveProgress:
    for progress in news:
        if isinstance(progress, LiveEnd):
            raise RuntimeError(f"the camera's stream ended early: {progress.error}")
        if progress.encoded >= frames:
            return progress
    raise RuntimeError("the camera's stream ended early")
