"""Killed, interrupted and spread over processes: afterwards the store holds the same bytes."""

import os
import random
import signal

import pytest
import ray

from pipeline.ingest.job import IngestJob
from pipeline.ingest.on_ray import RayRunner
from pipeline.ingest.request import IngestRequest
from pipeline.ingest.run import ingest
from pipeline.settings import load_settings
from pipeline.values.errors import UnknownStream
from tests.pipeline.support import aot, digests, rows, running
from tests.videos import write_video
from tests.waits import HANG_S, wait_until
from workers.cluster.cluster import ClusterSettings, open_cluster
from workers.types import VideoSource

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLIPS = 60
FPS = 2.0
POINTS = sorted(random.Random(3).sample(range(1, CLIPS - 10), 5))
"""After how many stored clips something is killed."""
MODES = {"ray": "true", "inline": "false"}


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """60 clips of four frames, two a second."""
    path = tmp_path_factory.mktemp("video") / "long.mp4"
    return write_video(path, frames=CLIPS * 8, fps=4, gop=8, width=320, height=240)


@pytest.fixture
def undisturbed(opened, settings, long_video):
    """Digests and index of a run nobody disturbs, under the name `long`, removed again."""
    list(ingest(settings, [IngestRequest(VideoSource(str(long_video), "long", FPS))]))
    result = digests(opened, "long"), rows(opened, "long")
    assert len(result[0]) == CLIPS
    opened.delete_stream("long")
    return result


def stored(opened) -> int:
    try:
        return opened.get_overview("long").totals.clips
    except UnknownStream:
        return 0


def same(opened, undisturbed) -> bool:
    return (digests(opened, "long"), rows(opened, "long")) == undisturbed


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_command_is_finished_by_the_next(opened, undisturbed, long_video, point, mode):
    environment = {"AOT_RAY__ENABLED": MODES[mode]}
    with running("ingest", long_video, environment=environment) as process:
        wait_until(lambda: stored(opened) >= point)
        process.kill()
        process.communicate(timeout=HANG_S)
    assert point <= stored(opened) < CLIPS
    again = aot("ingest", long_video, environment=environment)
    assert again.code == 0, again.err
    assert same(opened, undisturbed)
    assert opened.get_info("long").status == "complete"
    assert opened.get_lease("long") is None


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_command_ends_soon_and_is_resumed(
    opened, undisturbed, long_video, number, mode
):
    environment = {"AOT_RAY__ENABLED": MODES[mode]}
    with running("ingest", long_video, environment=environment) as process:
        wait_until(lambda: stored(opened) >= POINTS[1])
        process.send_signal(number)
        _, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 130
    assert "interrupted; what was stored is kept" in err
    assert "Traceback" not in err
    assert opened.get_info("long").status == "paused"
    assert opened.get_lease("long") is None
    assert POINTS[1] <= stored(opened) < CLIPS
    again = aot("ingest", long_video, environment=environment)
    assert again.code == 0, again.err
    assert same(opened, undisturbed)


@pytest.fixture(scope="module")
def cluster():
    with open_cluster(ClusterSettings(num_cpus=3)) as opened_cluster:
        yield opened_cluster


def start(cluster, long_video, **given):
    """A session in the shared cluster, as `aot ingest` starts it."""
    settings = load_settings(None, {"ray": {"enabled": True, **given}})
    request = IngestRequest(VideoSource(str(long_video), "long", FPS))
    return RayRunner(IngestJob.of(settings), cluster).start(request)


def finish(session) -> str:
    state = list(session.watch())[-1].state
    session.stop()
    return state


def pid_of(actor) -> int:
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()), timeout=HANG_S)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("run_number", [1, 2])
def test_any_number_of_workers_gives_the_bytes_of_one_process(
    cluster, opened, undisturbed, long_video, workers, run_number
):
    assert finish(start(cluster, long_video, workers=workers, worker_cpus=0.5)) == "complete"
    assert same(opened, undisturbed)


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_worker_changes_no_byte(cluster, opened, undisturbed, long_video, point):
    session = start(cluster, long_video)
    worker = pid_of(next(iter(cluster._pools.values())).handles[0])
    wait_until(lambda: stored(opened) >= point)
    os.kill(worker, signal.SIGKILL)
    assert finish(session) == "complete"
    assert same(opened, undisturbed)


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_session_goes_on_by_itself(cluster, opened, undisturbed, long_video, point):
    session = start(cluster, long_video)
    pid = pid_of(session._actor)
    wait_until(lambda: stored(opened) >= point)
    os.kill(pid, signal.SIGKILL)
    assert finish(session) == "complete"
    assert same(opened, undisturbed)
    assert opened.get_lease("long") is None
