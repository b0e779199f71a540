"""A camera on loopback, the bundled model, a real store: asked about while it runs, and killed."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from bench.camera import encode_units
from bench.rtsp_server import CameraServer, Recording
from pipeline import Pipeline
from pipeline.store import StoreConfig, open_store
from tests.videos import draw_frame

ROOT = Path(__file__).parents[3]
FPS = 10


@pytest.fixture(scope="module")
def recording():
    pictures = (draw_frame(i, 96, 128) for i in range(6 * FPS))
    return Recording(encode_units(pictures, FPS), FPS)


@pytest.fixture
def camera(recording):
    with CameraServer(recording) as server:
        yield server


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "aot.yaml"
    path.write_text(
        f"model: {{id: {ROOT}/demo/weights}}\n"
        f"store: {{url: embedded://{tmp_path}/store}}\n"
        "ingest: {fps: 4, clip_frames: 4, lease_s: 3}\n"
        "live: {networks: [127.0.0.0/8], stall_s: 5}\n"
        "ray: {enabled: false}\n"
    )
    yield path
    from pipeline.store.embedded import stop_embedded

    stop_embedded(tmp_path / "store")


def start(config, url, *options):
    command = [sys.executable, "-m", "pipeline", "--config", str(config), "ingest", url]
    return subprocess.Popen(
        [*command, "--stream", "cam", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def wait_for_clips(store, count, process, timeout_s=100):
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        if process.poll() is not None:
            raise AssertionError(f"it ended: {process.communicate()}")
        if "cam" in store.list_streams() and len(store.list_spans("cam")) >= count:
            return store.list_spans("cam")
        time.sleep(0.2)
    raise AssertionError(f"no {count} clips in {timeout_s} s")


@pytest.mark.timeout(240)
def test_a_camera_is_asked_about_while_it_runs_and_goes_on_after_a_kill(camera, config, tmp_path):
    url, store_url = camera.url, f"embedded://{tmp_path}/store"
    process = start(config, url)
    with open_store(StoreConfig(store_url)) as store:
        try:
            wait_for_clips(store, 3, process)
            with Pipeline.open(str(config)) as pipeline:
                answer = pipeline.ask("what is seen", streams=["cam"], last="1m")
            assert answer.citations

            process.kill()
            process.communicate()
            camera.drop_viewers()
            stored = store.list_spans("cam")
            process = start(config, url)
            spans = wait_for_clips(store, len(stored) + 3, process)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
        finally:
            process.kill()
            process.communicate()

        info, gaps = store.get_info("cam"), store.list_gaps("cam")
        assert info.status == "paused"
        assert info.wall_start_s == pytest.approx(time.time(), abs=300)
        assert [span.index for span in spans] == list(range(len(spans)))
        # Samples of 10 pictures a second at 4: up to half a step early.
        assert all(after.start_s > before.end_s - 0.2 for before, after in pairwise(spans))
        assert "restart" in {gap.reason for gap in gaps}
        assert store.verify("cam").ok
