"""A real video over two Ray nodes into a Redis over TCP: the very records of one process."""

import socket
import subprocess
import time
from dataclasses import replace

import pytest
from ray.cluster_utils import Cluster as RayCluster

from pipeline.ingest.describe import stream_info
from pipeline.ingest.sink import StoreSinkFactory
from pipeline.settings import Settings
from pipeline.store import StoreConfig, open_store
from pipeline.store.embedded import find_server
from tests.checkpoints import write_tiny_checkpoint
from tests.videos import VideoSpec, write_video
from workers.clips import open_clips
from workers.cluster.cluster import ClusterSettings, open_cluster
from workers.cluster.pool import PoolSettings
from workers.compress import CompressSettings
from workers.compress.inline import InlineWorkers
from workers.session import SessionSettings, run_session
from workers.types import VideoSource

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def redis_url(tmp_path):
    """A server of the test's own on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(find_server().path), "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--dir", str(tmp_path), "--save", "", "--maxmemory-policy", "noeviction"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        until_s = time.monotonic() + 100
        while not answers(port):
            assert time.monotonic() < until_s, "the server did not start in 10 s"
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
        server.terminate()


@pytest.fixture
def address():
    """A head without work, a node for sessions, a node for workers."""
    small = {"object_store_memory": 100 * 2**20}
    nodes = RayCluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small}
    )
    nodes.add_node(num_cpus=2, resources={"decoding": 1}, **small)
    nodes.add_node(num_cpus=2, resources={"compressing": 1}, **small)
    yield nodes.address
    nodes.shutdown()


def records(config: StoreConfig) -> list[bytes]:
    with open_store(config) as store:
        return [store.get_record(span) for span in store.list_spans("walk")]


def test_two_nodes_and_redis_over_tcp_give_the_records_of_one_process(address, redis_url, tmp_path):
    path = write_video(tmp_path / "walk.mp4", VideoSpec(frames=600, fps=15, gop=30))
    source = VideoSource(str(path), "walk", wall_start_s=1_700_000_000.0)
    model = write_tiny_checkpoint(tmp_path / "model")
    compress = CompressSettings(model=str(model), clip_frames=4)
    inline = StoreConfig(redis_url, namespace="inline")
    with InlineWorkers(compress) as workers:
        factory = StoreSinkFactory(inline, stream_info(source, workers.info, Settings()))
        sink = factory.open()
        list(run_session(source, SessionSettings(), workers, sink, open_clips=open_clips))
        sink.close()
    settings = ClusterSettings(address=address, session_resources={"decoding": 0.1})
    pool = PoolSettings(workers=2, worker_resources={"compressing": 0.1})
    with open_cluster(settings) as cluster:
        for name in ("first", "second", "second"):
            session = cluster.start_session(
                source,
                replace(factory, store=replace(inline, namespace=name)),
                compress,
                open_clips=open_clips,
                pool=pool,
            )
            last = list(session.watch(interval_s=0.1))[-1]
            session.stop()
    assert (last.state, last.clips) == ("complete", 0)
    expected = records(inline)
    assert len(expected) == 10
    assert records(replace(inline, namespace="first")) == expected
    assert records(replace(inline, namespace="second")) == expected
