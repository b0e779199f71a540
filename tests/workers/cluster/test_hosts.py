"""Many leased streams on real Ray nodes: adopted, and owned again when a node goes."""

import os
import signal
import subprocess
import time

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster as RayCluster

from pipeline.ingest.host import HostRules
from pipeline.ingest.hosted import open_roster
from pipeline.store import StoreConfig
from pipeline.store.embedded.binaries import find_server
from tests.pipeline.store.conftest import serve  # noqa: F401
from tests.pipeline.test_detached import free_port
from tests.waits import wait_until
from tests.workers.cluster import ticking
from tests.workers.cluster.ticking import TickingStreams
from workers.cluster.connect import NAMESPACE
from workers.cluster.controller import CONTROLLER, start_controller
from workers.cluster.host import HostSpec, list_hosts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NODES, HOSTS_A_NODE = 3, 3


@pytest.fixture
def books(request, monkeypatch, tmp_path):
    """Where the head keeps its books: in its memory, or in a Redis of its own."""
    if getattr(request, "param", None) is None:
        yield
        return
    port = free_port()
    command = [str(find_server().path), "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    monkeypatch.setenv("RAY_REDIS_ADDRESS", f"127.0.0.1:{port}")
    yield
    server.kill()
    server.wait(60)


@pytest.fixture
def nodes(monkeypatch, books):
    """A head without work and three nodes, whose processes go on while the head is away."""
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "600")
    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    made = [
        cluster.add_node(num_cpus=HOSTS_A_NODE, object_store_memory=80 * 2**20)
        for _ in range(NODES)
    ]
    ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(ticking)
    yield cluster, made
    ray.cloudpickle.unregister_pickle_by_value(ticking)
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def server(serve):  # noqa: F811
    return serve("--appendonly", "yes", "--appendfsync", "everysec")


def places_of_hosts() -> dict[str, tuple[int, str]]:
    """Process and node of each host actor."""
    where = lambda self: (os.getpid(), ray.get_runtime_context().get_node_id())  # noqa: E731
    actors = [ray.get_actor(name) for name in list_hosts()]
    calls = [actor.__ray_call__.remote(where) for actor in actors]
    return dict(zip(list_hosts(), ray.get(calls, timeout=300), strict=True))


def gcs_process(cluster) -> psutil.Process:
    [info] = cluster.head_node.all_processes["gcs_server"]
    return psutil.Process(info.process.pid)


def leased(client, namespace="aot") -> dict[bytes, bytes]:
    """Who holds each stream's lease."""
    keys = list(client.scan_iter(f"{namespace}:*:lease", count=5000))
    return {key: text for key, text in zip(keys, client.mget(keys), strict=True) if text}


@pytest.mark.parametrize("num_streams", [1_000, 10_000])
def test_streams_are_adopted_and_owned_again_without_a_head(nodes, server, num_streams):
    cluster, made = nodes
    config, client = StoreConfig(server.url), server.client()
    num_hosts = NODES * HOSTS_A_NODE
    rules = HostRules(most=2 * num_streams // num_hosts)
    tick_s = 10.0 if num_streams <= 1_000 else 100.0
    start_controller(HostSpec(TickingStreams(config, rules, num_hosts, tick_s), None))
    with open_roster(config) as roster:
        roster.put_wanted({"first": "{}"}, version="ticking")
        wait_until(lambda: sum(h.takes for h in roster.view().hosts) == num_hosts, 600)
        places, gcs = places_of_hosts(), gcs_process(cluster)
        hosts = [psutil.Process(pid) for pid, _ in places.values()]
        before = sum(host.memory_full_info().uss for host in hosts)
        gcs_before, redis_before = gcs.memory_info().rss, client.info("memory")["used_memory"]

        names = [f"cam{number:05}" for number in range(num_streams)]
        began_s = time.monotonic()
        roster.put_wanted(dict.fromkeys(names, "{}"), version="ticking")
        wait_until(lambda: roster.view().num_free == 0, poll_s=0.1)
        claimed_s = time.monotonic() - began_s
        wait_until(lambda: len(leased(client)) >= num_streams, poll_s=0.5)
        adopted_s = time.monotonic() - began_s
        time.sleep(5)
        grown = sum(host.memory_full_info().uss for host in hosts) - before
        redis_bytes = client.info("memory")["used_memory"] - redis_before
        gcs_mb = gcs_before / 1e6, gcs.memory_info().rss / 1e6

        lost = next(n for n in made if n.node_id == next(iter(places.values()))[1])
        pids = [pid for pid, node in places.values() if node == lost.node_id]
        gone = {h.seat.host for h in roster.view().hosts if h.seat.node == lost.node_id}
        held = sum(h.num_streams for h in roster.view().hosts if h.seat.host in gone)
        cluster.head_node.kill_gcs_server()
        time.sleep(1)
        began_s = time.monotonic()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        lost.kill_raylet(check_alive=False)

        def is_claimed() -> bool:
            view = roster.view()
            return not view.num_free and not gone & {h.seat.host for h in view.hosts}

        wait_until(is_claimed, poll_s=0.05)
        claimed_again_s = time.monotonic() - began_s
        dead = [name.encode() for name in gone]

        def is_leased() -> bool:
            holders = list(leased(client).values())
            return len(holders) >= num_streams and not any(
                name in text for text in holders for name in dead
            )

        wait_until(is_leased, poll_s=0.5)
        owned_again_s = time.monotonic() - began_s
        assert not gcs.is_running() or gcs.status() == psutil.STATUS_ZOMBIE
        view = roster.view()
    load = os.getloadavg()[0]
    print(
        f"\n{num_streams} streams on {num_hosts} hosts: claimed in {claimed_s:.1f} s, leased in "
        f"{adopted_s:.1f} s; {len(pids)} hosts with {held} streams lost and the head away: claimed "
        f"again in {claimed_again_s:.1f} s, leased again in {owned_again_s:.1f} s; "
        f"{grown / num_streams / 1e3:.0f} kB a stream in its host, "
        f"{redis_bytes / num_streams / 1e3:.1f} kB in Redis; GCS {gcs_mb[0]:.0f} -> "
        f"{gcs_mb[1]:.0f} MB; load {load:.0f}"
    )
    assert sum(host.num_streams for host in view.hosts) == num_streams
    assert grown / num_streams < 5e6


@pytest.mark.parametrize("books", ["redis"], indirect=True)
def test_a_head_with_books_in_redis_comes_back_and_starts_what_was_lost(nodes, server):
    cluster, _ = nodes
    config = StoreConfig(server.url)
    work = TickingStreams(config, HostRules(most=40), num_hosts=2, tick_s=5.0)
    start_controller(HostSpec(work, None))
    with open_roster(config) as roster:
        roster.put_wanted(dict.fromkeys((f"cam{n}" for n in range(40)), "{}"), version="ticking")
        wait_until(lambda: sorted(h.num_streams for h in roster.view().hosts) == [20, 20])
        places = places_of_hosts()
        cluster.head_node.kill_gcs_server()
        began_s = time.monotonic()
        victim = next(iter(places.values()))[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: [h.num_streams for h in roster.view().hosts] == [40])
        alone_s = time.monotonic() - began_s
        cluster.head_node.start_gcs_server()
        wait_until(lambda: sorted(h.num_streams for h in roster.view().hosts) == [20, 20])
        shared_s = time.monotonic() - began_s
    assert victim not in {pid for pid, _ in places_of_hosts().values()}
    controller = ray.get_actor(CONTROLLER)
    assert ray.get(controller.version.remote(), timeout=60) == "ticking"
    print(f"without a head owned again in {alone_s:.1f} s, shared again {shared_s:.1f} s after it")
