"""When a recording was begun, as far as its path tells: recorders name their files by the clock.

Read are a date and a time of day in the name (`2026-05-04_14-00-00`, `gate_20260504T140000Z`), in
the name and the folders above it (`2026-05-04/14.00.00`, `2026/05/04/14/00`, Frigate's
`2026-05-04/14/gate/39.07`), and Unix seconds or milliseconds (`1777896000`). The time is that of
the file's first picture. Without `Z` it is of the stream's zone. Knows of no file.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo

_DATE = r"(?<!\d)((?:19|20)\d\d)[-_./]?([01]\d)[-_./]?([0-3]\d)"
_FORMS = (
    re.compile(_DATE + r"[-_T /.]{0,3}(\d\d)[-_.:h]?(\d\d)[-_.:m]?(\d\d)(?!\d)"),
    re.compile(_DATE + r"(?:/[^/]*)*?/(?:[^/]*\D)?(\d\d)[-_.:h]?(\d\d)[-_.:m]?(\d\d)(?!\d)[^/]*$"),
    re.compile(_DATE + r"[-_T/](\d\d)/(?:[^/]*/)?(\d\d)[-_.](\d\d)$"),
    re.compile(_DATE + r"[-_T/](\d\d)/(?:[^/]*/)?(\d\d)()$"),
)
_UNIX = re.compile(r"(?<!\d)(1\d{9})(\d{3})?(?!\d)")
FOLDERS = 6
"""So many last parts of a path are looked at."""


def begun_times(path: str, zone: tzinfo | None = None) -> list[float]:
    """Unix times that a path may mean; none where it tells no time, two in the hour that comes
    twice when clocks are set back. `zone` None is this machine's."""
    stem = re.sub(r"\.\w{2,4}$", "", "/".join(path.split("/")[-FOLDERS:]))
    if match := _UNIX.search(stem.rpartition("/")[2]):
        return [int(match[1]) + int(match[2] or 0) / 1000]
    for form in _FORMS:
        if match := form.search(stem):
            return list(dict.fromkeys(_moments(match, stem, zone)))
    return []


def _moments(match: re.Match[str], stem: str, zone: tzinfo | None) -> Iterator[float]:
    if stem[match.end() : match.end() + 1] == "Z":
        zone = UTC
    try:
        year, month, day, hour, minute, second = (int(part or 0) for part in match.groups())
        moment = datetime(year, month, day, hour, minute, second)
    except ValueError:
        return
    for fold in (0, 1):
        here = moment.replace(fold=fold)
        yield (here.astimezone() if zone is None else here.replace(tzinfo=zone)).timestamp()


def natural_order(path: str) -> tuple[tuple[str, int], ...]:
    """Sorts `part9` before `part10`."""
    parts = re.findall(r"(\D*)(\d*)", path)
    return tuple((text, int(digits or -1)) for text, digits in parts)
