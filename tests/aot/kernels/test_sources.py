"""What Triton's interpreter does not show of the kernels' sources: how the compiler reads them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import aot.kernels

SOURCES = sorted(Path(aot.kernels.__file__).parent.glob("*.py"))


def lost_copies(source: str) -> set[frozenset[str]]:
    """Pairs of names of which one is copied to the other both before a loop and in it.

    Triton takes a name for carried from turn to turn where a turn on the values before the loop
    leaves it another value; a copy of what was the same value before stays what it was.
    """
    found: set[frozenset[str]] = set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            copies = list(_copies(function, looped=False))
            within = {pair for pair, looped in copies if looped}
            found |= within & {pair for pair, looped in copies if not looped}
    return found


def _copies(node: ast.AST, *, looped: bool) -> Iterator[tuple[frozenset[str], bool]]:
    if isinstance(node, ast.Assign):
        target, value = node.targets[0], node.value
        sides = zip(
            getattr(target, "elts", [target]), getattr(value, "elts", [value]), strict=False
        )
        for left, right in sides:
            if isinstance(left, ast.Name) and isinstance(right, ast.Name):
                yield frozenset((left.id, right.id)), looped
    for child in ast.iter_child_nodes(node):
        yield from _copies(child, looped=looped or isinstance(node, ast.For | ast.While))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_loop_loses_a_copy(path):
    assert not lost_copies(path.read_text())


def test_a_copy_that_a_loop_loses_is_seen():
    lost = """
def kernel(n):
    c = n * 1
    before = c
    while c > 0:
        before = c
        c -= 1
"""
    assert lost_copies(lost) == {frozenset(("before", "c"))}
    assert not lost_copies(
        lost.replace("    before = c\n    while", "    before = n * 1\n    while")
    )
