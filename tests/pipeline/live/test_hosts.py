"""Cameras that a cluster's hosts share: killed, drained, updated, and told to end."""

import os
import signal
import time

import pytest
import ray

from pipeline.ingest.hosted import open_roster
from tests.pipeline.live.runs import Ledger, check_line
from tests.pipeline.support import aot
from tests.pipeline.test_detached import detached  # noqa: F401
from tests.waits import wait_until
from workers.cluster.cluster import ClusterSettings, open_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLIP_S, STEP_S = 2.0, 0.5
CAMERAS = [f"cam{number}" for number in range(4)]


@pytest.fixture
def address(detached):  # noqa: F811
    return detached


@pytest.fixture
def config(address, environment, monkeypatch, tmp_path, camera):
    """A settings file with four cameras, for hosts of at most three."""
    values = {
        "AOT_INGEST__FPS": "2",
        "AOT_INGEST__CLIP_FRAMES": "4",
        "AOT_LIVE__NETWORKS": '["127.0.0.0/8"]',
        "AOT_LIVE__STALL_S": "10",
        "AOT_SPOOL__FOLDER": str(tmp_path / "spool"),
        "AOT_RAY__SESSION_CPUS": "0.25",
        "AOT_RAY__STREAMS_PER_SESSION": "3",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "aot.yaml"
    lines = [f"  - {{name: {name}, url: '{camera.url}'}}" for name in CAMERAS]
    path.write_text("\n".join(["streams:", *lines]))
    return path


def clips(store, name) -> int:
    return len(store.list_spans(name)) if name in store.list_streams() else 0


def wait_for_clips(store, more, names=CAMERAS, timeout_s=180.0) -> float:
    began_s, there = time.monotonic(), {name: clips(store, name) for name in names}
    wait_until(lambda: all(clips(store, n) >= there[n] + more for n in names), timeout_s)
    return time.monotonic() - began_s


def pids_of_hosts(address) -> dict[str, int]:
    with open_cluster(ClusterSettings(address=address)) as cluster:
        actors = {name: ray.get_actor(name) for name in cluster.list_hosts()}
        ask = lambda actor: actor.__ray_call__.remote(lambda self: os.getpid())  # noqa: E731
        return {name: ray.get(ask(actor), timeout=60) for name, actor in actors.items()}


def test_hosts_share_cameras_and_take_those_of_one_that_is_killed(
    config, address, environment, opened
):
    started = aot("--config", config, "up", "--detach", "--json")
    assert started.code == 0, started.err
    assert started.json == {"detached": CAMERAS}
    wait_for_clips(opened, 2)
    ledgers = {name: Ledger(opened, name) for name in CAMERAS}
    with open_roster(environment) as roster:
        wait_until(lambda: sorted(h.num_streams for h in roster.view().hosts) == [2, 2])
        held = {host.seat.host for host in roster.view().hosts}
        victim = next(iter(pids_of_hosts(address).values()))
        os.kill(victim, signal.SIGKILL)
        began_s = time.monotonic()

        def is_shared_again() -> bool:
            view = roster.view()
            return view.num_free == 0 and len(held & {h.seat.host for h in view.hosts}) == 1

        wait_until(is_shared_again, poll_s=0.1)
        owned_s = time.monotonic() - began_s
        wait_for_clips(opened, 1)
        print(f"owned again in {owned_s:.1f} s, clips of all in {time.monotonic() - began_s:.1f} s")
    for ledger in ledgers.values():
        ledger.look()
    down = aot("cluster", "down")
    assert down.code == 0, down.err
    wait_until(lambda: all(opened.get_lease(name) is None for name in CAMERAS))
    for name in CAMERAS:
        print(name, check_line(opened, clip_s=CLIP_S, step_s=STEP_S, stream_id=name))
        assert opened.get_info(name).status == "paused"
    with open_cluster(ClusterSettings(address=address)) as cluster:
        wait_until(lambda: cluster.list_hosts() == [])
