"""Pools by their names: who is served, who is left alone, and that none is left behind."""

import gc
import os
import threading
import time
from collections import deque
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count

import pytest
import ray

from tests.waits import wait_until
from tests.workers import session_support
from tests.workers.session_support import (
    INFO,
    FolderSinkFactory,
    StandIn,
    make_clip,
    open_canned,
)
from workers.cluster.cluster import ClusterSettings, open_cluster
from workers.cluster.feed import ClusterWorkers
from workers.cluster.pool import PoolSettings, close_pool, leave_pool, open_pool
from workers.cluster.scaling import Busyness, Scaling
from workers.compress import CompressSettings
from workers.errors import ModelChanged, ModelNotFound, WorkerLost
from workers.types import VideoSource

pytestmark = pytest.mark.timeout(300)
numbers = count()


@pytest.fixture(scope="module")
def cluster():
    ray.cloudpickle.register_pickle_by_value(session_support)
    with open_cluster(ClusterSettings(num_cpus=2, session_cpus=0.25)) as cluster:
        yield cluster
    ray.cloudpickle.unregister_pickle_by_value(session_support)


@pytest.fixture
def name(cluster) -> str:
    return f"pool-{next(numbers)}"


def opened(name, *, workers=1, model="standin:", detached=True, tenant="me", cpus=0.1, **options):
    timeout_s = options.pop("ready_timeout_s", 60.0)
    return open_pool(
        CompressSettings(model=model),
        PoolSettings(workers, worker_cpus=cpus, ready_timeout_s=timeout_s),
        name=name,
        detached=detached,
        tenant=tenant,
        open_compressor=StandIn,
        **options,
    )


def test_workers_live_on_where_the_opening_that_made_them_ends_after_another(cluster, monkeypatch):
    """Two sessions are started side by side; the maker's handle is all that keeps a worker."""
    settings, pool = CompressSettings(model="standin:slow"), PoolSettings(1, worker_cpus=0.1)
    ended = []

    def open_twice(*args, **options):
        if not ended:
            made = open_pool(*args, **options)
            ended.append(made)
            return open_pool(*args, **options)
        return ended.pop()

    monkeypatch.setattr("workers.cluster.cluster.open_pool", open_twice)
    name, _ = cluster.open_pool(settings, pool, open_compressor=StandIn)
    pid = worker_pid(name)
    cluster.open_pool(settings, pool, open_compressor=StandIn)
    gc.collect()
    time.sleep(2.0)  # one without its maker's handle ends within a tenth of that
    assert worker_pid(name) == pid


def worker_pid(pool: str) -> int:
    handle = ray.get_actor(f"{pool}-0")
    return ray.get(handle.__ray_call__.remote(lambda self: os.getpid()), timeout=10)


def actors(name: str = "") -> list[str]:
    return [found for found in ray.util.list_named_actors() if found.startswith(name)]


def test_a_pool_starts_with_the_workers_that_have_a_place(name):
    """Of three that take 0.8 of two cores each, two find a place; the third may come later."""
    pool = opened(name, workers=3, cpus=0.8)
    assert len(pool.handles) == 3
    assert pool.ready
    wait_until(lambda: len(opened(name, workers=3, cpus=0.8).ready) == 2)
    time.sleep(1.0)
    assert len(opened(name, workers=3, cpus=0.8).ready) == 2
    leave_pool(pool, "me")
    wait_until(lambda: actors(name) == [])


def test_an_opening_in_vain_leaves_the_workers_of_others_alone(name):
    pool = opened(name, cpus=0.8)
    with pytest.raises(WorkerLost, match="2 compress workers did not start"):
        opened(f"{name}b", workers=2, cpus=3.0, tenant="other", ready_timeout_s=0.5)
    expected = replace(INFO, identity=replace(INFO.identity, weights="others"))
    with pytest.raises(ModelChanged):
        opened(name, workers=2, cpus=0.8, tenant="other", expected=expected)
    assert ray.get(pool.handles[0].describe.remote(), timeout=10) == pool.info
    leave_pool(pool, "me")
    leave_pool(pool, "other")
    wait_until(lambda: actors("pool-") == [])


def test_a_pool_ends_when_its_last_session_has_left_and_no_sooner(name):
    first, second = opened(name, tenant="first"), opened(name, tenant="second")
    other = opened(f"{name}x", tenant="first")
    leave_pool(first, "first")
    time.sleep(7)
    assert sorted(actors(name)) == [f"{name}-0", f"{name}x-0"]
    leave_pool(second, "second")
    wait_until(lambda: actors(name) == [f"{name}x-0"])
    leave_pool(other, "first")
    wait_until(lambda: actors(name) == [])


@pytest.mark.slow
def test_a_session_that_died_without_leaving_holds_no_worker(name):
    """As after a pause that kills, a crash, or a start that failed: nobody says good-bye."""
    opened(name, tenant="dead")
    pool = opened(f"{name}y", tenant="alive")
    group = ClusterWorkers(pool, PoolSettings(), tenant="alive")
    wait_until(lambda: actors(name) == [f"{name}y-0"])
    time.sleep(5)
    assert actors(name) == [f"{name}y-0"]
    group.close()
    close_pool(pool.handles)


def test_a_pool_that_is_ending_is_opened_anew(name):
    pool = opened(name)
    ray.kill(pool.handles[0])
    again = opened(name)
    assert ray.get(again.handles[0].describe.remote(), timeout=10) == pool.info
    close_pool(again.handles)


def test_a_worker_that_dies_while_it_loads_is_a_typed_error_and_gone(name, tmp_path):
    (dies := tmp_path / "dies").touch()
    with pytest.raises(WorkerLost, match=r"died 3 times while it loaded standin:dies"):
        opened(name, model=f"standin:dies={dies}")
    wait_until(lambda: actors(name) == [])


def test_a_model_that_is_not_there_is_named_at_once_and_leaves_no_worker(name, tmp_path):
    (away := tmp_path / "away").touch()
    with pytest.raises(ModelNotFound):
        opened(name, model=f"standin:away={away}", workers=2)
    wait_until(lambda: actors(name) == [])


def test_a_stop_ends_the_wait_for_a_place(name):
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(WorkerLost, match="stopped before"):
        opened(name, cpus=3.0, stop=stop)
    wait_until(lambda: actors(name) == [])


def test_two_models_whose_sessions_overlap_leave_nothing_behind(cluster, tmp_path):
    sessions = [
        cluster.start_session(
            VideoSource(f"canned:clips={clips},delay=0.05", f"stream{number}"),
            FolderSinkFactory(tmp_path / str(number)),
            CompressSettings(model="standin:", retention=0.1 * (number + 1), clip_frames=4),
            open_clips=open_canned,
            pool=PoolSettings(worker_cpus=0.25),
            detached=True,
            open_compressor=StandIn,
        )
        for number, clips in enumerate((20, 120))
    ]
    wait_until(lambda: len(actors("compress-shared")) == 2)
    assert list(sessions[0].watch())[-1].state == "complete"
    wait_until(lambda: len(actors("compress-shared")) == 1)
    assert list(sessions[1].watch())[-1].state == "complete"
    wait_until(lambda: actors("compress-shared") == [])


def test_a_worker_that_the_others_do_without_says_so_and_the_first_never():
    scaling = Scaling(1, 3, idle_after_s=10.0)

    def goes_after(number: int, busy_every: int) -> float | None:
        busyness = Busyness(number, scaling)
        for second in range(60):
            if busyness.note(float(second), is_busy=busy_every > 0 and second % busy_every == 0):
                return float(second)
        return None

    assert goes_after(0, 0) is None
    assert goes_after(1, 0) == 10.0
    assert goes_after(1, 4) is not None, "the other would be busy for half of the time"
    assert goes_after(1, 2) is None, "the other would be busy all the time"
    assert goes_after(2, 3) is not None, "of two others each would be busy for half of the time"


@contextmanager
def growing(name, *, worker_cpus, idle_after_s):
    """A pool of one worker that may be two, and who gives it clips; both are ended."""
    settings = PoolSettings(
        1,
        most=2,
        grow_after_s=0.5,
        idle_after_s=idle_after_s,
        worker_cpus=worker_cpus,
        clips_in_flight=24,
    )
    compress = CompressSettings(model="standin:")
    pool = open_pool(
        compress, settings, name=name, detached=True, tenant="me", open_compressor=StandIn
    )
    try:
        with closing(ClusterWorkers(pool, settings, tenant="me")) as group:
            yield pool, group
    finally:
        close_pool(pool.handles)


def test_a_queue_asks_for_a_second_worker_and_idle_time_ends_it(name):
    with growing(name, worker_cpus=0.1, idle_after_s=4.0) as (pool, group):
        clips = (make_clip("slow", index) for index in count())
        stop = threading.Event()
        results = group.compress_stream(clips, stop=stop)
        index = -1
        for index in count():  # always two batches wait, of which each takes .8 s
            assert next(results).index == index
            if len(pool.handles) == 2 and pool_states(group) == ["ready", "ready"]:
                break
        assert sorted(actors(name)) == [f"{name}-0", f"{name}-1"]
        for _ in range(60):
            assert next(results).index == (index := index + 1)
        stop.set()
        deque(results, maxlen=0)
        wait_until(lambda: actors(name) == [f"{name}-0"])
        again = group.compress_stream(make_clip("again", index) for index in range(20))
        assert [clip.index for clip in again] == list(range(20)), "the one that went is not missed"


def pool_states(group: ClusterWorkers) -> list[str]:
    return [worker.state for worker in group._health.workers]


def test_a_worker_that_found_no_place_is_taken_back_once_nobody_waits(name):
    with growing(name, worker_cpus=1.2, idle_after_s=2.0) as (pool, group):
        stop = threading.Event()
        results = group.compress_stream((make_clip("slow", n) for n in count()), stop=stop)
        while len(pool.handles) < 2:
            next(results)
        # Ray sees what is wanted.
        wait_until(lambda: sorted(actors(name)) == [f"{name}-0", f"{name}-1"])
        stop.set()
        deque(results, maxlen=0)
        wait_until(lambda: actors(name) == [f"{name}-0"])
