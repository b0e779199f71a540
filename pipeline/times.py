"""Times as people write them, into seconds: `750`, `12:30:00`, `14:05`, `-10m`, ISO 8601.

A clock time means the wall clock where the stream has one (on the day of its end), else the time
since its start. Knows of no store.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from pipeline.errors import InvalidQuery

_DURATION = re.compile(r"-?(\d+(?:\.\d+)?)(s|m|min|h|d)?")
_CLOCK = re.compile(r"(\d{1,3}):([0-5]\d)(?::([0-5]\d(?:\.\d+)?))?")
_UNIT_S = {None: 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class StreamClock:
    """What turns a written time into seconds of a stream."""

    end_s: float
    """End of what is stored."""
    wall_start_s: float | None = None
    """Unix time of stream second 0."""


def parse_time(text: str, clock: StreamClock) -> float:
    """Seconds of the stream for a time as written.

    Raises:
        InvalidQuery: it is none of the forms, or a date on a stream without a wall clock.
    """
    text = text.strip()
    if text.startswith("-"):
        return max(0.0, clock.end_s - parse_duration(text[1:]))
    if match := _CLOCK.fullmatch(text):
        hours, minutes, seconds = match.groups()
        since_midnight_s = int(hours) * 3600 + int(minutes) * 60 + float(seconds or 0)
        return _of_day(since_midnight_s, clock)
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if re.fullmatch(r"\d+(?:\.\d+)?(s|m|min|h|d)", text):
        return parse_duration(text)
    return _of_date(text, clock)


def parse_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `10m`, `1.5h`, `2d`."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidQuery(f"got duration {text!r}, expected a form like 90, 90s, 10m, 1.5h or 2d")
    return float(match[1]) * _UNIT_S[match[2]]


def parse_wall_time(text: str) -> float:
    """Unix time of an ISO 8601 date and time; without a zone it is this machine's."""
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise InvalidQuery(
            f"got time {text!r}, expected ISO 8601 such as 2026-05-04T14:00:00+02:00"
        ) from None


def parse_zone(text: str) -> tzinfo:
    """A time zone from `Europe/Berlin`, `UTC` or `+02:00`.

    Raises:
        InvalidQuery: there is none of that name.
    """
    if match := re.fullmatch(r"([+-])(\d\d):?([0-5]\d)", text):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        if offset < timedelta(days=1):
            return timezone(-offset if match[1] == "-" else offset)
    try:
        return ZoneInfo(text)
    except (ValueError, OSError, KeyError):  # no such file, a folder, or no name of a zone
        raise InvalidQuery(
            f"got time zone {text[:40]!r}, expected a name such as Europe/Berlin, or +02:00"
        ) from None


def _of_day(since_midnight_s: float, clock: StreamClock) -> float:
    if clock.wall_start_s is None:
        return since_midnight_s
    if since_midnight_s > 86_400:
        raise InvalidQuery(
            "got a time of day beyond 24:00, expected 00:00 to 24:00 for a stream with a wall "
            "clock; give a date (ISO 8601) for another day"
        )
    last = datetime.fromtimestamp(clock.wall_start_s + clock.end_s).astimezone()
    midnight = last.replace(hour=0, minute=0, second=0, microsecond=0)
    moment = midnight + timedelta(seconds=since_midnight_s)
    if moment > last:  # 23:50 asked at ten past midnight means yesterday
        moment -= timedelta(days=1)
    return moment.timestamp() - clock.wall_start_s


def _of_date(text: str, clock: StreamClock) -> float:
    try:
        wall_s = parse_wall_time(text)
    except InvalidQuery:
        raise InvalidQuery(
            f"got time {text!r}, expected seconds (750), HH:MM[:SS], -10m, or ISO 8601"
        ) from None
    if clock.wall_start_s is None:
        raise InvalidQuery(
            f"got date {text!r} for a stream without a wall clock; give seconds of the stream, or "
            "ingest it with --start-time"
        )
    return wall_s - clock.wall_start_s
