"""Sessions and pools on a real Ray: same bytes as inline, order, bounds, errors."""

import os

import pytest
import ray

from tests.checkpoints import write_tiny_checkpoint
from tests.videos import VideoSpec, write_video
from tests.waits import HANG_S
from tests.workers import session_support
from tests.workers.session_support import (
    FolderSink,
    FolderSinkFactory,
    digests,
    open_canned,
    report,
)
from workers.clips import check_source, open_clips
from workers.cluster.check import check_on_cluster
from workers.cluster.cluster import ClusterSettings, open_cluster
from workers.cluster.pool import PoolSettings
from workers.cluster.session import SessionSpec, start_session
from workers.compress import CompressSettings
from workers.compress.inline import InlineWorkers
from workers.errors import (
    ClusterUnreachable,
    InvalidSettings,
    ModelNotFound,
    SourceUnreachable,
    WorkerError,
    WorkerLost,
)
from workers.session import SessionSettings, run_session
from workers.types import VideoSource

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def compress(model) -> CompressSettings:
    return CompressSettings(model=model, clip_frames=4)


@pytest.fixture(scope="module")
def cluster():
    """One private cluster of two cores for the whole file."""
    ray.cloudpickle.register_pickle_by_value(session_support)
    with open_cluster(ClusterSettings(num_cpus=2, session_cpus=0.5)) as cluster:
        yield cluster
    ray.cloudpickle.unregister_pickle_by_value(session_support)


@pytest.fixture(scope="module")
def inline_digests(compress, tmp_path_factory) -> dict[int, str]:
    """What 9 clips of the stream `lobby` give without Ray."""
    folder = tmp_path_factory.mktemp("inline")
    with InlineWorkers(compress) as workers:
        source, sink = VideoSource("canned:clips=9", "lobby"), FolderSink(folder)
        list(run_session(source, SessionSettings(), workers, sink, open_clips=open_canned))
    return digests(folder)


def start(cluster, folder, compress, url="canned:clips=9", *, workers=1, stream="lobby"):
    return cluster.start_session(
        VideoSource(url, stream),
        FolderSinkFactory(folder),
        compress,
        open_clips=open_canned,
        pool=PoolSettings(workers=workers, worker_cpus=0.25),
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_ray_gives_the_same_records_as_inline(cluster, compress, inline_digests, tmp_path, workers):
    session = start(cluster, tmp_path, compress, workers=workers)
    last = list(session.watch(interval_s=0.1))[-1]
    session.stop()
    assert (last.state, last.clips) == ("complete", 9)
    assert digests(tmp_path) == inline_digests
    assert len(set(inline_digests.values())) == 9


def test_a_video_gives_the_same_records_on_ray_and_inline(cluster, compress, tmp_path):
    path = write_video(tmp_path / "walk.mp4", VideoSpec(frames=300, fps=15, gop=30))
    source = VideoSource(str(path), "walk", wall_start_s=1_700_000_000.0)
    with InlineWorkers(compress) as workers:
        sink = FolderSink(tmp_path / "inline")
        list(run_session(source, SessionSettings(), workers, sink, open_clips=open_clips))
    session = cluster.start_session(
        source,
        FolderSinkFactory(tmp_path / "ray"),
        compress,
        open_clips=open_clips,
        pool=PoolSettings(worker_cpus=0.25),
    )
    last = list(session.watch(interval_s=0.1))[-1]
    session.stop()
    assert (last.state, last.clips, last.frames, last.total_s) == ("complete", 5, 20, 20.0)
    assert digests(tmp_path / "ray") == digests(tmp_path / "inline")
    assert report(tmp_path / "ray")["truncated"] is False


def test_a_missing_model_is_named_and_leaves_no_worker(cluster):
    settings = CompressSettings(model="/nowhere/at-all")
    with pytest.raises(ModelNotFound, match="/nowhere/at-all"):
        cluster.open_pool(settings, PoolSettings(worker_cpus=0.25))


def test_workers_without_a_place_are_an_error_in_bounded_time(cluster, compress):
    pool = PoolSettings(worker_resources={"moon": 1.0}, ready_timeout_s=1.0)
    other = CompressSettings(model=compress.model, retention=0.5)
    with pytest.raises(WorkerLost, match=r"needs 0.5 CPU, 0.0 GPU \{'moon': 1.0\}"):
        cluster.open_pool(other, pool)


def test_a_session_without_a_place_is_an_error_in_bounded_time(cluster, compress, tmp_path):
    name, _ = cluster.open_pool(compress, PoolSettings(worker_cpus=0.25))
    source, sink = VideoSource("canned:clips=1", "moon"), FolderSinkFactory(tmp_path)
    spec = SessionSpec(source, sink, compress, open_canned, name)
    session = start_session(spec, cpus=0.1, resources={"moon": 1.0})
    assert session.status(timeout_s=0.1).state == "starting"
    with pytest.raises(WorkerLost, match=r"stream moon did not start in 0\.5 s"):
        list(session.watch(interval_s=0.1, start_timeout_s=0.5))
    session.kill()


def test_a_session_fails_with_the_error_of_its_source(cluster, compress, tmp_path):
    session = start(cluster, tmp_path, compress, "canned:clips=9,break=4", stream="gate")
    with pytest.raises(SourceUnreachable, match="the source went away"):
        list(session.watch(interval_s=0.1))
    session.stop()
    assert list(digests(tmp_path)) == [0, 1, 2, 3]
    assert report(tmp_path)["error_code"] == "SourceUnreachable"


def test_a_session_is_found_by_its_stream_refused_a_second_time_and_stopped(
    cluster, compress, tmp_path
):
    session = start(cluster, tmp_path, compress, "canned:clips=900,delay=0.05", stream="door")
    next(step for step in session.watch(interval_s=0.1) if step.clips >= 2)
    with pytest.raises(WorkerError, match="stream door has a running session"):
        start(cluster, tmp_path, compress, stream="door")
    found = cluster.find_session("door")
    assert cluster.list_sessions() == ["door"]
    assert found.stop(timeout_s=10.0).state == "stopped"
    assert report(tmp_path)["state"] == "stopped"
    assert (tmp_path / "closed").exists()
    assert cluster.find_session("elsewhere") is None


def test_a_source_is_looked_at_where_its_session_would_run(cluster, tmp_path):
    video = write_video(tmp_path / "a.mp4", frames=8, fps=4)
    cluster.check_source(check_source, VideoSource(str(video), "lobby"))
    with pytest.raises(SourceUnreachable, match=r"none\.mp4"):
        cluster.check_source(check_source, VideoSource(str(tmp_path / "none.mp4"), "lobby"))


@pytest.mark.parametrize("reason", ["no place", "a crash"])
def test_a_cluster_that_cannot_look_leaves_it_to_the_session(cluster, caplog, reason):
    def crash(source):
        os._exit(1)

    cpus, timeout_s = (100.0, 0.5) if reason == "no place" else (0.25, 60.0)
    source = VideoSource("none.mp4", "lobby")
    check_on_cluster(crash, source, cpus=cpus, resources={}, timeout_s=timeout_s)
    assert "stream lobby: " in caplog.text


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:port"])
def test_an_address_that_cannot_be_is_refused(address):
    with (
        pytest.raises(InvalidSettings, match="HOST:PORT"),
        open_cluster(ClusterSettings(address=address)),
    ):
        pass


def test_an_address_where_nothing_listens_is_an_error_at_once():
    with (
        pytest.raises(ClusterUnreachable, match=r"nothing answers at Ray address 127.0.0.1:1\b"),
        open_cluster(ClusterSettings(address="127.0.0.1:1")),
    ):
        pass


def test_a_cluster_of_ones_own_gives_way_to_nobody(cluster):
    """Ray's own niceness of workers is 15."""
    niceness = ray.remote(num_cpus=0)(lambda: os.nice(0))
    assert ray.get(niceness.remote(), timeout=HANG_S) == os.nice(0)


def test_a_second_connection_is_refused_and_leaves_the_first(cluster):
    with pytest.raises(InvalidSettings, match="connected to a Ray cluster already"):
        open_cluster(ClusterSettings()).__enter__()
    assert ray.is_initialized()


def test_pool_settings_are_checked():
    with pytest.raises(InvalidSettings, match="workers must be at least 1, got 0"):
        PoolSettings(workers=0)
