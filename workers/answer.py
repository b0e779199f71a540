"""The language half of a model: a question and cached tokens in, text out as it is written."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from workers.models import VisualSegment, open_language_model


@dataclass(frozen=True)
class AnswerSettings:
    """Which language half answers, and where."""

    model: str
    """A hub id or a folder; the checkpoint whose vision half made the tokens."""
    revision: str | None = None
    device: str = "cpu"
    dtype: str = "float32"


class AnswerWorker:
    """A loaded language half; what an actor or a command holds."""

    def __init__(self, settings: AnswerSettings) -> None:
        """Load the language half.

        Raises:
            ModelError: the checkpoint cannot be used.
        """
        self._model = open_language_model(
            settings.model,
            revision=settings.revision,
            device=settings.device,
            dtype=settings.dtype,
        )

    def stream_answer(
        self, question: str, segments: Sequence[VisualSegment], *, max_new_tokens: int
    ) -> Iterator[str]:
        """Yield the answer's text in pieces, each as soon as it is certain."""
        yield from self._model.stream_answer(question, segments, max_new_tokens=max_new_tokens)

    def close(self) -> None:
        """Drop the model and give its device memory back before the process is ended."""
        del self._model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
