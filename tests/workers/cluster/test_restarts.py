"""A session that dies again and again: started anew so often a day, then recorded as crashed."""

import os

import pytest
import ray

from tests.workers import session_support
from tests.workers.session_support import FolderSinkFactory, StandIn, open_canned, report
from workers.cluster.cluster import ClusterSettings, open_cluster
from workers.cluster.pool import PoolSettings
from workers.compress import CompressSettings
from workers.errors import SessionCrashed
from workers.types import VideoSource

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def cluster():
    ray.cloudpickle.register_pickle_by_value(session_support)
    with open_cluster(ClusterSettings(num_cpus=2, session_cpus=0.5, session_restarts=2)) as cluster:
        yield cluster
    ray.cloudpickle.unregister_pickle_by_value(session_support)


def start(cluster, folder, open_clips):
    return cluster.start_session(
        VideoSource("canned:clips=3", "lobby"),
        FolderSinkFactory(folder),
        CompressSettings(model="standin:", clip_frames=4),
        open_clips=open_clips,
        pool=PoolSettings(worker_cpus=0.25),
        open_compressor=StandIn,
    )


def test_a_source_that_kills_its_session_is_an_error_that_is_recorded(cluster, tmp_path):
    def open_deadly(source, info, cursor):
        os._exit(1)

    session = start(cluster, tmp_path, open_deadly)
    with pytest.raises(SessionCrashed, match="died 3 times within 24 h, expected at most 2"):
        list(session.watch(interval_s=0.2))
    assert report(tmp_path)["error_code"] == "SessionCrashed"
    session.kill()
    again = start(cluster, tmp_path, open_canned)
    assert list(again.watch(interval_s=0.2))[-1].state == "complete"
    again.kill()
