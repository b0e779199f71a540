"""A model that looks through no more clips once nobody waits for what it finds.

A text that is being written stops with its generator; scores of many clips are asked for at once.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.values.errors import AnswerStopped
from workers.models import ModelIdentity, ReadingStyle, VisualSegment
from workers.seams import Answerer

FEW = 8
"""Clips that are scored between two looks."""


@dataclass(frozen=True)
class WhileWanted:
    """An `Answerer` for one question; `left` gives it up."""

    model: Answerer
    left: threading.Event

    @property
    def identity(self) -> ModelIdentity:
        """As the model's."""
        return self.model.identity

    @property
    def reading(self) -> ReadingStyle:
        """As the model's."""
        return self.model.reading

    @property
    def context_length(self) -> int:
        """As the model's."""
        return self.model.context_length

    def count_tokens(self, question: str, segments: Sequence[VisualSegment]) -> int:
        """As the model does."""
        return self.model.count_tokens(question, segments)

    def score_relevance(
        self, question: str, parts: Sequence[Sequence[VisualSegment]]
    ) -> list[float]:
        """A few parts at a time, as scores of a part are its own.

        Raises:
            AnswerStopped: nobody waits for them.
        """
        scores: list[float] = []
        for begin in range(0, len(parts), FEW):
            if self.left.is_set():
                raise AnswerStopped("nobody is there to read it")
            scores += self.model.score_relevance(question, parts[begin : begin + FEW])
        return scores

    def stream_answer(
        self, question: str, segments: Sequence[VisualSegment], *, max_new_tokens: int
    ) -> Iterator[str]:
        """As the model does."""
        return self.model.stream_answer(question, segments, max_new_tokens=max_new_tokens)
