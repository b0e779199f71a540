"""A package's public names are those its `__init__` lists; what is private stays in its module."""

import ast
import importlib

import pytest

from tests.rooms import find_modules

PACKAGES = [name for name, path in find_modules().items() if path.name == "__init__.py"]


def find_defined(package: str) -> set[str]:
    """Public functions and classes that a package's `__init__` defines by itself."""
    body = ast.parse(find_modules()[package].read_text()).body
    named = [node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return {node.name for node in named if not node.name.startswith("_")}


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_offers_is_there(package):
    module = importlib.import_module(package)
    listed = getattr(module, "__all__", [])
    assert len(listed) == len(set(listed))
    assert [name for name in listed if not hasattr(module, name)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_defines_is_listed(package):
    listed = set(getattr(importlib.import_module(package), "__all__", []))
    assert find_defined(package) - listed == set()


def test_no_module_takes_a_private_name_of_another():
    taken = [
        f"{module}: {node.module}.{alias.name}"
        for module, path in find_modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in find_modules()
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert not taken
