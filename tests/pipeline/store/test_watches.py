"""Standing questions and their events, on every store."""

from dataclasses import replace

import pytest

from pipeline.values.errors import Conflict, UnknownStream, UnknownWatch
from pipeline.values.watch import Event, Watch, WatchState

WATCH = Watch("door", "lobby", "is the door open", created_at_s=1.0)
START = WatchState()


def event(number: int) -> Event:
    return Event(f"door-0-{number}-raised", "door", "lobby", "raised", 0, 4, None, 0, number, "yes")


@pytest.fixture
def watching(store, info):
    store.put_info(info)
    store.put_watch(WATCH, START)
    return store


def test_a_watch_comes_back_with_what_is_known(watching):
    watching.put_watch(replace(WATCH, watch_id="b"), replace(START, index=4, end_s=8.0))
    assert watching.list_watches("lobby") == [
        (replace(WATCH, watch_id="b"), replace(START, index=4, end_s=8.0)),
        (WATCH, START),
    ]
    assert watching.list_watches("nobody") == []


def test_one_of_an_id_and_only_of_streams_that_there_are(watching):
    with pytest.raises(Conflict):
        watching.put_watch(WATCH, START)
    with pytest.raises(UnknownStream):
        watching.put_watch(replace(WATCH, stream_id="nobody"), START)


def test_what_is_known_moves_once_with_its_event(watching):
    after = replace(START, index=0, is_raised=True)
    assert watching.advance_watch(WATCH, START, after, event(0))
    assert watching.list_watches("lobby") == [(WATCH, after)]
    assert [one for _, one in watching.list_events("lobby")] == [event(0)]
    other = replace(START, index=0)
    assert not watching.advance_watch(WATCH, START, other, event(1))  # somebody else was first
    assert len(watching.list_events("lobby")) == 1


def test_events_go_on_behind_a_mark(watching):
    state = START
    for number in range(5):
        after = replace(state, index=number)
        assert watching.advance_watch(WATCH, state, after, event(number))
        state = after
    first = watching.list_events("lobby", limit=2)
    rest = watching.list_events("lobby", after=first[-1][0])
    assert [one.index for _, one in [*first, *rest]] == [0, 1, 2, 3, 4]
    assert watching.list_events("lobby", after=rest[-1][0]) == []


def test_a_watch_that_went_makes_no_event_and_leaves_those_it_made(watching):
    after = replace(START, index=0)
    watching.advance_watch(WATCH, START, after, event(0))
    watching.remove_watch("lobby", "door")
    assert not watching.advance_watch(WATCH, after, replace(after, index=1), event(1))
    assert len(watching.list_events("lobby")) == 1
    with pytest.raises(UnknownWatch):
        watching.remove_watch("lobby", "door")


def test_they_go_with_their_stream(watching, info):
    watching.advance_watch(WATCH, START, replace(START, index=0), event(0))
    watching.delete_stream("lobby")
    watching.put_info(info)
    assert watching.list_watches("lobby") == []
    assert watching.list_events("lobby") == []
