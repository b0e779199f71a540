"""Which machines a stream asks for, by their labels: the syntax and meaning of Ray's selectors.

https://docs.ray.io/en/latest/ray-core/scheduling/labels.html; keys and values are those of
Kubernetes' labels.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

Labels = Mapping[str, str]
"""What a machine is called by: `{"site": "north"}`."""

_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"(?:{_WORD}/)?{_WORD}")
_CONDITION = re.compile(rf"(?P<no>!?)(?:(?P<one>{_WORD})|in\((?P<many>{_WORD}(?:, ?{_WORD})*)\))")
_FALLBACK = "~"


@dataclass(frozen=True, order=True)
class LabelSelector:
    """Conditions on labels, all of which a machine meets; none of them is met by every machine."""

    conditions: tuple[tuple[str, str], ...] = ()
    """Key and `value`, `!value`, `in(a, b)` or `!in(a, b)`, by key."""
    is_required: bool = True
    """Whether no machine will do where none meets them; else any other may."""

    @classmethod
    def of(cls, conditions: Labels, *, is_required: bool = True) -> "LabelSelector":
        """The selector with these conditions.

        Raises:
            ValueError: one does not read.
        """
        for key in conditions:
            if not _KEY.fullmatch(key):
                raise ValueError(f"got the label {key!r}, expected a key of Kubernetes' labels")
        pairs = ((key, _write(*_read(text))) for key, text in conditions.items())
        return cls(tuple(sorted(pairs)), is_required or not conditions)

    @classmethod
    def of_key(cls, key: str) -> "LabelSelector":
        """What `key` wrote."""
        pairs = (part.partition("=") for part in key.removeprefix(_FALLBACK).split(";") if part)
        return cls(tuple((name, text) for name, _, text in pairs), not key.startswith(_FALLBACK))

    @property
    def key(self) -> str:
        """As one word, without braces; empty for the one without conditions."""
        text = ";".join(f"{name}={text}" for name, text in self.conditions)
        return text if self.is_required else _FALLBACK + text

    def matches(self, labels: Labels) -> bool:
        """Whether a machine with these labels meets all conditions."""
        return all(_meets(labels.get(key), *_read(text)) for key, text in self.conditions)

    def admits(self, labels: Labels) -> bool:
        """Whether such a machine will do at all."""
        return not self.is_required or self.matches(labels)

    def __str__(self) -> str:
        return ", ".join(f"{name}={text}" for name, text in self.conditions) or "any"


ANYWHERE = LabelSelector()


def selector_of(text: str) -> LabelSelector:
    """What a stream asks for, whose settings are this JSON."""
    if '"label_selector"' not in text:
        return ANYWHERE
    fields = json.loads(text)
    is_required = not fields.get("label_fallback")
    return LabelSelector.of(fields["label_selector"] or {}, is_required=is_required)


@lru_cache(maxsize=4096)
def _read(text: str) -> tuple[bool, tuple[str, ...]]:
    """Whether a label may be one of these values, or none of them."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ValueError(
            f"got the condition {text!r}, expected a label's value, !value, in(a, b) or !in(a, b)"
        )
    values = [found["one"]] if found["one"] else re.split(", ?", found["many"])
    return not found["no"], tuple(values)


def _write(is_wanted: bool, values: tuple[str, ...]) -> str:
    names = sorted(set(values))
    text = names[0] if len(names) == 1 else f"in({', '.join(names)})"
    return text if is_wanted else f"!{text}"


def _meets(value: str | None, is_wanted: bool, values: tuple[str, ...]) -> bool:
    return (value in values) is is_wanted
