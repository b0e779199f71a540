"""SIGKILL and SIGSTOP of every process that a live stream has: nothing told is lost or doubled."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from pipeline.store import StoreConfig, open_store
from pipeline.store.embedded import stop_embedded
from tests.pipeline.live.runs import (
    ROOT,
    STREAM,
    Ledger,
    check_line,
    decoder_of,
    live_settings,
    running,
)
from tests.waits import HANG_S, wait_until

CLIP_S, STEP_S = 1.0, 0.2
FROZEN_LEASE_S = 5
"""Longer than a busy machine keeps a writer that lives from renewing it."""
POINTS = 20
CONFIG = """
model: {{id: {root}/demo/weights}}
store: {{url: 'embedded://{store}', appendfsync: always}}
ingest: {{fps: 5, clip_frames: 5, lease_s: {lease_s}}}
live: {{networks: [127.0.0.0/8], stall_s: 5}}
ray: {{enabled: false}}
"""


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "store"
    stop_embedded(tmp_path / "store")


@pytest.fixture
def opened(folder):
    with open_store(StoreConfig(f"embedded://{folder}", appendfsync="always")) as store:
        yield store


@pytest.fixture
def start(tmp_path, folder, camera):
    """`start()`: `aot ingest` of the camera in a process of its own, ended with the test."""
    started = []

    def start_one(lease_s: float = 3) -> subprocess.Popen:
        config = tmp_path / "aot.yaml"
        config.write_text(CONFIG.format(root=ROOT, store=folder, lease_s=lease_s))
        command = [sys.executable, "-m", "pipeline", "--config", str(config), "ingest", camera.url]
        process = subprocess.Popen(
            [*command, "--stream", STREAM],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def wait_for_clips(store, count, process, timeout_s=HANG_S):
    """Seconds until a reader sees so many clips."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < timeout_s:
        assert process.poll() is None, f"it ended: {process.communicate()}"
        if STREAM in store.list_streams() and len(store.list_spans(STREAM)) >= count:
            return time.monotonic() - began_s
        time.sleep(0.02)
    raise AssertionError(f"no {count} clips in {timeout_s} s")


def told(what, took_s, seconds):
    ordered = sorted(took_s)
    at = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    rounded = {name: round(value, 1) for name, value in seconds.items()}
    print(  # of an idle machine only: never asserted
        f"{len(took_s)} kills of {what}: next clip p50 {ordered[len(ordered) // 2]:.1f} s, "
        f"p95 {at:.1f} s; seconds {rounded}"
    )


def kill_decoders(camera, folder, opened, points, **clips):
    rng, took_s = random.Random(3), []
    settings = live_settings(f"embedded://{folder}", **clips)
    with running(settings, camera.url) as run:
        ledger = Ledger(opened)
        for _ in range(points):
            time.sleep(2 * rng.random())
            os.kill(decoder_of(), signal.SIGKILL)
            outages = len(run.outages)
            began_s = time.monotonic()
            run.wait(lambda seen=outages: len(run.outages) > seen, 30)
            run.wait(lambda: run.last.outage is None, 60)
            run.wait_for_clips(1)
            took_s.append(time.monotonic() - began_s)
            ledger.look()
    clip_s = settings.ingest.clip_frames / settings.ingest.fps
    return took_s, check_line(opened, clip_s=clip_s, step_s=1 / settings.ingest.fps)


@pytest.mark.timeout(300)
def test_a_killed_decoder_loses_nothing(camera, folder, opened):
    _, seconds = kill_decoders(camera, folder, opened, 1)

    assert seconds["crashed"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_killed_decoders_lose_nothing(camera, folder, opened):
    took_s, seconds = kill_decoders(camera, folder, opened, POINTS, fps=1.0, clip_frames=8)

    told("the decoder (8 frames a clip, 1 fps)", took_s, seconds)
    assert seconds["crashed"] > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_killed_sessions_lose_nothing(start, opened):
    rng, took_s = random.Random(4), []
    process = start()
    wait_for_clips(opened, 2, process)
    ledger = Ledger(opened)
    for _ in range(POINTS):
        time.sleep(2 * rng.random())
        process.kill()
        process.communicate()
        there, began_s = ledger.look(), time.monotonic()
        process = start()
        # What was open when it was killed becomes a clip at once; the next one is of new pictures.
        wait_for_clips(opened, there + 2, process)
        took_s.append(time.monotonic() - began_s)
        ledger.look()
    process.send_signal(signal.SIGTERM)
    began_s = time.monotonic()
    process.communicate(timeout=120)
    ended_s = time.monotonic() - began_s

    seconds = check_line(opened, clip_s=CLIP_S, step_s=STEP_S)
    told("the whole command, started again at once", took_s, seconds)
    assert ended_s <= 10
    assert opened.verify(STREAM).ok


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_writer_that_was_frozen_beyond_its_lease_is_refused(start, opened):
    frozen = start(lease_s=FROZEN_LEASE_S)
    wait_for_clips(opened, 1, frozen)
    decoder = decoder_of(frozen.pid)
    for pid in (frozen.pid, decoder):
        os.kill(pid, signal.SIGSTOP)
    ledger = Ledger(opened)
    there = ledger.look()
    wait_until(lambda: opened.get_lease(STREAM) is None)
    second = start(lease_s=FROZEN_LEASE_S)
    wait_for_clips(opened, there + 2, second)
    ledger.look()

    for pid in (decoder, frozen.pid):
        os.kill(pid, signal.SIGCONT)
    _, said = frozen.communicate(timeout=60)

    assert frozen.returncode == 1
    assert "LeaseLost" in said
    assert "Traceback" not in said
    wait_for_clips(opened, ledger.look() + 2, second)
    ledger.look()
    check_line(opened, clip_s=CLIP_S, step_s=STEP_S)
