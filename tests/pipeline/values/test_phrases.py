"""Times in words: as a person means them, in three zones, on days of a clock change too."""

from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from pipeline.values.clock import StreamClock
from pipeline.values.phrases import find_phrase

CHANGES = {
    "Europe/Berlin": (date(2026, 3, 29), date(2026, 10, 25), date(2026, 7, 8)),
    "America/New_York": (date(2026, 3, 8), date(2026, 11, 1), date(2026, 7, 8)),
    "Australia/Lord_Howe": (date(2026, 10, 4), date(2026, 4, 5), date(2026, 7, 8)),
}
"""Clocks set forward, clocks set back, neither; Lord Howe's by half an hour."""
DAYS = [(zone, day) for zone, days in CHANGES.items() for day in days]
ASKED_AT = timedelta(hours=21, minutes=30)
STORED_DAYS = 9

SPOKEN = {
    "What happened between 2 and 3 pm?": ("0 14:00", "0 15:00"),
    "what happened between 2pm and 3pm": ("0 14:00", "0 15:00"),
    "Who came between 11 and 1 pm?": ("0 11:00", "0 13:00"),
    "who came between 14:05 and 14:10?": ("0 14:05", "0 14:10"),
    "From 9:30 to 10 am, how many cars?": ("0 09:30", "0 10:00"),
    "from noon to 2 p.m. who was there": ("0 12:00", "0 14:00"),
    "from 8 pm until 9 pm, what": ("0 20:00", "0 21:00"),
    "between 10 and 11 pm what was seen": ("-1 22:00", "-1 23:00"),
    "between 11 pm and 1 am who left": ("-1 23:00", "0 01:00"),
    "between 1:30 and 3:30 am yesterday": ("-1 01:30", "-1 03:30"),
    "between 1:30 and 3:30 am today": ("0 01:30", "0 03:30"),
    "between 2:15 and 5 am, who": ("0 02:15", "0 05:00"),
    "between 1 am and 2:15 am who": ("0 01:00", "0 02:15"),
    "between 2 and 3 pm on {weekday}": ("-3 14:00", "-3 15:00"),
    "from 9 to 10 am on {date}": ("-2 09:00", "-2 10:00"),
    "What was at 14:05?": ("0 14:05", "0 14:06"),
    "what was at 2:05 pm yesterday": ("-1 14:05", "-1 14:06"),
    "what was around noon": ("0 11:55", "0 12:05"),
    "since 6 pm, what changed": ("0 18:00", "end"),
    "after 5:45 p.m. yesterday who came": ("-1 17:45", "end"),
    "before 7 am today, was the door open?": ("0 00:00", "0 07:00"),
    "in the last ten minutes": ("-600", "end"),
    "in the last 10 minutes, who came?": ("-600", "end"),
    "Who came during the past hour?": ("-3600", "end"),
    "over the last half an hour": ("-1800", "end"),
    "the last 90 seconds": ("-90", "end"),
    "what happened in the last two hours?": ("-7200", "end"),
    "in the past 3 h": ("-10800", "end"),
    "yesterday morning, who came?": ("-1 06:00", "-1 12:00"),
    "what happened yesterday?": ("-1 00:00", "0 00:00"),
    "what happened yesterday in the afternoon": ("-1 12:00", "-1 18:00"),
    "who came yesterday evening": ("-1 18:00", "0 00:00"),
    "what did I miss today": ("0 00:00", "end"),
    "this morning, how many people?": ("0 06:00", "0 12:00"),
    "did anyone come last night?": ("-1 22:00", "0 06:00"),
    "the day before yesterday who came": ("-2 00:00", "-1 00:00"),
    "on {weekday} morning, who came": ("-3 06:00", "-3 12:00"),
    "on {date}, what happened?": ("-2 00:00", "-1 00:00"),
    "What is seen at the start?": ("+0", "+60"),
    "at the beginning": ("+0", "+60"),
    "in the first five minutes": ("+0", "+300"),
    "the first 30 seconds": ("+0", "+30"),
    "what is there at the end?": ("-60", "end"),
    "five minutes ago": ("-300", "-240"),
    "what was there an hour ago": ("-3600", "-3540"),
}


@cache
def minutes_of(zone: str, day: date) -> tuple[tuple[int, datetime], ...]:
    """Every minute around a day, and what clocks show."""
    begin = int(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo("UTC")).timestamp())
    ticks = range(begin - 36 * 3600, begin + 60 * 3600, 60)
    return tuple(
        (tick, datetime.fromtimestamp(tick, ZoneInfo(zone)).replace(tzinfo=None, fold=0))
        for tick in ticks
    )


def unix_time(zone: str, shown: datetime, *, is_end: bool) -> float:
    """By looking at every minute: the first that shows it, the last for an end; or the jump."""
    minutes = minutes_of(zone, shown.date())
    there = [tick for tick, told in minutes if told == shown]
    if there:
        return there[-1] if is_end else there[0]
    pairs = pairwise(minutes)
    [jump] = [tick for (_, one), (tick, other) in pairs if one < shown < other]
    return jump


def clock_of(zone: str, day: date) -> StreamClock:
    first = datetime(day.year, day.month, day.day) - timedelta(days=STORED_DAYS)
    start_s = unix_time(zone, first, is_end=False)
    shown = datetime(day.year, day.month, day.day) + ASKED_AT
    now_s = unix_time(zone, shown, is_end=False)
    return StreamClock(now_s - start_s, start_s, ZoneInfo(zone), now_s=now_s)


def expected(bound: str, zone: str, day: date, clock: StreamClock, *, is_end: bool) -> float:
    if bound == "end":
        return clock.end_s
    if " " not in bound:
        return float(bound) + (0 if bound.startswith("+") else clock.end_s)
    back, time_of_day = bound.split()
    hour, minute = map(int, time_of_day.split(":"))
    shown = datetime(day.year, day.month, day.day, hour, minute) + timedelta(days=int(back))
    return clock.to_stream(unix_time(zone, shown, is_end=is_end))


@pytest.mark.parametrize(("zone", "day"), DAYS, ids=[f"{zone} {day}" for zone, day in DAYS])
@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_time_in_words_is_what_a_person_means(spoken, zone, day):
    clock = clock_of(zone, day)
    named = {
        "weekday": (day - timedelta(days=3)).strftime("%A"),
        "date": (day - timedelta(days=2)).isoformat(),
    }
    start, end = SPOKEN[spoken]

    phrase = find_phrase(spoken.format(**named), clock)

    assert phrase is not None
    assert phrase.start_s == expected(start, zone, day, clock, is_end=False)
    ends_s = clock.end_s if phrase.end_s is None else phrase.end_s
    if not spoken.startswith(("What was at", "what was at", "what was around", "before")):
        assert ends_s == expected(end, zone, day, clock, is_end=True)
    else:  # a stretch around a moment has its own length; clocks may be changed within it
        assert ends_s == pytest.approx(expected(end, zone, day, clock, is_end=False), abs=0)


def test_forty_phrases_and_more_are_tried():
    assert len(SPOKEN) >= 40


@pytest.mark.parametrize(
    "text",
    [
        "which object came first ?",
        "were there between 2 and 3 people?",
        "how many of the 12 chairs may be free in march?",
        "is it a second floor?",
        "who was last?",
        "what is on slide 14:99?",
        "between 25 pm and 30 pm",
        "on 2026-02-30",
    ],
)
def test_what_is_no_time_is_left_alone(text):
    assert find_phrase(text, clock_of(*DAYS[0])) is None


@pytest.mark.parametrize(
    ("text", "range_s"),
    [
        ("what was yesterday morning", None),
        ("between 2 and 3 pm", None),
        ("since 14:05", None),
        ("between 5:00 and 7:30, what", (300.0, 450.0)),
        ("in the last five minutes", (300.0, 600.0)),
        ("in the first two minutes", (0.0, 120.0)),
        ("at the end", (540.0, 600.0)),
    ],
)
def test_without_a_wall_clock_the_streams_own_time_is_meant(text, range_s):
    phrase = find_phrase(text, StreamClock(600.0))
    assert (None if phrase is None else (phrase.start_s, phrase.end_s)) == range_s


def test_an_hour_that_clocks_leave_out_is_none():
    clock = clock_of("Europe/Berlin", date(2026, 3, 29))
    assert find_phrase("between 2 and 3 am today", clock) is None


def test_what_was_understood_is_told():
    phrase = find_phrase("Who came in the last ten minutes?", StreamClock(6000.0))
    assert phrase is not None
    assert phrase.text == "in the last ten minutes"


@pytest.mark.parametrize(
    ("text", "start_s"),
    [
        ("what was there at 1 pm", 3600.0),
        ("what was there at 18:20", 22_800.0),  # behind the end of two hours from noon
        ("what was there at 4:30 am", 59_400.0),  # before their start: not until the next day
        ("what was there between 6 and 7 pm", 21_600.0),
    ],
)
def test_a_time_that_the_stream_has_not_shown_is_still_the_range_that_is_asked_about(text, start_s):
    noon_s = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
    phrase = find_phrase(text, StreamClock(7200.0, noon_s, UTC))
    assert phrase is not None
    assert phrase.start_s == start_s
