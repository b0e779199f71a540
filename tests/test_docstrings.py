"""Every public name says what it is: a docstring of its own, or that of what it fulfils."""

import importlib
import inspect
from collections.abc import Iterator
from functools import cache

import pytest

from tests.rooms import LAYERS, find_modules

MODULES = [name for name in find_modules() if name.partition(".")[0] in LAYERS]


@cache
def find_classes() -> list[type]:
    """Every class that the house defines at the top of a module."""
    return [
        value
        for name in MODULES
        for value in vars(importlib.import_module(name)).values()
        if inspect.isclass(value) and value.__module__ == name
    ]


@cache
def find_protocols() -> list[type]:
    """The seams: what their members say counts for whoever has all of them."""
    return [kind for kind in find_classes() if getattr(kind, "_is_protocol", False)]


def find_members(kind: type) -> dict[str, object]:
    """Public functions and properties that a class itself defines."""
    return {
        name: value
        for name, value in vars(kind).items()
        if not name.startswith("_")
        and (inspect.isfunction(getattr(value, "__func__", value)) or isinstance(value, property))
    }


def find_documented_members(protocol: type) -> set[str]:
    return {name for name, value in find_members(protocol).items() if inspect.getdoc(value)}


def is_fulfilled(protocol: type, kind: type) -> bool:
    """Whether a class has what a protocol asks, or one made of it has."""
    whole = [kind, *(other for other in find_classes() if kind in other.__mro__[1:])]
    names = find_members(protocol)
    return any(all(hasattr(other, name) for name in names) for other in whole)


def is_told_elsewhere(kind: type, name: str) -> bool:
    """Whether a base says what a member is, or a protocol that the class fulfils."""
    bases = (vars(base).get(name) for base in kind.__mro__[1:])
    if any(inspect.getdoc(member) for member in bases if member is not None):
        return True
    return any(
        name in find_documented_members(protocol) and is_fulfilled(protocol, kind)
        for protocol in find_protocols()
        if protocol is not kind
    )


def has_own_docstring(kind: type) -> bool:
    """Whether somebody wrote it: a dataclass without one is given its signature."""
    text = vars(kind).get("__doc__") or ""
    return bool(text) and not text.startswith(f"{kind.__name__}(")


def find_untold(name: str) -> Iterator[str]:
    module = importlib.import_module(name)
    if not inspect.getdoc(module) and find_modules()[name].read_text().strip():
        yield name
    for label, value in vars(module).items():
        if label.startswith("_") or getattr(value, "__module__", None) != name:
            continue
        if inspect.isfunction(value) and not value.__doc__:
            yield f"{name}.{label}"
        if inspect.isclass(value):
            if not has_own_docstring(value):
                yield f"{name}.{label}"
            for member, defined in find_members(value).items():
                if not getattr(defined, "__doc__", None) and not is_told_elsewhere(value, member):
                    yield f"{name}.{label}.{member}"


@pytest.mark.parametrize("package", LAYERS)
def test_public_names_say_what_they_are(package):
    modules = [name for name in MODULES if name.partition(".")[0] == package]
    assert [told for name in modules for told in find_untold(name)] == []


def test_a_name_without_a_docstring_is_found(monkeypatch):
    from workers import types

    monkeypatch.setattr(types.is_gap, "__doc__", None)
    assert list(find_untold("workers.types")) == ["workers.types.is_gap"]


def test_a_store_may_leave_its_methods_to_the_protocol():
    from pipeline.store.memory import MemoryStore
    from pipeline.store.redis.clips import RedisClips

    assert not MemoryStore.put_gap.__doc__
    assert is_told_elsewhere(MemoryStore, "put_gap")
    assert is_told_elsewhere(RedisClips, "put_gap")
    assert not is_told_elsewhere(MemoryStore, "_stream")
