"""Times as people write them."""

import time
from datetime import datetime

import pytest

from pipeline.values.clock import StreamClock
from pipeline.values.errors import InvalidQuery
from pipeline.values.times import (
    parse_duration,
    parse_wall_time,
    parse_zone,
    resolve_range,
)

PLAIN = StreamClock(end_s=3600.0)


@pytest.fixture(autouse=True)
def _zone(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def parse_time(text: str, clock: StreamClock) -> float:
    """Where a range begins that begins at `text`."""
    return resolve_range(text, None, clock)[0]


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


BERLIN = parse_zone("Europe/Berlin")
HOUR_S = 3600.0


def clock(start: str, hours: float, zone=BERLIN, now: str | None = None) -> StreamClock:
    """A stream that was begun at a wall time and holds so many hours."""
    now_s = wall(now) if now else wall(start) + hours * HOUR_S
    return StreamClock(hours * HOUR_S, wall(start), zone, now_s=now_s)


@pytest.mark.parametrize(
    ("begun", "hours", "start", "end", "range_s"),
    [
        # A range that ends later than what is stored is cut to it.
        ("2026-05-04T12:00+02:00", 2.5, "14:00", "15:00", (7200, 9000)),
        ("2026-05-04T12:00+02:00", 2.5, "14:00", "14:31", (7200, 9000)),
        ("2026-05-04T12:00+02:00", 2.5, "2pm", "2:30pm", (7200, 9000)),
        ("2026-05-04T12:00+02:00", 2.5, "14:00", "now", (7200, 9000)),
        ("2026-05-04T12:00+02:00", 2.5, "14:00", None, (7200, None)),
        # Across midnight.
        ("2026-05-04T20:00+02:00", 4 + 1 / 12, "23:50", "00:05", (13_800, 14_700)),
        ("2026-05-04T20:00+02:00", 4 + 1 / 12, "23:50", "00:10", (13_800, 14_700)),
        ("2026-05-04T20:00+02:00", 8, "23:50", "24:00", (13_800, 14_400)),
        ("2026-05-04T20:00+02:00", 8, "24:00", "00:30", (14_400, 16_200)),
        # Days on which the clocks change.
        ("2026-03-29T00:00+01:00", 9, "00:30", "01:30", (1800, 5400)),
        ("2026-03-29T00:00+01:00", 9, "01:30", "03:30", (5400, 9000)),
        ("2026-10-25T00:00+02:00", 9, "00:30", "01:30", (1800, 5400)),
        ("2026-10-25T00:00+02:00", 9, "01:30", "03:30", (5400, 16_200)),
        ("2026-10-25T00:00+02:00", 9, "02:45", "02:15", (9900, 11_700)),
        # Several days: the latest such time.
        ("2026-05-01T00:00+02:00", 60, "10:00", "11:00", (208_800, 212_400)),
        # Dates, with an offset or in the stream's zone.
        ("2026-05-04T12:00+02:00", 2, "2026-05-04T12:10", "2026-05-04T10:20Z", (600, 1200)),
        # Back from the end, and seconds of the stream.
        ("2026-05-04T12:00+02:00", 2, "-10m", None, (6600, None)),
        ("2026-05-04T12:00+02:00", 2, "750", "12m35s", None),
        ("2026-05-04T12:00+02:00", 2, "10", "9000", (10, 9000)),
    ],
)
def test_a_range_on_the_wall_clock_of_the_stream(begun, hours, start, end, range_s):
    if range_s is None:
        with pytest.raises(InvalidQuery):
            resolve_range(start, end, clock(begun, hours))
        return
    assert resolve_range(start, end, clock(begun, hours)) == pytest.approx(range_s)


def test_the_zone_is_the_streams_and_not_this_machines():
    tokyo = parse_zone("+09:00")
    assert resolve_range("14:00", "14:10", clock("2026-05-04T13:00+09:00", 2, tokyo)) == (
        3600,
        4200,
    )


@pytest.mark.parametrize(
    ("end_s", "start", "end", "range_s"),
    [
        (3600.0, "59:30", None, (3570, None)),
        (3598.0, "59:30", "60:00", (3570, 3600)),
        (3600.0, "12:30", "13:00", (750, 780)),
        (3600.0, "00:30", "00:45", (1800, 2700)),
        (36_000.0, "1:30", "2:00", (5400, 7200)),
        (20.0, "1:00", "2:00", (3600, 7200)),
        (3600.0, "00:12:30", "00:13:00", (750, 780)),
    ],
)
def test_minutes_are_meant_where_hours_lie_behind_the_end(end_s, start, end, range_s):
    assert resolve_range(start, end, StreamClock(end_s)) == range_s


@pytest.mark.parametrize("text", ["Mars/Base", "", "+25:00", "../etc/passwd", "2pm"])
def test_what_is_no_zone_is_refused(text):
    with pytest.raises(InvalidQuery, match="Europe/Berlin"):
        parse_zone(text)


def test_half_days_need_a_wall_clock():
    with pytest.raises(InvalidQuery, match="--start-time"):
        parse_time("2:30pm", PLAIN)


@pytest.mark.parametrize(("start", "end"), [("15:00", "14:00x"), (9, 3), ("-1m", "-2m")])
def test_a_range_that_ends_before_it_begins_is_refused(start, end):
    with pytest.raises(InvalidQuery):
        resolve_range(start, end, clock("2026-05-04T12:00+02:00", 2.5))
