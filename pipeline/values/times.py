"""Times as people write them, into seconds of a stream: the one place where that is done.

`750` and `12m` count from the stream's start, `-10m` back from the end of what is stored. `14:05`,
`2:30pm` and `now` mean the wall clock where the stream has one, in the stream's own zone; else
`14:05` is fourteen hours, or fourteen minutes as players write it where the stream ends before.
A range is resolved as a whole: first its start, then its end as the first such time after it.
Knows of no store.
"""

import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from pipeline.values.clock import StreamClock
from pipeline.values.errors import InvalidQuery

FORMS = "seconds (750), HH:MM[:SS], 2:30pm, now, -10m, or ISO 8601"
_DURATION = re.compile(r"-?(\d+(?:\.\d+)?)(s|m|min|h|d)?", re.ASCII)
_LENGTH = re.compile(r"\d+(?:\.\d+)?(s|m|min|h|d)", re.ASCII)
_SECONDS = re.compile(r"\d+(\.\d+)?", re.ASCII)
_CLOCK = re.compile(r"(\d{1,3}):([0-5]\d)(?::([0-5]\d(?:\.\d+)?))?", re.ASCII)
_HALF_DAY = re.compile(
    r"(1[0-2]|0?\d)(?::([0-5]\d)(?::([0-5]\d))?)? ?([ap])\.?m\.?", re.ASCII | re.I
)
_UNIT_S = {None: 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DAY_S = 86_400


def resolve_range(
    start: str | float | None, end: str | float | None, clock: StreamClock
) -> tuple[float, float | None]:
    """Seconds of the stream for a range as written; an open start is 0, an open end None.

    Times of a clock that lie behind the end of what is stored are cut to it: nobody knows more.

    Raises:
        InvalidQuery: a bound is no time, or the end is not after the start.
    """
    as_player = _is_players(start, end, clock)
    start_s = 0.0 if start is None else _seconds(start, clock, as_player)
    if end is None:
        return start_s, None
    end_s = _seconds(end, clock, as_player, after_s=None if start is None else start_s)
    if isinstance(end, str) and _is_of_clock(end, clock) and start_s < clock.end_s:
        end_s = min(end_s, clock.end_s)
    if not start_s < end_s:
        raise InvalidQuery(f"got a range from {start_s:g} to {end_s:g} s; start must be before end")
    return start_s, end_s


def parse_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `10m`, `1.5h`, `2d`, with or without a minus before it."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidQuery(f"got duration {text!r}, expected a form like 90, 90s, 10m, 1.5h or 2d")
    return float(match[1]) * _UNIT_S[match[2]]


def parse_wall_time(text: str, zone: tzinfo | None = None) -> float:
    """Unix time of an ISO 8601 time; without an offset it is of `zone`, or of this machine's."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone) if zone is not None else moment.astimezone()
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise InvalidQuery(
            f"got time {text!r}, expected ISO 8601 such as 2026-05-04T14:00:00+02:00"
        ) from None


def write_moment(clock: StreamClock, stream_s: float) -> str | None:
    """A second of a stream on the wall clock, ISO 8601 in its zone; None where it has none."""
    moment = clock.local(stream_s)
    return None if moment is None else moment.isoformat(timespec="seconds")


def parse_zone(text: str) -> tzinfo:
    """A time zone from `Europe/Berlin`, `UTC` or `+02:00`.

    Raises:
        InvalidQuery: there is none of that name.
    """
    if match := re.fullmatch(r"([+-])(\d\d):?([0-5]\d)", text, re.ASCII):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        if offset < timedelta(days=1):
            return timezone(-offset if match[1] == "-" else offset)
    try:
        return ZoneInfo("UTC" if text == "Z" else text)
    except (ValueError, OSError, KeyError):  # no such file, a folder, or no name of a zone
        raise InvalidQuery(
            f"got time zone {text[:40]!r}, expected a name such as Europe/Berlin, or +02:00"
        ) from None


def _seconds(
    value: str | float, clock: StreamClock, as_player: bool, *, after_s: float | None = None
) -> float:
    if not isinstance(value, str):
        return float(value)
    text = value.strip()
    if text.startswith("-"):
        return max(0.0, clock.end_s - parse_duration(text[1:]))
    if text.lower() == "now":
        return clock.to_stream(clock.now_s) if clock.has_wall else clock.end_s
    if _SECONDS.fullmatch(text) and not _is_date(text):
        return float(text)
    if _LENGTH.fullmatch(text):
        return parse_duration(text)
    since_midnight_s = _since_midnight(text)
    if since_midnight_s is None:
        return _of_date(text, clock)
    if clock.has_wall:
        return _of_day(since_midnight_s, clock, after_s)
    if _HALF_DAY.fullmatch(text):
        raise InvalidQuery(_no_wall(text))
    return since_midnight_s / 60 if as_player and text.count(":") == 1 else since_midnight_s


def _since_midnight(text: str) -> float | None:
    """Seconds of a clock's `14:05:30` or `2:05pm`; None where it is none."""
    if match := _CLOCK.fullmatch(text):
        return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3] or 0)
    if match := _HALF_DAY.fullmatch(text):
        hour = int(match[1]) % 12 + (12 if match[4].lower() == "p" else 0)
        return float(hour * 3600 + int(match[2] or 0) * 60 + int(match[3] or 0))
    return None


def _is_of_clock(text: str, clock: StreamClock) -> bool:
    """Whether it names a moment of the wall clock rather than a second of the stream."""
    text = text.strip()
    plain = text.startswith("-") or _LENGTH.fullmatch(text)
    plain = plain or (_SECONDS.fullmatch(text) and not _is_date(text))
    return clock.has_wall and not plain


def _is_players(start: str | float | None, end: str | float | None, clock: StreamClock) -> bool:
    """Whether `59:30` is 59 minutes, as players write it, and not 59 hours.

    So it is where the hours lie behind the stream's end and the minutes within; both bounds of a
    range are meant in the same way.
    """
    if clock.has_wall:
        return False
    given = [
        since_s
        for bound in (start, end)
        if isinstance(bound, str)
        and bound.count(":") == 1
        and (since_s := _since_midnight(bound.strip())) is not None
    ]
    return bool(given) and max(given) > clock.end_s and min(given) / 60 < clock.end_s


def _of_day(since_midnight_s: float, clock: StreamClock, after_s: float | None) -> float:
    """The time of day that is meant: the first after `after_s`; else the latest that is stored,
    or the nearest to what is."""
    if since_midnight_s > _DAY_S:
        raise InvalidQuery(
            "got a time of day beyond 24:00, expected 00:00 to 24:00 for a stream with a wall "
            "clock; give a date (ISO 8601) for another day"
        )
    first, last = clock.local(0.0), clock.local(max(clock.end_s, after_s or 0.0))
    assert first is not None
    assert last is not None
    folds = (0,) if after_s is None else (0, 1)
    moments = list(_moments(first.date(), last.date(), since_midnight_s, clock.zone, folds))
    if after_s is not None:
        after = [s for wall_s in moments if (s := clock.to_stream(wall_s)) > after_s]
        if after:
            return min(after)
    seconds = [clock.to_stream(wall_s) for wall_s in moments]
    return min(reversed(seconds), key=lambda s: max(-s, s - clock.end_s, 0.0))


def _moments(
    first: date, last: date, since_midnight_s: float, zone: tzinfo | None, folds: tuple[int, ...]
) -> Iterator[float]:
    """Unix times of a time of day, of the day before the first to the day after the last.

    The hour that comes twice when clocks are set back gives one for each of `folds`.
    """
    day = first - timedelta(days=1)
    while day <= last + timedelta(days=1):
        midnight = datetime(day.year, day.month, day.day)
        local = midnight + timedelta(seconds=since_midnight_s)
        seen = []
        for fold in folds:
            moment = local.replace(fold=fold, tzinfo=zone)
            wall_s = moment.timestamp()  # without a zone: this machine's
            if wall_s not in seen and _is_there(wall_s, local, zone):
                seen.append(wall_s)
        yield from sorted(seen or [local.replace(tzinfo=zone).timestamp()])
        day += timedelta(days=1)


def _is_there(wall_s: float, local: datetime, zone: tzinfo | None) -> bool:
    """Not in the hour that is left out when clocks are set forward."""
    return datetime.fromtimestamp(wall_s, zone).replace(tzinfo=None, fold=0) == local


def _is_date(text: str) -> bool:
    """`20260504` is a date, though it is a number too."""
    return re.fullmatch(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", text) is not None


def _of_date(text: str, clock: StreamClock) -> float:
    try:
        wall_s = parse_wall_time(text, clock.zone)
    except InvalidQuery:
        raise InvalidQuery(f"got time {text!r}, expected {FORMS}") from None
    if not clock.has_wall:
        raise InvalidQuery(_no_wall(text))
    return clock.to_stream(wall_s)


def _no_wall(text: str) -> str:
    return (
        f"got date {text!r} for a stream without a wall clock; give seconds of the stream, or "
        "ingest it with --start-time"
    )
