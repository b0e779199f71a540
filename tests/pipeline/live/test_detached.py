"""A camera in a cluster: goes on without a terminal, through kills, until it is told to stop."""

import os
import random
import re
import signal
import time

import psutil
import pytest
import ray

from tests.pipeline.live.runs import STREAM, Ledger, check_line, decoder_of
from tests.pipeline.support import aot
from tests.pipeline.test_detached import detached  # noqa: F401
from tests.waits import HANG_S, wait_until
from workers.cluster.cluster import ClusterSettings, open_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLIP_S, STEP_S = 1.0, 0.2
POINTS = 20


@pytest.fixture
def address(detached, environment, monkeypatch, tmp_path):  # noqa: F811
    """A cluster for sessions that are killed more often than a day would see."""
    values = {
        "AOT_INGEST__FPS": "5",
        "AOT_INGEST__CLIP_FRAMES": "5",
        "AOT_INGEST__LEASE_S": "3",
        "AOT_LIVE__NETWORKS": '["127.0.0.0/8"]',
        "AOT_LIVE__STALL_S": "5",
        "AOT_SPOOL__FOLDER": str(tmp_path / "spool"),
        "AOT_RAY__SESSION_RESTARTS": "1000",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return detached


def wait_for_clips(store, more, timeout_s=HANG_S):
    began_s, there = time.monotonic(), clips(store)
    wait_until(lambda: clips(store) >= there + more, timeout_s)
    return time.monotonic() - began_s


def clips(store) -> int:
    return len(store.list_spans(STREAM)) if STREAM in store.list_streams() else 0


def pids_of(address) -> dict[str, int]:
    """Processes of the stream: its session, a compress worker, its decoder."""
    with open_cluster(ClusterSettings(address=address)):
        names = ray.util.list_named_actors()
        [worker] = [name for name in names if name.startswith("compress-")]
        [session] = [name for name in names if name.startswith("host-")]
        actors = {"session": ray.get_actor(session), "worker": ray.get_actor(worker)}
        pids = {
            name: ray.get(actor.__ray_call__.remote(lambda self: os.getpid()), timeout=60)
            for name, actor in actors.items()
        }
    return pids


def start(camera):
    started = aot("ingest", camera.url, "--stream", STREAM, "--detach", "--json")
    assert started.code == 0, started.err
    assert started.json == {"detached": [STREAM]}


def test_a_camera_goes_on_without_a_terminal_until_it_is_told_otherwise(camera, address, opened):
    start(camera)
    wait_for_clips(opened, 3)
    assert opened.get_info(STREAM).status == "running"
    start(camera)  # it is read so already, and goes on
    other = aot("ingest", camera.url, "--stream", "b", "--detach", "--retention", "0.3")
    assert (other.code, "by other settings than these" in other.err) == (2, True)

    page = aot("streams", "metrics")
    assert page.code == 0, page.err
    assert re.search(rf'aot_stream_clips_total{{stream="{STREAM}"}} [1-9]', page.out), page.out
    assert f'aot_stream_up{{stream="{STREAM}"}} 1.0' in page.out

    began_s = time.monotonic()
    paused = aot("streams", "pause", STREAM, "--json")
    assert paused.json == {"stream_id": STREAM, "state": "stopped"}, paused.err
    assert aot("streams", "pause", STREAM).code == 1
    print(f"paused in {time.monotonic() - began_s:.1f} s, the command's start among them")
    assert opened.get_info(STREAM).status == "paused"
    assert opened.get_lease(STREAM) is None
    assert opened.get_open(STREAM) is None

    resumed = aot("streams", "resume", STREAM)
    assert resumed.code == 0, resumed.err
    assert "is on the list of the cluster again" in resumed.out
    wait_for_clips(opened, 2)
    seconds = check_line(opened, clip_s=CLIP_S, step_s=STEP_S)
    assert seconds["restart"] > 0
    os.kill(decoder_of(pids_of(address)["session"]), signal.SIGKILL)
    wait_until(lambda: "its decoder died" in aot("streams", "logs", STREAM).out)

    removed = aot("streams", "rm", STREAM, "--yes")
    assert removed.code == 0, removed.err
    assert opened.list_streams() == []
    time.sleep(3)
    assert opened.list_streams() == []


@pytest.mark.parametrize("what", ["worker", "session", "decoder"])
def test_kills_lose_nothing(camera, address, opened, what):
    start(camera)
    wait_for_clips(opened, 2)
    ledger, rng, took_s = Ledger(opened), random.Random(5), []
    for _ in range(POINTS):
        time.sleep(rng.random())
        pids = pids_of(address)
        pid = decoder_of(pids["session"]) if what == "decoder" else pids[what]
        os.kill(pid, signal.SIGKILL)
        took_s.append(wait_for_clips(opened, 2))
        ledger.look()
    assert aot("streams", "pause", STREAM).code == 0
    ordered, seconds = sorted(took_s), check_line(opened, clip_s=CLIP_S, step_s=STEP_S)
    print(
        f"{POINTS} kills of the {what}: two clips p50 {ordered[POINTS // 2]:.1f} s, "
        f"p95 {ordered[int(0.95 * POINTS)]:.1f} s; {seconds}"
    )
    assert opened.verify(STREAM).ok


def test_a_session_that_is_terminated_commits_and_leaves_within_ten_seconds(
    camera, address, opened
):
    start(camera)
    wait_for_clips(opened, 2)
    process = psutil.Process(pids_of(address)["session"])
    process.terminate()
    process.wait(10)
    assert opened.get_info(STREAM).status == "paused"
    assert opened.get_open(STREAM) is None
    check_line(opened, clip_s=CLIP_S, step_s=STEP_S)
    wait_for_clips(opened, 2)  # the controller starts another, as the stream is still wanted
