"""Times as people write them."""

import time
from datetime import datetime

import pytest

from pipeline.errors import InvalidQuery
from pipeline.times import StreamClock, parse_duration, parse_time, parse_wall_time

PLAIN = StreamClock(end_s=3600.0)


@pytest.fixture(autouse=True)
def _zone(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def wall(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("750", 750.0),
        ("750.25", 750.25),
        (" 90 ", 90.0),
        ("90s", 90.0),
        ("10m", 600.0),
        ("2min", 120.0),
        ("1.5h", 5400.0),
        ("00:05", 300.0),
        ("0:00:07.5", 7.5),
        ("01:02:03", 3723.0),
        ("100:00", 360_000.0),
        ("-10m", 3000.0),
        ("-90", 3510.0),
        ("-2h", 0.0),
    ],
)
def test_a_time_of_a_stream_without_wall_clock(text, seconds):
    assert parse_time(text, PLAIN) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0), ("2d", 172_800.0)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "soon", "10 parsecs", "12:60", "1:2:3", "1e3", "nan", "inf", "-", "١٢x", "12:30:61"],
)
def test_what_is_no_time_is_refused_with_the_forms(text):
    with pytest.raises(InvalidQuery, match="expected"):
        parse_time(text, PLAIN)


@pytest.mark.parametrize("text", ["", "m", "ten", "1:00", "1e3"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(InvalidQuery, match="expected a form like"):
        parse_duration(text)


def test_a_clock_time_is_that_of_the_day_of_the_streams_end():
    clock = StreamClock(4 * 3600.0, wall("2026-05-04T10:00:00+02:00"))
    assert parse_time("11:30", clock) == 5400.0
    assert parse_time("13:59:30", clock) == 4 * 3600 - 30


def test_a_clock_time_after_the_end_is_of_the_day_before():
    clock = StreamClock(1200.0, wall("2026-05-03T23:50:00+02:00"))  # until ten past midnight
    assert parse_time("23:55", clock) == 300.0
    assert parse_time("00:05", clock) == 900.0


def test_a_date_is_read_with_its_zone_or_this_machines():
    clock = StreamClock(3600.0, wall("2026-05-04T12:00:00+00:00"))
    assert parse_time("2026-05-04T12:10:00+00:00", clock) == 600.0
    assert parse_time("2026-05-04T14:10:00", clock) == 600.0
    assert parse_time("2026-05-04T12:10:00Z", clock) == 600.0


def test_a_date_before_the_stream_is_a_negative_time():
    clock = StreamClock(3600.0, wall("2026-05-04T12:00:00+00:00"))
    assert parse_time("2026-05-04T11:59:00+00:00", clock) == -60.0


def test_a_date_needs_a_wall_clock():
    with pytest.raises(InvalidQuery, match="--start-time"):
        parse_time("2026-05-04T12:00:00", PLAIN)


def test_a_time_of_day_ends_at_24_hours():
    clock = StreamClock(3600.0, wall("2026-05-04T12:00:00+00:00"))
    with pytest.raises(InvalidQuery, match="beyond 24:00"):
        parse_time("25:00", clock)


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "0001-01-01T00:00:00"])
def test_what_is_no_wall_time_is_refused(text):
    with pytest.raises(InvalidQuery, match="expected ISO 8601"):
        parse_wall_time(text)
