"""Composes, stores, asks: videos into compressed clips, questions into answers.

Names are looked up in their modules when they are first used: the command line reads a store or
says what is wrong without loading what decodes, reduces or answers.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.api.pipeline import Pipeline
    from pipeline.ask.answer import Answer, Citation, Piece
    from pipeline.ask.question import Question
    from pipeline.settings import Settings, load_settings
    from pipeline.values.errors import PipelineError
    from pipeline.values.types import ClipSpan, Gap, StreamInfo

__all__ = [
    "Answer",
    "Citation",
    "ClipSpan",
    "Gap",
    "Piece",
    "Pipeline",
    "PipelineError",
    "Question",
    "Settings",
    "StreamInfo",
    "load_settings",
]

_HOMES = {
    "api.pipeline": ("Pipeline",),
    "ask.answer": ("Answer", "Citation", "Piece"),
    "ask.question": ("Question",),
    "values.errors": ("PipelineError",),
    "settings": ("Settings", "load_settings"),
    "values.types": ("ClipSpan", "Gap", "StreamInfo"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """A public name, loaded with the module it lives in (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
