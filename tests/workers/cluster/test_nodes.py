"""Two Ray nodes on one host: decoding on one, compressing on the other, the same bytes."""

import time
from dataclasses import replace

import pytest
import ray
from ray.cluster_utils import Cluster as RayCluster

from tests.checkpoints import write_tiny_checkpoint
from tests.workers import session_support
from tests.workers.session_support import (
    FolderSink,
    FolderSinkFactory,
    StandIn,
    digests,
    open_canned,
)
from workers.cluster.cluster import ClusterSettings, open_cluster
from workers.cluster.pool import PoolSettings
from workers.compress import CompressSettings
from workers.compress.inline import InlineWorkers
from workers.session import SessionSettings, run_session
from workers.types import VideoSource

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def nodes():
    """A head without work, a node for sessions, a node for workers."""
    small = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    nodes = RayCluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    nodes.add_node(num_cpus=2, resources={"decoding": 1}, object_store_memory=100 * 2**20)
    nodes.add_node(num_cpus=2, resources={"compressing": 1}, object_store_memory=100 * 2**20)
    ray.cloudpickle.register_pickle_by_value(session_support)
    yield nodes
    ray.cloudpickle.unregister_pickle_by_value(session_support)
    nodes.shutdown()


@pytest.fixture(scope="module")
def compress(tmp_path_factory) -> CompressSettings:
    model = write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    return CompressSettings(model=str(model), clip_frames=4)


def node_of(actor) -> str:
    call = actor.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id())
    return ray.get(call, timeout=200)


def test_two_nodes_give_the_same_records_as_one_process(nodes, compress, tmp_path):
    source = VideoSource("canned:clips=24", "lobby")
    with InlineWorkers(compress) as workers:
        sink = FolderSink(tmp_path / "inline")
        list(run_session(source, SessionSettings(), workers, sink, open_clips=open_canned))
    settings = ClusterSettings(address=nodes.address, session_resources={"decoding": 0.1})
    pool = PoolSettings(workers=2, worker_resources={"compressing": 0.1})
    with open_cluster(settings) as cluster:
        sink = FolderSinkFactory(tmp_path / "nodes")
        session = cluster.start_session(source, sink, compress, open_clips=open_canned, pool=pool)
        assert list(session.watch())[-1].state == "complete"
        [pool] = cluster._pools.values()
        decoding, compressing = (
            node_of(session._actor),
            {node_of(handle) for handle in pool.handles},
        )
    assert len(compressing) == 1
    assert decoding not in compressing
    assert digests(tmp_path / "nodes") == digests(tmp_path / "inline")
    assert len(digests(tmp_path / "nodes")) == 24


def test_a_lost_node_is_replaced_and_changes_nothing(nodes, compress, tmp_path):
    """The workers' node dies with clips in work; another of its kind takes over."""
    lost = nodes.add_node(num_cpus=1, resources={"spot": 1}, object_store_memory=100 * 2**20)
    source = VideoSource("canned:clips=60,delay=0.05", "lobby")
    with InlineWorkers(compress) as workers:
        sink = FolderSink(tmp_path / "inline")
        quick = replace(source, url="canned:clips=60")
        list(run_session(quick, SessionSettings(), workers, sink, open_clips=open_canned))
    settings = ClusterSettings(address=nodes.address, session_resources={"decoding": 0.1})
    pool = PoolSettings(workers=1, worker_resources={"spot": 0.5})
    with open_cluster(settings) as cluster:
        sink = FolderSinkFactory(tmp_path / "nodes")
        session = cluster.start_session(source, sink, compress, open_clips=open_canned, pool=pool)
        next(step for step in session.watch(interval_s=0.05) if step.clips >= 5)
        nodes.remove_node(lost, allow_graceful=False)
        nodes.add_node(num_cpus=1, resources={"spot": 1}, object_store_memory=100 * 2**20)
        stalled_s = time.monotonic()
        before = len(digests(tmp_path / "nodes"))
        next(step for step in session.watch(interval_s=0.05) if step.clips > before + 4)
        recovered_s = time.monotonic() - stalled_s
        assert list(session.watch())[-1].state == "complete"
    assert digests(tmp_path / "nodes") == digests(tmp_path / "inline")
    assert recovered_s < 60


def test_one_of_two_worker_nodes_lost_and_not_replaced_stops_nobody(nodes, tmp_path):
    """Two sessions over two workers; the node of one goes away and nothing takes its place."""
    kept = nodes.add_node(num_cpus=1, resources={"pair": 1}, object_store_memory=100 * 2**20)
    lost = nodes.add_node(num_cpus=1, resources={"pair": 1}, object_store_memory=100 * 2**20)
    settings = ClusterSettings(address=nodes.address, session_resources={"decoding": 0.1})
    pool = PoolSettings(workers=2, worker_resources={"pair": 0.6})
    with open_cluster(settings) as cluster:
        sessions = [
            cluster.start_session(
                VideoSource("canned:clips=10000,delay=0.2", name),
                FolderSinkFactory(tmp_path / name),
                CompressSettings(model="standin:"),
                open_clips=open_canned,
                pool=pool,
                open_compressor=StandIn,
            )
            for name in ("first", "second")
        ]
        for session in sessions:
            next(step for step in session.watch(interval_s=0.1) if step.clips >= 5)
        nodes.remove_node(lost, allow_graceful=False)
        started_s = time.monotonic()
        time.sleep(1)  # what was finished on the lost node is committed by now
        before = [session.status().clips for session in sessions]
        for session, clips in zip(sessions, before, strict=True):
            next(step for step in session.watch(interval_s=0.1) if step.clips > clips + 8)
        recovered_s = time.monotonic() - started_s
        last = [session.stop() for session in sessions]
    nodes.remove_node(kept)
    assert [progress.failed_clips for progress in last] == [0, 0]
    print(f"recovered in {recovered_s:.1f} s")
    assert recovered_s < 60
