"""Every `aot` command that a page or an error names is one that there is.

Lines of pages are parsed as they stand, by the command's own parser, and not run. What stands in
backticks, in pages and in texts of errors, names a command and options, often without their values:
these must be there.
"""

import re
import shlex
from pathlib import Path

import pytest
import typer

from pipeline.cli.arguments import arrange
from pipeline.cli.main import app
from tests.rooms import ROOT

COMMAND = typer.main.get_command(app)
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("*/*/README.md")),
]
SOURCES = [
    *(
        path
        for room in ("pipeline", "workers", "aot")
        for path in sorted((ROOT / room).rglob("*.py"))
    ),
    ROOT / "ray_cluster.yaml",
]
LINE = re.compile(r"^\s*(?:\$ |# )?((?:[A-Z_]+=\S+ )*aot [^`|<>\n]*)$", re.MULTILINE)
NAMED = re.compile(r"`(aot [^`\n]+)`")


def texts(paths: list[Path]) -> list[tuple[str, str]]:
    return [(str(path.relative_to(ROOT)), path.read_text()) for path in paths if path.is_file()]


def blocks(page: str) -> str:
    """What stands as code: indented, or between fences."""
    fenced = "".join(re.findall(r"```(?:sh|bash|console)?\n(.*?)```", page, re.DOTALL))
    return fenced + "\n".join(re.findall(r"^ {4}.*$", page, re.MULTILINE))


LINES = sorted(
    {(name, line.strip()) for name, text in texts(PAGES) for line in LINE.findall(blocks(text))}
)
MENTIONS = sorted(
    {(name, part) for name, text in texts(PAGES + SOURCES) for part in NAMED.findall(text)}
)


def words_of(line: str) -> list[str]:
    """Arguments of `aot`, without variables before it and a remark behind."""
    words = shlex.split(line, comments=True)
    return words[words.index("aot") + 1 :]


def parse(words: list[str]) -> None:
    """As the command would, up to the point at which it would begin."""
    command, given = COMMAND, arrange(words)
    context = command.make_context("aot", given, resilient_parsing=False)
    while isinstance(command, typer.core.TyperGroup) and (
        rest := [*context._protected_args, *context.args]
    ):
        name, command, given = command.resolve_command(context, rest)
        assert command is not None
        context = command.make_context(name, given, parent=context)


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_line_of_a_page_is_a_command(page, line):
    parse(words_of(line))


@pytest.mark.parametrize(("place", "part"), MENTIONS)
def test_what_is_named_is_there(place, part):
    command = COMMAND
    options = {option for parameter in COMMAND.params for option in parameter.opts} | {"--json"}
    for word in words_of(part):
        if isinstance(command, typer.core.TyperGroup) and not word.startswith("-"):
            assert word in command.commands, f"{place} names {part!r}"
            command = command.commands[word]
            options |= {option for parameter in command.params for option in parameter.opts}
        elif word.startswith("-"):
            assert word in options | {"--help"}, f"{place} names {part!r}"
