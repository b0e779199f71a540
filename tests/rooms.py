"""The rooms of the house and the arrows between them, read from the sources.

A room is what lies directly in a package: a module, or a folder with all that is in it; the
package's own `__init__` is one too. An arrow is an import, wherever it stands in a file, also one
that is written as a string. docs/architecture.md draws the arrows that do not follow from others.

    python -m tests.rooms        # writes drawings and figures of today into docs/architecture.md
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DRAWING = ROOT / "docs" / "architecture.md"
LAYERS = ("aot", "workers", "pipeline", "bench", "demo")
"""The packages, each of which may import those before it."""

Arrow = tuple[str, str]


@cache
def find_modules() -> dict[str, Path]:
    """Every module of the house, by its dotted name."""
    return {
        _name_of(path): path
        for package in LAYERS
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def _name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def read_imports(module: str) -> frozenset[str]:
    """Modules of the house that a module imports, by statement or by a string."""
    tree = ast.parse(find_modules()[module].read_text())
    return frozenset(_iter_imports(tree)) - {module}


def _iter_imports(tree: ast.AST) -> Iterator[str]:
    known = find_modules()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in known else node.module for name in names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            if "." in name and name in known:
                yield name


def module_arrows() -> set[Arrow]:
    """All imports between modules."""
    return {(module, other) for module in find_modules() for other in read_imports(module)}


def room_arrows(package: str) -> set[Arrow]:
    """Arrows between the rooms of a package; for the empty name, between the packages."""
    found = {(_room(a, package), _room(b, package)) for a, b in module_arrows()}
    return {(a, b) for a, b in found if a and b and a != b}


def count_rooms(package: str) -> int:
    """How many rooms a package has, its own `__init__` left out where it imports nothing."""
    rooms = {_room(module, package) for module in find_modules()} - {"", package}
    return len(rooms) + any(package in arrow for arrow in room_arrows(package))


def _room(module: str, package: str) -> str:
    if not package:
        return module.partition(".")[0]
    if module == package:
        return package
    inside = module.startswith(f"{package}.")
    return module.removeprefix(f"{package}.").partition(".")[0] if inside else ""


def sort_rooms(arrows: set[Arrow]) -> list[str]:
    """Rooms in an order in which every arrow points backwards; of one level by name.

    Raises:
        graphlib.CycleError: the arrows run in a circle; it is in the error.
    """
    graph: dict[str, set[str]] = {}
    for here, there in arrows:
        graph.setdefault(here, set()).add(there)
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    rooms: list[str] = []
    while ready := sorted(sorter.get_ready(), reverse=True):
        rooms.extend(ready)
        sorter.done(*ready)
    return rooms


def leave_out_implied(arrows: set[Arrow]) -> set[Arrow]:
    """The arrows that do not follow from longer ways (the transitive reduction)."""
    below: dict[str, set[str]] = {}
    for room in sort_rooms(arrows):
        direct = {there for here, there in arrows if here == room}
        below[room] = direct.union(*(below[there] for there in direct))
    return {
        (here, there)
        for here, there in arrows
        if not any(there in below[other] for source, other in arrows if source == here)
    }


def draw(package: str) -> str:
    """The drawing of a package's rooms, in mermaid, one line a room, top first."""
    arrows = leave_out_implied(room_arrows(package))
    lines = ["flowchart TD"]
    for room in reversed(sort_rooms(arrows)):
        if below := sorted(there for here, there in arrows if here == room):
            lines.append(f"    {room} --> {' & '.join(below)}")
    return "\n".join(lines)


def find_drawings(text: str) -> dict[str, str]:
    """Drawings in a page by the package that the line before each names in a comment."""
    found = re.findall(r"<!-- rooms:(\S*) -->\n```mermaid\n(.*?)```", text, re.DOTALL)
    return dict(found)


def rewrite(text: str) -> str:
    """A page with the drawings and figures of today."""
    for package, drawing in find_drawings(text).items():
        head = f"<!-- rooms:{package} -->\n```mermaid\n"
        text = text.replace(f"{head}{drawing}```", f"{head}{draw(package)}\n```")
    for package in LAYERS:
        today = f"{count_rooms(package)} | {len(room_arrows(package))} |"
        row = rf"^(\| {package} \|[^|]*\|[^|]*\|)[^|]*\|[^|]*\|$"
        text = re.sub(row, rf"\1 {today}", text, flags=re.MULTILINE)
    return text


if __name__ == "__main__":
    DRAWING.write_text(rewrite(DRAWING.read_text()))
