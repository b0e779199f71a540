"""Arrows run one way, also those written as strings; some things are nowhere.

Layers and every library's one home are import-linter's contracts (pyproject.toml, `make check`).
"""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError
from pathlib import Path

import pytest

from tests.rooms import (
    LAYERS,
    ROOT,
    Arrow,
    find_modules,
    module_arrows,
    room_arrows,
    sort_rooms,
)

SOURCES = sorted(path.relative_to(ROOT) for path in find_modules().values())
MOST_ARROWS = {"workers": 42, "pipeline": 32}
"""Between the rooms of a package: half of what there was before rooms were folders. Who needs more
finds the two rooms that are one, or the name that has its home elsewhere."""
ABSENT = ("pickle", "dill", "marshal", "shelve")
LONG = 300
"""Lines of a file that the page on the architecture has to give a reason for."""


def test_the_sources_were_found():
    assert len(SOURCES) > 150


def test_no_module_imports_a_layer_above_it_not_by_a_string_either():
    rank = {package: number for number, package in enumerate(LAYERS)}
    upwards = [
        (here, there)
        for here, there in module_arrows()
        if rank[there.partition(".")[0]] > rank[here.partition(".")[0]]
    ]
    assert not upwards


def find_circle(arrows: set[Arrow]) -> list[str]:
    """Names that import each other in a circle; none where every arrow can point backwards."""
    try:
        sort_rooms(arrows)
    except CycleError as circle:
        return circle.args[1]
    return []


def test_a_circle_is_found():
    assert set(find_circle({("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")})) == {"a", "b", "c"}


@pytest.mark.parametrize("package", LAYERS)
def test_rooms_of_a_package_form_no_circle(package):
    assert find_circle(room_arrows(package)) == []


@pytest.mark.parametrize(("package", "most"), MOST_ARROWS.items())
def test_rooms_of_a_package_lean_on_few_others(package, most):
    arrows = sorted(room_arrows(package))
    assert len(arrows) <= most, f"{len(arrows)} arrows, at most {most}: {arrows}"


def test_modules_form_no_circle():
    assert find_circle(module_arrows()) == []


def test_a_long_file_has_its_one_idea_named():
    page = (ROOT / "docs" / "architecture.md").read_text().partition("## Long files")[2]
    long = {str(path) for path in SOURCES if len((ROOT / path).read_text().splitlines()) > LONG}
    assert set(re.findall(r"^\| `(.+?)` \|", page, re.MULTILINE)) == long


def imports(path: Path) -> Iterator[str]:
    """Top names of everything a file imports, also inside functions."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_nothing_unpickles():
    assert not [str(path) for path in SOURCES if set(imports(path)) & set(ABSENT)]


def calls(path: Path) -> Iterator[str]:
    """Dotted names of everything a file calls or reads an attribute of."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, (ast.Attribute, ast.Name)):
            yield ast.unparse(node)


@pytest.mark.parametrize("name", ["torch.load", "eval", "exec", "yaml.load"])
def test_no_call_runs_what_it_reads(name):
    assert not [str(path) for path in SOURCES if name in calls(path)]


def test_the_environment_is_read_in_settings_alone():
    readers = {str(path) for path in SOURCES if {"os.environ", "os.getenv"} & set(calls(path))}
    assert readers <= {"pipeline/settings/sources.py", "pipeline/settings/server.py"}
