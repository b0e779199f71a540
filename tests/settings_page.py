"""docs/settings.md: every setting with its default, its bounds and its meaning, from the groups.

python -m tests.settings_page        # writes the tables of today into the page
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.settings import Settings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
HEAD = "| setting | default | takes | is |\n|---|---|---|---|\n"
SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def iter_groups() -> Iterator[tuple[str, type[BaseModel]]]:
    """Groups of the settings by the name they have in a file."""
    for name, field in Settings.model_fields.items():
        listed = get_args(field.annotation)  # `streams` is a list of groups
        yield name, listed[0] if listed else type(field.default)


def write_table(name: str, group: type[BaseModel]) -> str:
    """A group's rows, in the order of its source."""
    meanings = read_meanings(group)
    rows = [
        f"| `{name}.{field}` | `{_show_default(info)}` | {_show_type(info)} | {meanings[field]} |\n"
        for field, info in group.model_fields.items()
    ]
    return HEAD + "".join(rows)


def read_meanings(group: type[BaseModel]) -> dict[str, str]:
    """What stands below each field in the source, in one line; empty where a name says it all."""
    [definition] = ast.parse(inspect.getsource(group)).body
    assert isinstance(definition, ast.ClassDef)
    meanings = dict.fromkeys(group.model_fields, "")
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            meanings[field.target.id] = " ".join(str(below.value.value).split())
    return meanings


def _show_default(info: FieldInfo) -> str:
    default = info.default
    if info.is_required():
        return "required"
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    return str(list(default) if isinstance(default, tuple) else default)


def _show_type(info: FieldInfo) -> str:
    kind = info.annotation
    name = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    name = re.sub(r"\b(typing|pathlib|pydantic\.types|pipeline\.settings\.\w+)\.", "", name)
    name = name.replace("NoneType", "null").replace("None", "null").replace("|", "or")
    bounds = [
        f"{sign} {getattr(rule, key):,}".replace(",", " ")
        for rule in info.metadata
        for key, sign in SIGNS.items()
        if getattr(rule, key, None) is not None
    ]
    return ", ".join([name, *bounds])


def rewrite(text: str) -> str:
    """A page whose tables are today's; where each one stands, a comment names its group."""
    for name, group in iter_groups():
        pattern = rf"(<!-- group:{name} -->\n)(?:\|.*\n)*"
        table = write_table(name, group)
        text = re.sub(pattern, lambda found, table=table: found.group(1) + table, text)
    return text


if __name__ == "__main__":
    PAGE.write_text(rewrite(PAGE.read_text()))
