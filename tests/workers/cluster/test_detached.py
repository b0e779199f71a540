"""Sessions that outlive the command that started them, on a cluster that outlives it too."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray

from tests.checkpoints import write_tiny_checkpoint
from tests.waits import HANG_S, wait_until
from tests.workers.session_support import FolderSink, digests, open_canned
from workers.cluster.cluster import ClusterSettings, open_cluster, start_local_cluster
from workers.compress import CompressSettings
from workers.compress.inline import InlineWorkers
from workers.errors import ClusterUnreachable
from workers.session import SessionSettings, run_session
from workers.types import VideoSource

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLIPS = 60

COMMAND = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import ray
from tests.workers import session_support
from workers.cluster.cluster import ClusterSettings, open_cluster
from workers.cluster.pool import PoolSettings
from workers.compress import CompressSettings
from workers.types import VideoSource

ray.cloudpickle.register_pickle_by_value(session_support)
with open_cluster(ClusterSettings(address=sys.argv[2], session_cpus=0.5)) as cluster:
    session = cluster.start_session(
        VideoSource(sys.argv[5], "lobby"),
        session_support.FolderSinkFactory(Path(sys.argv[3])),
        CompressSettings(model=sys.argv[4], clip_frames=4),
        open_clips=session_support.open_canned,
        pool=PoolSettings(workers=1),
        detached=True,
    )
    next(step for step in session.watch(interval_s=0.1) if step.clips >= 3)
    print("started", flush=True)
    if sys.argv[6] == "linger":
        input()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory) -> dict[int, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with InlineWorkers(CompressSettings(model=model, clip_frames=4)) as workers:
        source, sink = VideoSource(f"canned:clips={CLIPS}", "lobby"), FolderSink(folder)
        list(run_session(source, SessionSettings(), workers, sink, open_clips=open_canned))
    return digests(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def local() -> ClusterSettings:
    settings, _ = start_local_cluster(ClusterSettings(local_port=free_port(), num_cpus=2))
    yield settings
    with open_cluster(settings):
        session_folder = ray.get_runtime_context().get_session_name()
    for process in psutil.process_iter(["cmdline"]):
        if any(session_folder in word for word in process.info["cmdline"] or []):
            os.kill(process.pid, signal.SIGKILL)


@pytest.fixture
def command(local, model, tmp_path):
    """Starts a command that ingests detached, says `started` and, asked to linger, waits."""
    processes = []

    def start(*, linger=False, delay_s=0.05) -> subprocess.Popen:
        root, url = str(Path(__file__).parents[3]), f"canned:clips={CLIPS},delay={delay_s}"
        end = "linger" if linger else "leave"
        arguments = [root, local.address, str(tmp_path), model, url, end]
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=200)


@pytest.mark.parametrize("end", ["leave", "kill"])
def test_a_detached_session_outlives_its_command(local, command, undisturbed, tmp_path, end):
    process = command(linger=end == "kill")
    assert process.stdout.readline() == "started\n"
    if end == "kill":
        process.kill()
    process.wait(timeout=200)
    assert not (tmp_path / "complete").exists()
    wait_until((tmp_path / "complete").exists)
    assert digests(tmp_path) == undisturbed
    with open_cluster(local) as cluster:
        wait_until(lambda: cluster.list_sessions() == [])
        wait_until(lambda: ray.util.list_named_actors() == [])


def test_a_detached_session_is_found_and_stopped_by_another_command(local, command, tmp_path):
    process = command(delay_s=0.5)
    assert process.stdout.readline() == "started\n"
    process.wait(timeout=200)
    with open_cluster(local) as cluster:
        assert cluster.list_sessions() == ["lobby"]
        progress = cluster.find_session("lobby").stop()
        wait_until(lambda: cluster.list_sessions() == [])
    assert progress.state == "stopped"
    assert 3 <= progress.clips < CLIPS
    assert (tmp_path / "closed").exists()


def test_a_running_local_cluster_is_joined_not_started_again(local):
    started_s = time.monotonic()
    again, _ = start_local_cluster(ClusterSettings(local_port=int(local.address.split(":")[1])))
    assert again.address == local.address
    assert time.monotonic() - started_s < 30
    with open_cluster(again):
        niceness = ray.remote(num_cpus=0)(lambda: os.nice(0))
        assert ray.get(niceness.remote(), timeout=HANG_S) == os.nice(0)


def test_something_else_at_the_address_is_an_error_in_bounded_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = ClusterSettings(address=address, connect_timeout_s=3.0)
        with pytest.raises(ClusterUnreachable, match="does not answer as Ray in 3 s"):
            open_cluster(settings).__enter__()
