"""How a checkpoint wants its visual tokens to be read, as its config.json says.

    "time_marks": {"per": "frame", "format": "HH:MM:SS", "keep_positions": true}

A checkpoint that was trained on such prompts answers gibberish from others. One that says nothing
is read as its family is: one mark a clip, the tokens as neighbours. One that names the format of
its marks has words for nothing else in them, and gets no stream's name.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from workers.errors import InvalidCheckpoint
from workers.models.base import ReadingStyle
from workers.models.checkpoint import Checkpoint
from workers.models.relevance import read_rules

KEY = "time_marks"
FIELDS: dict[str, Sequence[Any]] = {
    "per": ("clip", "frame"),
    "format": ("HH:MM:SS",),
    "keep_positions": (False, True),
}
"""What may stand there, and with which values; each may be left out."""


def read_style(checkpoint: Checkpoint, default: ReadingStyle | None = None) -> ReadingStyle:
    """The style a checkpoint names, or its family's: `default`.

    Raises:
        InvalidCheckpoint: `time_marks` is no object, or holds what is not known here: read
            otherwise than it was trained, the model would answer wrongly without a word.
    """
    default = default or ReadingStyle()
    rules = read_rules(checkpoint.config, checkpoint.model_id)
    default = replace(default, relevance=rules)
    given = checkpoint.config.get(KEY)
    if given is None:
        return default
    if not isinstance(given, dict):
        raise InvalidCheckpoint(
            f"{checkpoint.model_id}: got {KEY} {given!r}, expected an object with any of "
            f"{', '.join(FIELDS)}; mend config.json"
        )
    for name, value in given.items():
        _check_field(checkpoint, name, value)
    return replace(
        default,
        marks=given.get("per", default.marks),
        keep_positions=given.get("keep_positions", default.keep_positions),
        name_streams="format" not in given,
    )


def _check_field(checkpoint: Checkpoint, name: str, value: Any) -> None:
    if name not in FIELDS:
        raise InvalidCheckpoint(
            f"{checkpoint.model_id}: got {KEY}.{name}, expected any of {', '.join(FIELDS)}; mend "
            "config.json, or use a version that knows it"
        )
    allowed = FIELDS[name]
    # By type too: 1 equals true, and is none.
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        raise InvalidCheckpoint(
            f"{checkpoint.model_id}: got {KEY}.{name} {value!r}, expected "
            f"{' or '.join(map(repr, allowed))}; mend config.json"
        )
