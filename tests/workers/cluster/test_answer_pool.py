"""Answer workers follow the questions: more while they wait, fewer when idle, none and back."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import torch

from tests.checkpoints import write_tiny_checkpoint
from tests.waits import wait_until
from workers.answer import AnswerSettings
from workers.cluster.answer import AnswerPlace
from workers.cluster.answer_pool import AnswerPool
from workers.cluster.cluster import ClusterSettings, open_cluster
from workers.cluster.scaling import Demand, Scaling
from workers.errors import InvalidSettings, ModelNotFound, WorkerLost
from workers.models import VisualSegment

pytestmark = pytest.mark.timeout(300)

RULE = Scaling(1, 3, grow_after_s=2.0, idle_after_s=10.0)


@pytest.mark.parametrize(
    ("there", "waited_s", "todo"),
    [(0, None, 1), (1, 1.9, 0), (1, 2.0, 1), (2, 9.0, 1), (3, 9.0, 0)],
)
def test_more_are_asked_for_once_work_has_waited_and_up_to_the_bound(there, waited_s, todo):
    assert Demand(RULE).decide(0.0, there=there, needed=there, waited_s=waited_s) == todo


def test_where_there_is_none_the_first_work_does_not_wait_to_ask():
    assert Demand(Scaling(0, 1)).decide(0.0, there=0, needed=0, waited_s=0.0) == 1


def test_one_goes_once_fewer_would_have_done_for_long_without_a_break():
    demand = Demand(RULE)

    def decide(now_s, needed, waited_s=None) -> int:
        return demand.decide(now_s, there=2, needed=needed, waited_s=waited_s)

    assert [decide(s, 1) for s in (0.0, 9.9)] == [0, 0]
    assert decide(9.95, 2) == 0, "a moment in which both were needed"
    assert [decide(s, 1) for s in (10.0, 19.9, 20.1)] == [0, 0, -1]
    assert decide(20.2, 1) == 0, "not the next one at once"
    assert demand.decide(99.0, there=1, needed=0, waited_s=None) == 0, "not below the least"


@pytest.mark.parametrize(("least", "most"), [(2, 1), (-1, 1), (0, 0)])
def test_bounds_that_cannot_be_are_refused(least, most):
    with pytest.raises(InvalidSettings, match="at most"):
        Scaling(least, most)


class Told:
    """A worker that is closed sometime, and asked nothing."""

    identity = reading = context_length = None
    count_tokens = score_relevance = stream_answer = print

    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


def test_a_worker_that_cannot_be_had_is_told_to_who_waits_and_tried_again():
    outcomes = [WorkerLost("no place"), Told()]

    def open_worker():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with closing(AnswerPool(open_worker, Scaling(0, 1), together=1)) as pool:
        with pytest.raises(WorkerLost, match="no place"), pool.use():
            pass
        with pool.use() as model:
            assert isinstance(model, Told)
    assert model.closed.wait(10)


def test_who_waits_when_the_pool_is_closed_is_told():
    pool = AnswerPool(Told, Scaling(1, 1), together=1)  # type: ignore[arg-type]
    with pool.use(), ThreadPoolExecutor(1) as threads:

        def ask() -> None:
            with pool.use():
                pass

        waiting = threads.submit(ask)
        time.sleep(0.1)
        pool.close()
        with pytest.raises(WorkerLost, match="ended"):
            waiting.result(30)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def cluster():
    with open_cluster(ClusterSettings(num_cpus=2)) as cluster:
        yield cluster


SEGMENTS = [VisualSegment("[00:00]", torch.randn(30, 64))]


def ask(pool, num_tokens=5) -> str:
    with pool.use() as model:
        return "".join(model.stream_answer("what is there ?", SEGMENTS, max_new_tokens=num_tokens))


def test_on_ray_a_queue_makes_a_second_worker_and_idle_time_ends_it(cluster, model):
    scaling = Scaling(0, 2, grow_after_s=0.3, idle_after_s=1.0)
    place = AnswerPlace(cpus=0.5)
    settings = AnswerSettings(model, together=1)
    with closing(cluster.open_answers(settings, place, scaling, together=1)) as pool:
        time.sleep(0.5)
        assert (pool.num_ready, pool.num_starting) == (0, 0)
        expected = ask(pool)
        assert pool.num_ready == 1
        with pool.use(), ThreadPoolExecutor(1) as threads:  # an answer that takes long
            waiting = threads.submit(ask, pool)
            assert waiting.result(120) == expected, "a second worker has answered"
            assert pool.num_ready == 2
        wait_until(lambda: pool.num_ready == 1)
        wait_until(lambda: pool.num_ready == 0)
        assert ask(pool) == expected, "it comes back for a question"
    assert pool.num_ready == 0


def test_on_ray_a_model_that_is_not_there_is_told_to_each_question(cluster):
    place, settings = AnswerPlace(cpus=0.25), AnswerSettings("/nowhere/at-all")
    with closing(cluster.open_answers(settings, place, Scaling(0, 1), together=1)) as pool:
        for _ in range(2):
            with pytest.raises(ModelNotFound), pool.use():
                pass
