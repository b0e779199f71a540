"""Retrievals in turn: no more at one time than may be, the others told how long they waited."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.ask.turns import MOST_LONG, Turns, take
from pipeline.values.errors import TooManyRequests
from tests.waits import wait_until

HANG_S = 60.0


@pytest.fixture
def turns():
    """Two at one time."""
    opened = Turns(2, wait_s=HANG_S)
    yield opened
    opened.close()


def test_no_more_than_may_be_go_on_at_one_time(turns):
    inside, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.005)
        with lock:
            inside -= 1
        return number

    with ThreadPoolExecutor(8) as callers:
        done = list(callers.map(lambda n: turns.take(lambda: work(n)), range(16)))

    assert [result for result, _ in done] == list(range(16))
    assert most == 2
    assert max(waited_s for _, waited_s in done) >= 0.005


def test_a_turn_that_does_not_come_is_refused_and_not_done():
    turns, is_begun, may_end, done = Turns(1, wait_s=0.05), threading.Event(), threading.Event(), []

    def hold() -> bool:
        is_begun.set()
        return may_end.wait(HANG_S)

    with ThreadPoolExecutor(1) as other:
        first = other.submit(turns.take, hold)
        assert is_begun.wait(HANG_S)
        with pytest.raises(TooManyRequests, match="ask again in a moment"):
            turns.take(lambda: done.append("thread"))
        with pytest.raises(TooManyRequests):
            asyncio.run(turns.take_async(lambda: done.append("loop")))
        may_end.set()
        assert first.result(HANG_S)[0]
    turns.close()
    assert done == []


def test_those_that_take_long_hold_up_nobody_until_they_are_too_many():
    may_end, turns = threading.Event(), Turns(1, wait_s=HANG_S, long_s=0.02)
    with ThreadPoolExecutor(MOST_LONG + 2) as others:
        long = [others.submit(turns.take, lambda: may_end.wait(HANG_S)) for _ in range(MOST_LONG)]
        done, waited_s = turns.take(lambda: "done")
        assert not any(one.done() for one in long)
        more = [others.submit(turns.take, lambda: may_end.wait(HANG_S)) for _ in range(2)]
        wait_until(lambda: turns.num_waiting == 1)
        may_end.set()
        assert all(one.result(HANG_S)[0] for one in [*long, *more])

    assert (done, waited_s > 0) == ("done", True)
    assert [turns.take(lambda n=n: n)[0] for n in range(4)] == [0, 1, 2, 3]
    turns.close()


def test_whoever_waits_when_it_is_closed_is_refused():
    turns, is_begun, may_end = Turns(1, wait_s=HANG_S), threading.Event(), threading.Event()

    def hold() -> bool:
        is_begun.set()
        return may_end.wait(HANG_S)

    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(turns.take, hold)
        assert is_begun.wait(HANG_S)
        second = callers.submit(turns.take, lambda: "done")
        wait_until(lambda: turns.num_waiting == 1)
        turns.close()
        with pytest.raises(TooManyRequests):
            second.result(HANG_S)
        may_end.set()
        assert first.result(HANG_S)[0]
    with pytest.raises(TooManyRequests):
        turns.take(lambda: "done")


def test_what_a_retrieval_raises_is_raised(turns):
    def fail() -> None:
        raise TimeoutError("the store")

    with pytest.raises(TimeoutError, match="the store"):
        turns.take(fail)
    with pytest.raises(TimeoutError, match="the store"):
        asyncio.run(turns.take_async(fail))


def test_a_long_retrieval_that_was_begun_is_waited_for():
    turns = Turns(1, wait_s=0.01)
    assert turns.take(lambda: time.sleep(0.1) or "whole")[0] == "whole"
    assert asyncio.run(turns.take_async(lambda: time.sleep(0.1) or "whole"))[0] == "whole"
    turns.close()


def test_where_there_are_no_turns_nothing_is_waited_for():
    assert take(None, lambda: 3) == (3, 0.0)
