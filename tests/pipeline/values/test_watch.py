"""When answers make an event: hysteresis, cool-down, and once each."""

import pytest

from pipeline.values.errors import InvalidQuery
from pipeline.values.types import ClipSpan
from pipeline.values.watch import Watch, WatchState, follow


def run(answers, **rule):
    """(clip, kind) of the events that a row of answers, Y or N, makes; clips are 2 s."""
    watch, state, events = Watch("w", "cam", "is it open", **rule), WatchState(), []
    for index, answer in enumerate(answers):
        span = ClipSpan("cam", 0, index, 2.0 * index, 2.0 * index + 2, 5, 100)
        state, event = follow(watch, state, span, "Yes, it is." if answer == "Y" else "no")
        events += [] if event is None else [(event.index, event.kind)]
    return events


def test_it_is_raised_once_and_cleared_once():
    assert run("NYYYNNY") == [(1, "raised"), (4, "cleared"), (6, "raised")]


def test_a_single_answer_among_others_changes_nothing():
    rule = {"raise_after": 2, "clear_after": 3}
    assert run("YNYNYYNYNNYNNNY", **rule) == [(5, "raised"), (13, "cleared")]


def test_within_the_cool_down_it_is_not_raised_again():
    assert run("YNYNYNYNYN", cooldown_s=9.0) == [
        (0, "raised"),
        (1, "cleared"),
        (6, "raised"),
        (7, "cleared"),
    ]


def test_what_is_still_so_after_the_cool_down_is_raised_then():
    assert run("YNYYYYYYYY", cooldown_s=9.0) == [(0, "raised"), (1, "cleared"), (6, "raised")]


def test_a_window_reaches_back_and_never_before_the_start():
    watch = Watch("w", "cam", "is it open", window_s=5.0)
    assert watch.window_of(ClipSpan("cam", 0, 0, 0.0, 2.0, 1, 1)) == (0.0, 2.0)
    assert watch.window_of(ClipSpan("cam", 0, 4, 8.0, 10.0, 1, 1)) == (5.0, 10.0)


@pytest.mark.parametrize("answer", ["yes", "Yes.", "well, YES!", "yes it is"])
def test_a_word_is_found_as_it_is_written(answer):
    assert Watch("w", "cam", "q").is_met(answer)
    assert not Watch("w", "cam", "q").is_met("yesterday")


@pytest.mark.parametrize(
    "wrong",
    [
        {"watch_id": "a/b"},
        {"question": " "},
        {"expect": "two words"},
        {"window_s": 0.0},
        {"window_s": float("nan")},
        {"raise_after": 0},
        {"cooldown_s": -1.0},
        {"cooldown_s": float("inf")},
    ],
)
def test_what_cannot_be_watched_is_told(wrong):
    with pytest.raises(InvalidQuery):
        Watch(**{"watch_id": "w", "stream_id": "cam", "question": "q", **wrong})
