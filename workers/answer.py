"""Which language half answers a question, and how it is opened: in this process or an actor's."""

from dataclasses import dataclass

from workers.models import LanguageModel, open_language_model


@dataclass(frozen=True)
class AnswerSettings:
    """Which language half answers, and where."""

    model: str
    """A hub id or a folder; the checkpoint whose vision half made the tokens."""
    revision: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    together: int = 1
    """Questions that are answered at one time."""
    kept_bytes: int = 0
    """Of prompts that were read and are kept for further questions on the same window."""


def open_answerer(settings: AnswerSettings) -> LanguageModel:
    """Load the language half into this process.

    Raises:
        ModelError: the checkpoint cannot be used.
    """
    return open_language_model(
        settings.model,
        revision=settings.revision,
        device=settings.device,
        dtype=settings.dtype,
        kept_bytes=settings.kept_bytes,
    )
