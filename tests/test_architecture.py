"""Every library has one home, and some things are nowhere."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("aot", "workers", "pipeline", "bench", "demo")
SOURCES = sorted(
    path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
)
HOMES = {
    "av": ["workers/decode/*", "bench/camera.py", "demo/world/video.py"],
    "ray": ["workers/cluster/*"],
    "redis": [f"pipeline/store/{name}.py" for name in ("redis", "connection", "bulk")],
    "pyarrow": ["pipeline/store/arrow/*"],
    "transformers": ["workers/models/*", "bench/*", "demo/*"],
    "torch": ["aot/*", "workers/*", "pipeline/store/arrow/*", "bench/*", "demo/*"],
    "typer": ["pipeline/cli/*"],
    "rich": ["pipeline/cli/*"],
    "pydantic": ["pipeline/settings.py"],
    "pydantic_settings": ["pipeline/settings.py"],
}
ABSENT = ("pickle", "dill", "marshal", "shelve")


def imports(path: Path) -> Iterator[str]:
    """Top names of everything a file imports, also inside functions."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("library", HOMES)
def test_a_library_has_one_home(library):
    strangers = [
        str(path)
        for path in SOURCES
        if library in imports(path) and not any(fnmatch(str(path), home) for home in HOMES[library])
    ]
    assert not strangers


def test_every_home_is_there():
    homes = [home for places in HOMES.values() for home in places]
    assert [home for home in homes if not any(ROOT.glob(home))] == []


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
    assert readers <= {"pipeline/settings.py"}


def test_the_sources_were_found():
    assert len(SOURCES) > 50
