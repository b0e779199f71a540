"""What the commands share: settings from the options, tables and JSON on stdout, escaping.

Text that came from outside (file names, metadata, errors of libraries) is shown with control
characters escaped, so that it can neither move the cursor nor forge a line.
"""

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from pipeline.values.errors import kind_of
from pipeline.values.plain import escape, one_line, to_plain

if TYPE_CHECKING:
    from pipeline.settings import Settings
    from pipeline.store import ClipStore

logger = logging.getLogger(__name__)

PIPE_COLUMNS = 10_000


@dataclass(frozen=True)
class Common:
    """Options that stand before the command."""

    config: str | None = None
    store: str | None = None
    debug: bool = False

    def overrides(self, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the command was given, with what stood before it."""
        result = dict(given or {})
        if self.store is not None:
            result["store"] = {**result.get("store", {}), "url": self.store}
        return result


def settings_of(
    context: typer.Context, overrides: Mapping[str, Any] | None = None, *, strict: bool = True
) -> "Settings":
    """The settings of this command; from here on lines are logged as they say."""
    from pipeline.settings import load_settings
    from pipeline.settings.logs import setup_logging

    common = common_of(context)
    settings = load_settings(common.config, common.overrides(overrides), strict=strict)
    setup_logging("debug" if common.debug else settings.log.level, settings.log.format)
    logger.debug("settings from %s: %r", common.config or "environment and defaults", settings)
    return settings


def open_store_of(context: typer.Context) -> "ClipStore":
    """The store that the command's settings name."""
    from pipeline.store import open_store

    return open_store(settings_of(context).store_config())


def warn_of_variables() -> None:
    """A line for every variable that looks like a setting and is none."""
    from pipeline.settings import nearest_variable, unknown_variables

    for name in unknown_variables():
        nearest = nearest_variable(name)
        hint = f"did you mean {nearest}?" if nearest else "see `aot config` for names"
        note(f"warning: {escape(name)} sets nothing; {hint}")


def common_of(context: typer.Context) -> Common:
    """The options before the command."""
    found = context.find_object(Common)
    return found if found is not None else Common()


def explain_error(error: Exception) -> tuple[str, str]:
    """Stable code and one line of text; of what is no error of ours its type as well."""
    text = one_line(error)
    if kind_of(error) == "internal":
        return "InternalError", f"{type(error).__name__}: {text}"
    return getattr(error, "code", type(error).__name__), text


def print_json(value: Any) -> None:
    """One line of JSON on stdout."""
    print(json.dumps(to_plain(value), ensure_ascii=False, allow_nan=False))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table for people on stdout."""
    from rich.console import Console
    from rich.table import Column, Table

    columns = [Column(header, overflow="fold") for header in headers]
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    # Into a pipe nothing is cut: whoever reads it there looks for whole names.
    wide = None if sys.stdout.isatty() else PIPE_COLUMNS
    console = Console(soft_wrap=True, width=wide)
    with console.capture() as drawn:
        console.print(table, markup=False)
    for line in drawn.get().splitlines():
        print(line.rstrip())


def print_fields(value: Mapping[str, Any]) -> None:
    """What is known of one thing, a line a field: of what has fields of its own, a line of each."""
    print_table(("", ""), _fields(value))


def _fields(value: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for name, part in value.items():
        if isinstance(part, Mapping) and part:
            yield from _fields(part, f"{within}{name}.")
        elif isinstance(part, list) and part:
            for number, item in enumerate(part):
                fields = item if isinstance(item, Mapping) else {"": item}
                yield f"{within}{name}[{number}]", ", ".join(_terse(fields))
        else:
            yield within + name, "-" if part in (None, [], {}) else part


def _terse(fields: Mapping[str, Any]) -> Iterator[str]:
    return (f"{name} {part}".strip() for name, part in fields.items() if part not in (None, ""))


def note(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr)


def hms(seconds: float) -> str:
    """Seconds as H:MM:SS."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def local_time(wall_s: float) -> str:
    """Unix time as ISO 8601 in this machine's zone."""
    return datetime.fromtimestamp(wall_s).astimezone().isoformat(timespec="seconds")


def megabytes(size_bytes: float) -> str:
    """Bytes as MB, 10^6."""
    return f"{size_bytes / 1e6:.2f} MB"


def confirm(question: str) -> None:
    """Ask on stderr, where no result goes; anything but yes ends the command."""
    from pipeline.values.errors import InvalidQuery, NotConfirmed

    if not sys.stdin.isatty():
        raise InvalidQuery(f"{question} There is no terminal to ask on: say --yes")
    if not typer.confirm(question, err=True):
        raise NotConfirmed("not confirmed, so that nothing was deleted")
