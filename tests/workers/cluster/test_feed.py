"""The feed on real actors: order, bounds, what a bad clip, a dead worker and a stop cost others."""

import os
import threading
import time
from itertools import count

import pytest
import ray

from tests.waits import wait_until
from tests.workers import session_support
from tests.workers.session_support import StandIn, make_clip
from workers.cluster.cluster import ClusterSettings, open_cluster
from workers.cluster.feed import ClusterWorkers
from workers.cluster.pool import PoolSettings, close_pool, open_pool
from workers.compress import CompressSettings
from workers.errors import ModelChanged, SourceUnreachable, WorkerLost
from workers.types import FailedClip

pytestmark = pytest.mark.timeout(300)
numbers = count()


@pytest.fixture(scope="module")
def cluster():
    ray.cloudpickle.register_pickle_by_value(session_support)
    with open_cluster(ClusterSettings(num_cpus=2)) as cluster:
        yield cluster
    ray.cloudpickle.unregister_pickle_by_value(session_support)


@pytest.fixture
def feed(cluster):
    """Makes worker groups over one pool of stand-ins; all is ended after the test."""
    groups, pools = [], {}

    def make(*, workers=2, model="standin:", **settings) -> ClusterWorkers:
        pool_settings = PoolSettings(workers=workers, worker_cpus=0.1, **settings)
        if (workers, model) not in pools:
            pools[workers, model] = open_pool(
                CompressSettings(model=model),
                pool_settings,
                name=f"feed-{next(numbers)}",
                detached=False,
                open_compressor=StandIn,
            )
        group = ClusterWorkers(pools[workers, model], pool_settings, tenant="test")
        groups.append(group)
        return group

    yield make
    for group in groups:
        group.close()
    for pool in pools.values():
        close_pool(pool.handles, timeout_s=0.2)


@pytest.fixture(scope="module")
def pool(cluster):
    """Two workers that the tests leave as they are."""
    settings = PoolSettings(workers=2, worker_cpus=0.1)
    compress = CompressSettings(model="standin:")
    return open_pool(compress, settings, name="calm", detached=False, open_compressor=StandIn)


@pytest.fixture
def calm(pool):
    groups = []

    def make(**settings) -> ClusterWorkers:
        groups.append(ClusterWorkers(pool, PoolSettings(workers=2, **settings), tenant="test"))
        return groups[-1]

    yield make
    for group in groups:
        group.close()


def clips(number, stream="lobby"):
    return [make_clip(stream, index) for index in range(number)]


def failed(results):
    return [result.index for result in results if isinstance(result, FailedClip)]


def run_together(groups_and_clips):
    """Each group's results, run side by side in threads as sessions are."""
    results = {}

    def run(name, group, source):
        try:
            results[name] = list(group.compress_stream(source))
        except Exception as error:
            results[name] = error

    threads = [
        threading.Thread(target=run, args=(name, *rest)) for name, rest in groups_and_clips.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


def pid_of(actor) -> int:
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()), timeout=200)


def test_results_come_in_order_from_workers_of_any_speed(calm):
    results = list(calm().compress_stream(clips(8, "uneven")))
    assert [result.index for result in results] == list(range(8))


def test_no_more_clips_are_pulled_than_may_be_in_flight(calm):
    pulled = []

    def pull():
        for clip in clips(10):
            pulled.append(clip.index)
            yield clip

    stream = calm(clips_in_flight=3).compress_stream(pull())
    next(stream)
    wait_until(lambda: len(pulled) == 3)
    time.sleep(0.2)
    assert pulled == [0, 1, 2]
    next(stream)
    wait_until(lambda: len(pulled) == 4)
    stream.close()


def test_a_finished_clip_comes_though_the_source_is_slow(calm):
    """A camera gives the next clip seconds later; the one before it must not wait for it."""
    more = threading.Event()

    def pull():
        yield make_clip("lobby", 0)
        more.wait(30)
        yield make_clip("lobby", 1)

    stream = calm(clips_in_flight=8).compress_stream(pull())
    assert next(stream).index == 0
    assert not more.is_set()
    more.set()
    assert [result.index for result in stream] == [1]


def test_a_stop_is_noticed_though_the_source_gives_nothing(calm):
    stop, never = threading.Event(), threading.Event()

    def pull():
        yield make_clip("lobby", 0)
        never.wait(60)

    stream = calm().compress_stream(pull(), stop=stop)
    next(stream)
    threading.Timer(0.2, stop.set).start()
    started_s = time.monotonic()
    assert list(stream) == []
    assert time.monotonic() - started_s < 10  # not the minute of the source
    never.set()


def test_an_error_of_the_source_comes_after_the_clips_before_it(calm):
    def broken():
        yield from clips(3)
        raise SourceUnreachable("the source went away")

    stream = calm(clips_in_flight=8).compress_stream(broken())
    assert [next(stream).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(SourceUnreachable):
        next(stream)


def test_a_stop_lets_clips_in_work_come_and_drops_those_that_do_not(calm):
    stop = threading.Event()
    group = calm(clips_in_flight=2, stop_grace_s=0.5)
    stream = group.compress_stream(clips(10, "stuck-1"), stop=stop)
    assert next(stream).index == 0
    stop.set()
    assert list(stream) == []


def test_a_clip_that_raises_fails_alone(calm):
    assert failed(calm().compress_stream(clips(6, "raising-3"))) == [3]


@pytest.mark.parametrize(
    "what", ["raising", "deadly", pytest.param("broken", marks=pytest.mark.slow)]
)
def test_one_bad_clip_costs_no_other_stream_a_clip(feed, what):
    streams = {name: (feed(), clips(8, name)) for name in (f"{what}-2", "a", "b", "slow")}
    results = run_together(streams)
    assert {name: failed(found) for name, found in results.items()} == {
        f"{what}-2": [2],
        "a": [],
        "b": [],
        "slow": [],
    }
    assert all([r.index for r in found] == list(range(8)) for found in results.values())


@pytest.mark.slow
def test_a_broken_device_is_replaced_by_a_fresh_process(feed):
    group = feed(workers=1)
    [handle] = group._pool.handles
    pid = pid_of(handle)
    assert failed(group.compress_stream(clips(4, "broken-1"))) == [1]
    assert pid_of(handle) != pid
    assert failed(group.compress_stream(clips(3, "lobby"))) == []


@pytest.mark.slow
def test_a_batch_that_hangs_ends_its_worker_and_only_its_clip_fails(feed):
    results = list(feed(result_timeout_s=1.5).compress_stream(clips(5, "hanging-1")))
    assert failed(results) == [1]
    assert len(results) == 5


@pytest.mark.slow
def test_waiting_for_its_turn_is_not_held_against_a_clip(feed):
    """The limit is for the work: five streams of .1 s a clip queue for longer than it."""
    settings = {"workers": 1, "result_timeout_s": 1.5}
    streams = {f"slow.{n}": (feed(**settings), clips(6, "slow")) for n in range(5)}
    results = run_together(streams)
    assert [len(found) for found in results.values()] == [6] * 5


@pytest.mark.slow
def test_a_killed_worker_costs_nobody_a_clip(feed):
    groups = {name: feed() for name in ("slow", "slow.b", "slow.c")}
    [first, _] = groups["slow"]._pool.handles
    pid = pid_of(first)
    threading.Timer(0.4, os.kill, (pid, 9)).start()
    results = run_together({name: (group, clips(12, "slow")) for name, group in groups.items()})
    assert [failed(found) for found in results.values()] == [[], [], []]


@pytest.mark.slow
def test_a_worker_that_loads_again_leaves_its_clips_to_one_that_lives(feed, tmp_path):
    model = "standin:load=0.5"
    group = feed(model=model)
    handles = group._pool.handles
    stream = group.compress_stream(clips(60, "slow"))
    next(stream)
    (away := tmp_path / "away").touch()
    pid = pid_of(handles[0])
    os.kill(pid, 9)
    started_s = time.monotonic()
    for _ in range(20):
        next(stream)
    assert time.monotonic() - started_s < 30
    away.unlink()
    stream.close()


@pytest.mark.slow
def test_a_restarted_worker_loads_again_until_its_model_is_back(feed, tmp_path):
    away = tmp_path / "away"
    group = feed(workers=1, model=f"standin:away={away}")
    stream = group.compress_stream(clips(30, "slow"))
    next(stream)
    away.touch()
    os.kill(pid_of(group._pool.handles[0]), 9)
    wait_until(lambda: "away" in group._health.workers[0].problem)
    away.unlink()
    assert [result.index for result in stream] == list(range(1, 30))


def test_other_weights_behind_the_name_are_refused(feed, tmp_path):
    weights = tmp_path / "weights"
    weights.write_text("old")
    group = feed(workers=1, model=f"standin:weights={weights}")
    stream = group.compress_stream(clips(30, "slow"))
    old = next(stream)
    weights.write_text("new")
    os.kill(pid_of(group._pool.handles[0]), 9)
    with pytest.raises(ModelChanged, match=group.info.identity.digest()):
        list(stream)
    assert old.index == 0


@pytest.mark.slow
def test_workers_that_never_come_back_are_an_error_in_bounded_time(feed, tmp_path):
    away = tmp_path / "away"
    group = feed(workers=1, model=f"standin:away={away}", lost_timeout_s=3.0)
    stream = group.compress_stream(clips(30, "slow"))
    next(stream)
    away.touch()
    os.kill(pid_of(group._pool.handles[0]), 9)
    with pytest.raises(WorkerLost, match="none of 1 compress workers was ready"):
        list(stream)


def test_a_cancelled_call_leaves_the_worker_at_work(feed):
    group = feed(workers=1)
    [handle] = group._pool.handles
    digest = group.info.identity.digest()
    calls = [handle.compress.remote(clip, digest) for clip in clips(4, "slow")]
    for call in calls[:2]:
        ray.cancel(call)
    assert [ray.get(call, timeout=200).index for call in calls[2:]] == [2, 3]
    assert failed(group.compress_stream(clips(3))) == []
