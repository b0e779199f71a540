"""Composes, stores, asks: videos into compressed clips, questions into answers."""

from pipeline.api import Pipeline
from pipeline.ask.run import Answer, Question
from pipeline.errors import PipelineError
from pipeline.settings import Settings, load_settings
from pipeline.types import ClipSpan, Gap, StreamInfo

__all__ = [
    "Answer",
    "ClipSpan",
    "Gap",
    "Pipeline",
    "PipelineError",
    "Question",
    "Settings",
    "StreamInfo",
    "load_settings",
]
