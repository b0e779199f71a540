"""SIGKILL of every kind of process during an ingest: nothing lost, nothing twice, same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from tests.checkpoints import write_tiny_checkpoint
from tests.workers import session_support
from tests.workers.session_support import FolderSink, FolderSinkFactory, digests, open_canned
from workers.cluster.cluster import ClusterSettings, open_cluster
from workers.cluster.pool import PoolSettings
from workers.compress import CompressSettings
from workers.compress.inline import InlineWorkers
from workers.session import SessionSettings, run_session
from workers.types import VideoSource

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLIPS = 40
URL = f"canned:clips={CLIPS},delay=0.02"
POINTS = sorted(random.Random(20).sample(range(1, CLIPS - 4), 5))
"""After how many commits the process is killed."""


@pytest.fixture(scope="module")
def compress(tmp_path_factory) -> CompressSettings:
    model = write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    return CompressSettings(model=str(model), clip_frames=4)


@pytest.fixture(scope="module")
def undisturbed(compress, tmp_path_factory) -> dict[int, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with InlineWorkers(compress) as workers:
        source = VideoSource(f"canned:clips={CLIPS}", "lobby")
        sink = FolderSink(folder)
        list(run_session(source, SessionSettings(), workers, sink, open_clips=open_canned))
    return digests(folder)


@pytest.fixture(scope="module")
def cluster():
    ray.cloudpickle.register_pickle_by_value(session_support)
    with open_cluster(ClusterSettings(num_cpus=2, session_cpus=0.5)) as cluster:
        yield cluster
    ray.cloudpickle.unregister_pickle_by_value(session_support)


def start(cluster, folder, compress):
    return cluster.start_session(
        VideoSource(URL, "lobby"),
        FolderSinkFactory(folder),
        compress,
        open_clips=open_canned,
        pool=PoolSettings(workers=1, worker_cpus=0.5),
    )


def pid_of(actor) -> int:
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()), timeout=200)


def wait_for_clips(folder: Path, count: int, timeout_s: float = 60.0) -> None:
    until_s = time.monotonic() + timeout_s
    while len(list(folder.glob("clip-*.json"))) < count:
        assert time.monotonic() < until_s, f"no {count} clips in {timeout_s} s"
        time.sleep(0.005)


def finish(session) -> None:
    last = list(session.watch(interval_s=0.1))[-1]
    assert last.state == "complete"
    session.stop()


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_compress_worker_changes_nothing(
    cluster, compress, undisturbed, tmp_path, point, capfd
):
    session = start(cluster, tmp_path, compress)
    [worker] = next(iter(cluster._pools.values())).handles
    pid = pid_of(worker)
    wait_for_clips(tmp_path, point)
    os.kill(pid, signal.SIGKILL)
    finish(session)
    assert pid_of(worker) != pid
    assert digests(tmp_path) == undisturbed
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_session_goes_on_by_itself(cluster, compress, undisturbed, tmp_path, point):
    session = start(cluster, tmp_path, compress)
    pid = pid_of(session._actor)
    wait_for_clips(tmp_path, point)
    os.kill(pid, signal.SIGKILL)
    finish(session)
    assert digests(tmp_path) == undisturbed


COMMAND = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import ray
from tests.workers import session_support
from workers.cluster.cluster import ClusterSettings, open_cluster
from workers.cluster.pool import PoolSettings
from workers.compress import CompressSettings
from workers.types import VideoSource

ray.cloudpickle.register_pickle_by_value(session_support)
with open_cluster(ClusterSettings(num_cpus=2, session_cpus=0.5)) as cluster:
    session = cluster.start_session(
        VideoSource(sys.argv[4], "lobby"),
        session_support.FolderSinkFactory(Path(sys.argv[1])),
        CompressSettings(model=sys.argv[2], clip_frames=4),
        open_clips=session_support.open_canned,
        pool=PoolSettings(workers=1),
    )
    print(list(session.watch(interval_s=0.1))[-1].state)
"""


def command(folder: Path, compress: CompressSettings) -> subprocess.Popen:
    root = str(Path(__file__).parents[3])
    arguments = [sys.executable, "-c", COMMAND, str(folder), compress.model, root, URL]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_command_is_finished_by_the_next_one(compress, undisturbed, tmp_path, point):
    killed = command(tmp_path, compress)
    wait_for_clips(tmp_path, point)
    killed.kill()
    killed.communicate(timeout=200)
    committed = len(digests(tmp_path))
    again = command(tmp_path, compress)
    output, _ = again.communicate(timeout=120)
    assert output.strip() == "complete"
    assert point <= committed
    assert digests(tmp_path) == undisturbed
