"""Cameras that a cluster's hosts share: killed, drained, updated, and told to end."""

import os
import signal
import time
from contextlib import suppress

import psutil
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from ray.cluster_utils import Cluster as RayCluster

from pipeline.ingest.hosted import open_roster
from pipeline.ingest.metrics import Metrics
from tests.pipeline.live.runs import Ledger, check_line
from tests.pipeline.support import aot
from tests.pipeline.test_detached import detached  # noqa: F401
from tests.waits import wait_until
from workers.cluster.cluster import ClusterSettings, open_cluster
from workers.live.tally import PushTally

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLIP_S, STEP_S = 2.0, 0.5
STOPPED_S = 65.0
CAMERAS = [f"cam{number}" for number in range(4)]


@pytest.fixture
def address(detached):  # noqa: F811
    return detached


@pytest.fixture
def config(environment, monkeypatch, tmp_path, camera):
    """A settings file with four cameras, for hosts of at most four."""
    values = {
        "AOT_INGEST__FPS": "2",
        "AOT_INGEST__CLIP_FRAMES": "4",
        "AOT_LIVE__NETWORKS": '["127.0.0.0/8"]',
        "AOT_LIVE__STALL_S": "10",
        "AOT_SPOOL__FOLDER": str(tmp_path / "spool"),
        "AOT_RAY__SESSION_CPUS": "0.25",
        "AOT_RAY__STREAMS_PER_SESSION": "4",
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


def names_of_workers(page: str) -> set[str]:
    families = text_string_to_metric_families(page)
    samples = [sample for family in families for sample in family.samples]
    return {sample.name for sample in samples if "worker" in sample.labels}


def names_of_own_encoder() -> set[str]:
    """As a session with an encoder in its own process shows them."""
    metrics = Metrics()
    metrics.watch_worker("0", PushTally)
    return names_of_workers(metrics.render().decode())


def test_hosts_share_cameras_and_take_those_of_one_that_is_killed(
    config, address, environment, opened
):
    started = aot("--config", config, "up", "--detach", "--json")
    assert started.code == 0, started.err
    assert started.json == {"detached": CAMERAS, "ended": []}
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
        assert names_of_workers(aot("streams", "metrics").out) == names_of_own_encoder()
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


@pytest.fixture
def site(environment, monkeypatch):
    """A head, two nodes that decode and one that compresses."""
    monkeypatch.setenv("AOT_RAY__ENABLED", "true")
    monkeypatch.setenv("AOT_RAY__SESSION_RESOURCES", '{"decoding": 1}')
    monkeypatch.setenv("AOT_RAY__WORKER_RESOURCES", '{"compressing": 1}')
    small = {"object_store_memory": 80 * 2**20}
    cluster = RayCluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small}
    )
    for kind in ("decoding", "decoding", "compressing"):
        cluster.add_node(num_cpus=2, resources={kind: 2}, **small)
    monkeypatch.setenv("AOT_RAY__ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


def nodes_of_hosts(roster) -> dict[str, str]:
    """Node of each host that holds streams."""
    return {h.seat.host: h.seat.node for h in roster.view().hosts if h.num_streams}


def is_owned_without(roster, node: str) -> bool:
    """Whether all cameras are held, and none on this node."""
    hosts = roster.view().hosts
    return sum(h.num_streams for h in hosts if h.seat.node != node) == len(CAMERAS)


def processes_of_node(cluster, node_id: str) -> list[psutil.Process]:
    """A machine, as far as it is one here: its raylet and all that this one started."""
    [node] = [one for one in cluster.list_all_nodes() if one.node_id == node_id]
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [raylet, *raylet.children(recursive=True)]


def longest_gap_s(store, since: dict[str, int]) -> float:
    """Of all streams, among the gaps that came since so many were there."""
    gaps = [gap for name in CAMERAS for gap in store.list_gaps(name)[since[name] :]]
    return max((gap.end_s - gap.start_s for gap in gaps), default=0.0)


def leave(site, roster, opened, node: str) -> None:
    """Have a machine handed over before it is taken away."""
    gaps = {name: len(opened.list_gaps(name)) for name in CAMERAS}
    began_s = time.monotonic()
    drained = aot("cluster", "drain", node[:12], "--timeout", "100")
    assert drained.code == 0, drained.err
    took_s = time.monotonic() - began_s
    wait_for_clips(opened, 1)
    print(f"drained in {took_s:.1f} s, longest gap {longest_gap_s(opened, gaps):.1f} s")


def stop(site, roster, opened, node: str) -> None:
    """Have all of a machine stand still for longer than anything waits, then go on."""
    processes, began_s = processes_of_node(site, node), time.monotonic()
    for process in processes:
        process.suspend()
    tell_recovery("stopped", roster, opened, node, began_s)
    time.sleep(max(0.0, STOPPED_S - (time.monotonic() - began_s)))
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.resume()
    wait_for_clips(opened, 3)


def kill(site, roster, opened, node: str) -> None:
    """Have a machine gone for good."""
    began_s = time.monotonic()
    for process in processes_of_node(site, node):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    tell_recovery("killed", roster, opened, node, began_s)


def tell_recovery(what, roster, opened, node: str, began_s: float) -> None:
    wait_until(lambda: is_owned_without(roster, node))
    owned_s = time.monotonic() - began_s
    wait_for_clips(opened, 1)
    clips_s = time.monotonic() - began_s
    print(f"{what}: owned again in {owned_s:.1f} s, clips of all in {clips_s:.1f} s")


@pytest.mark.parametrize("happens", [leave, stop, kill])
def test_a_node_goes_and_its_cameras_go_on(config, site, environment, opened, happens):
    started = aot("--config", config, "up", "--detach", "--json")
    assert started.code == 0, started.err
    with open_roster(environment) as roster:
        wait_until(lambda: len(set(nodes_of_hosts(roster).values())) == 2)
        wait_for_clips(opened, 2)
        ledgers = {name: Ledger(opened, name) for name in CAMERAS}
        happens(site, roster, opened, next(iter(nodes_of_hosts(roster).values())))
        for ledger in ledgers.values():
            ledger.look()
    assert aot("cluster", "down").code == 0
    wait_until(lambda: all(opened.get_lease(name) is None for name in CAMERAS))
    for name in CAMERAS:
        print(name, check_line(opened, clip_s=CLIP_S, step_s=STEP_S, stream_id=name))
        assert opened.verify(name).ok
