"""Sessions side by side: some join and leave, the others are not touched."""

import threading
from itertools import islice

import pytest

from pipeline.ingest.fleet import Fleet


def session(wanted, stop, tell):
    tell(("begins", wanted))
    while not stop.wait(5):
        pass
    tell(("ends", wanted))


@pytest.fixture
def fleet():
    """A fleet whose sessions tell when they begin and end."""
    stop = threading.Event()
    made = Fleet(session, stop=stop)
    yield made
    stop.set()


def take(news, count):
    return sorted(islice(news, count))


def test_what_is_new_begins_what_is_gone_ends_what_is_the_same_goes_on(fleet):
    fleet.change({"a": "a1", "b": "b1", "c": "c1"})
    news = fleet.news(lambda: None)
    assert take(news, 3) == [("begins", "a1"), ("begins", "b1"), ("begins", "c1")]

    fleet.change({"b": "b1", "c": "c2", "d": "d1"})

    assert take(news, 4) == [("begins", "c2"), ("begins", "d1"), ("ends", "a1"), ("ends", "c1")]
    news.close()


def test_a_change_is_looked_for_while_sessions_run(fleet):
    changes = iter([{"b": "b1"}])
    fleet.change({"a": "a1"})

    news = fleet.news(lambda: next(changes, None))

    assert take(news, 3) == [("begins", "a1"), ("begins", "b1"), ("ends", "a1")]
    news.close()


def test_an_empty_fleet_goes_on_where_more_may_come(fleet):
    changes = iter([{}, {"a": "a1"}])

    assert take(fleet.news(lambda: next(changes, None)), 1) == [("begins", "a1")]


def test_closing_ends_all_and_a_fleet_whose_sessions_end_ends(fleet):
    fleet.change({"a": "a1"})
    news = fleet.news()
    assert next(news) == ("begins", "a1")
    news.close()
    assert list(fleet.news()) == [("ends", "a1")]
