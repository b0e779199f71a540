"""Times that a question says in words, into seconds of a stream.

`between 2 and 3 pm`, `in the last ten minutes`, `yesterday morning`, `at the start`: what a person
means, in the stream's own zone, on days of a clock change too. Clocks without a day are read as
`pipeline.values.times` reads them. What needs a wall clock says nothing of a stream without one,
and a word that may mean something else is left alone: `between 2 and 3 people` is no time.

Written out rather than taken from a date library: those find single moments (of `between 2 and 3
pm` the 2 and, apart from it, 3 pm), take words such as `may` for months, and know no stream.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from pipeline.values.clock import StreamClock
from pipeline.values.errors import InvalidQuery
from pipeline.values.times import resolve_range

MOMENT_S = 60.0
"""`at 14:05`, `at the start`, `five minutes ago`: a minute of it."""
AROUND_S = 300.0
"""Before and after, of `around 14:05`."""
DAY_PARTS = {"morning": (6, 12), "afternoon": (12, 18), "evening": (18, 24), "night": (22, 30)}
"""Hours of the day at which each begins and ends; the night ends on the next one."""

_WORDS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen", "twenty"),
)
_NUMBERS = {word: float(n) for n, word in enumerate(_WORDS, 1)} | {
    "a": 1.0, "an": 1.0, "thirty": 30.0, "forty": 40.0, "fifty": 50.0, "sixty": 60.0,
    "half an": 0.5, "a few": 3.0, "a couple of": 2.0,
}  # fmt: skip
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

_CLOCK = r"(?:noon|midnight|\d{1,2}(?::[0-5]\d(?::[0-5]\d)?)?(?: ?[ap]\.?m\b\.?| o'clock)?)"
_DAY = (
    r"(?:today|yesterday|the day before yesterday|(?:on |last )?(?:"
    + "|".join(_WEEKDAYS)
    + r")|(?:on )?\d{4}-\d\d-\d\d)"
)
_PART = r"(?:morning|afternoon|evening|night)"
_COUNT = r"(?:\d+(?:\.\d+)?|" + "|".join(sorted(_NUMBERS, key=len, reverse=True)) + r")"
_UNIT = r"(?:seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|w)"
_ON = rf"(?:,? (?P<day>{_DAY}))?"

Range = tuple[float, float | None]
Reader = Callable[[re.Match[str], StreamClock], Range | None]


@dataclass(frozen=True)
class TimePhrase:
    """What a question says of time, and what it was taken for."""

    text: str
    """As it stands in the question."""
    start_s: float
    end_s: float | None
    """None up to the end of what is stored."""


def find_phrase(text: str, clock: StreamClock) -> TimePhrase | None:
    """The time that a question is about, in seconds of the stream; None where it says none.

    Of several the first, and of those that begin together the longest.
    """
    found = [
        (match.start(), -len(match[0]), number, match)
        for number, (pattern, _) in enumerate(_FORMS)
        for match in pattern.finditer(text)
    ]
    passed = 0
    for begin, _, number, match in sorted(found, key=lambda item: item[:3]):
        if begin < passed:
            continue  # a part of what was no time as a whole
        resolved = _resolve(_FORMS[number][1], match, clock)
        if resolved is not None:
            return TimePhrase(match[0].strip(" ,"), *resolved)
        passed = match.end()
    return None


def _resolve(read: Reader, match: re.Match[str], clock: StreamClock) -> Range | None:
    try:
        resolved = read(match, clock)
    except (InvalidQuery, ValueError, OverflowError):
        return None  # no time of day, no day, or not of this stream: 25 pm, 2026-02-30
    is_behind = resolved is not None and not clock.has_wall and resolved[0] >= clock.end_s
    return None if is_behind else resolved


def _between(match: re.Match[str], clock: StreamClock) -> Range | None:
    first, last, day = match["first"], match["last"], match["day"]
    if not (_is_clock(first) or _is_clock(last)):
        return None
    first, last = _with_half(first, last)
    if not clock.has_wall:
        return None if day else resolve_range(_written(first), _written(last), clock)
    start_s, end_s = (_since_midnight(bound) for bound in (first, last))
    if end_s <= start_s:
        end_s += 86_400
    return _of_days(_days(day, clock, start_s), start_s, end_s, clock)


def _at(match: re.Match[str], clock: StreamClock) -> Range | None:
    before_s, after_s = (AROUND_S, AROUND_S) if match["how"] != "at" else (0.0, MOMENT_S)
    begin = _moment(match, clock)
    return None if begin is None else (max(0.0, begin - before_s), begin + after_s)


def _since(match: re.Match[str], clock: StreamClock) -> Range | None:
    begin = _moment(match, clock)
    return None if begin is None else (begin, None)


def _before(match: re.Match[str], clock: StreamClock) -> Range | None:
    end = _moment(match, clock)
    if end is None or end <= 0:
        return None
    start_s = 0.0
    if match["day"] is not None:
        start_s = _of_days(_days(match["day"], clock), 0, 86_400, clock)[0]
    return (start_s, end) if start_s < end else None


def _moment(match: re.Match[str], clock: StreamClock) -> float | None:
    """Second of the stream at a time of day."""
    text, day = match["at"], match["day"]
    if not _is_clock(text):
        return None
    if not clock.has_wall:
        return None if day else resolve_range(_written(text), None, clock)[0]
    since_s = _since_midnight(text)
    begin = clock.to_stream(_wall_s(_days(day, clock, since_s), since_s, clock, is_end=False))
    return begin if begin >= 0 else None


def _last(match: re.Match[str], clock: StreamClock) -> Range:
    return max(0.0, clock.end_s - _length(match)), clock.end_s


def _first(match: re.Match[str], clock: StreamClock) -> Range:
    return 0.0, _length(match)


def _ago(match: re.Match[str], clock: StreamClock) -> Range | None:
    now_s = clock.to_stream(clock.now_s) if clock.has_wall else clock.end_s
    begin = now_s - _length(match)
    return (max(0.0, begin), begin + MOMENT_S) if begin + MOMENT_S > 0 else None


def _start(match: re.Match[str], clock: StreamClock) -> Range:
    return 0.0, MOMENT_S


def _end(match: re.Match[str], clock: StreamClock) -> Range:
    return max(0.0, clock.end_s - MOMENT_S), clock.end_s


def _day(match: re.Match[str], clock: StreamClock) -> Range | None:
    if not clock.has_wall:
        return None
    day, part = match["day"].lower(), (match["part"] or "").lower()
    begin, end = DAY_PARTS.get(part, (0, 24))
    return _of_days(_days(day, clock), begin * 3600, end * 3600, clock)


def _this(match: re.Match[str], clock: StreamClock) -> Range | None:
    """`this morning`, `tonight`, `last night`."""
    if not clock.has_wall:
        return None
    day = _today(clock) - timedelta(days=match[0].lower().startswith("last"))
    begin, end = DAY_PARTS[(match["part"] or "night").lower()]
    return _of_days(day, begin * 3600, end * 3600, clock)


def _is_clock(text: str) -> bool:
    """A bare `2` may count something else."""
    return not text.isdigit()


def _with_half(first: str, last: str) -> tuple[str, str]:
    """`2` to `3 pm` are both in the afternoon, `11` to `1 pm` begins before noon."""
    half = re.search(r"[ap]\.?m\.?$", last, re.I)
    if not half or not re.fullmatch(r"\d{1,2}(:\d\d)?", first):
        return first, last
    same = f"{first} {half[0]}"
    if _since_midnight(same) < _since_midnight(last):
        return same, last
    return f"{first} {'am' if half[0][0].lower() == 'p' else 'pm'}", last


def _since_midnight(text: str) -> float:
    """Seconds of a time of day. Raises `ValueError` for none."""
    text = text.lower().replace(".", "")
    if text in ("noon", "midnight"):
        return 43_200.0 if text == "noon" else 0.0
    match = re.fullmatch(r"(\d{1,2})(?::(\d\d))?(?::(\d\d))?(?: ?([ap])m| o'clock)?", text)
    if match is None:
        raise ValueError(text)
    hour, half = int(match[1]), match[4]
    if hour > (12 if half else 24) or (half and not hour):
        raise ValueError(text)
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return float(hour * 3600 + int(match[2] or 0) * 60 + int(match[3] or 0))


def _written(text: str) -> str:
    """The time of day as `pipeline.values.times` takes it."""
    since_s = int(_since_midnight(text))
    seconds = f":{since_s % 60:02d}" if since_s % 60 else ""
    return f"{since_s // 3600:02d}:{since_s // 60 % 60:02d}{seconds}"


def _length(match: re.Match[str]) -> float:
    count = (match["count"] or "one").lower()
    return (_NUMBERS.get(count) or float(count)) * _UNITS[match["unit"][0].lower()]


def _today(clock: StreamClock) -> date:
    return datetime.fromtimestamp(clock.now_s, clock.zone).date()


def _days(text: str | None, clock: StreamClock, since_midnight_s: float = 0.0) -> date:
    """The day that is named: a weekday is the last one that is not to come.

    Without a name it is the latest of what is stored on which clocks have shown the time; where
    they have on none, the one on which they would next: nothing is found there, and that is told.
    """
    if text is None:
        last = clock.local(clock.end_s)
        assert last is not None
        days = [last.date() - timedelta(days=back) for back in (1, 0, -1)]
        there_s = [
            clock.to_stream(_wall_s(day, since_midnight_s, clock, is_end=False)) for day in days
        ]
        shown = [n for n, at_s in enumerate(there_s) if 0 <= at_s < clock.end_s]
        return days[shown[-1] if shown else next((n for n in (0, 1) if there_s[n] >= 0), 2)]
    text = text.lower().removeprefix("on ").removeprefix("last ")
    today = _today(clock)
    if text in _WEEKDAYS:
        return today - timedelta(days=(today.weekday() - _WEEKDAYS.index(text)) % 7)
    if text[0].isdigit():
        return date.fromisoformat(text)
    back = {"today": 0, "yesterday": 1, "the day before yesterday": 2}[text]
    return today - timedelta(days=back)


def _of_days(day: date, start_s: float, end_s: float, clock: StreamClock) -> Range:
    """Seconds of the stream of a part of a day as its clocks show it; `ValueError` without one."""
    if not clock.has_wall:
        raise ValueError("the stream has no wall clock")
    start, end = (
        clock.to_stream(_wall_s(day, since_s, clock, is_end))
        for since_s, is_end in ((start_s, False), (end_s, True))
    )
    if end <= max(0.0, start):
        raise ValueError("before the stream, or an hour that clocks leave out")
    return max(0.0, start), min(end, clock.end_s) if start < clock.end_s else end


def _wall_s(day: date, since_midnight_s: float, clock: StreamClock, is_end: bool) -> float:
    """Unix time at which clocks show this: of an hour that comes twice the first for a start and
    the second for an end; of one that is left out the moment at which it is."""
    shown = datetime(day.year, day.month, day.day) + timedelta(seconds=since_midnight_s)
    wall_s = shown.replace(tzinfo=clock.zone, fold=int(is_end)).timestamp()
    again = datetime.fromtimestamp(wall_s, clock.zone).replace(tzinfo=None, fold=0)
    if again == shown:
        return wall_s
    early, late = (shown.replace(tzinfo=clock.zone, fold=fold).timestamp() for fold in (1, 0))
    low, high = int(early) - 1, int(late)  # the change lies between: clocks jump over `shown`
    while high - low > 1:
        middle = (low + high) // 2
        told = datetime.fromtimestamp(middle, clock.zone).replace(tzinfo=None, fold=0)
        low, high = (low, middle) if told > shown else (middle, high)
    return float(high)


def _form(pattern: str, reader: Reader) -> tuple[re.Pattern[str], Reader]:
    return re.compile(rf"(?<![\w:]){pattern}(?![\w:])", re.I), reader


_FORMS: tuple[tuple[re.Pattern[str], Reader], ...] = (
    _form(rf"between (?P<first>{_CLOCK}) and (?P<last>{_CLOCK}){_ON}", _between),
    _form(rf"from (?P<first>{_CLOCK}) (?:to|until|till) (?P<last>{_CLOCK}){_ON}", _between),
    _form(rf"(?P<how>at|around|about) (?P<at>{_CLOCK}){_ON}", _at),
    _form(rf"(?:since|after) (?P<at>{_CLOCK}){_ON}", _since),
    _form(rf"(?:before|until|till|up to) (?P<at>{_CLOCK}){_ON}", _before),
    _form(
        rf"(?:in |during |over |within |for )?the (?:last|past) (?:(?P<count>{_COUNT}) )?"
        rf"(?P<unit>{_UNIT})",
        _last,
    ),
    _form(
        rf"(?:in |during |within |for )?the first (?:(?P<count>{_COUNT}) )?(?P<unit>{_UNIT})",
        _first,
    ),
    _form(rf"(?:(?P<count>{_COUNT}) )(?P<unit>{_UNIT}) ago", _ago),
    _form(r"(?:at|in) the (?:very )?(?:start|beginning)", _start),
    _form(r"at the (?:very )?end", _end),
    _form(rf"(?P<day>{_DAY})(?: (?:in the |at )?(?P<part>{_PART}))?", _day),
    _form(rf"(?:this (?P<part>{_PART})|tonight|last night)", _this),
)
