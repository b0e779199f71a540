"""All of a language half but the language model: what an engine elsewhere needs to be asked.

Tokenizer, prompt, learned newline and style are those of the checkpoint, read without the weights
of a layer. The engine gets token ids and rows of embeddings; which ones is decided here, by the
same code that a model in this process is asked with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from aot import InvalidFeatures
from workers.models.base import ModelIdentity, ReadingStyle, VisualSegment
from workers.models.prompt import PromptWriter
from workers.models.runs import interleave


@dataclass(frozen=True)
class TokenReader:
    """How a checkpoint reads visual tokens; open it by `open_token_reader`."""

    identity: ModelIdentity
    reading: ReadingStyle
    writer: PromptWriter
    newline: Float[Tensor, " d"] | None
    """The learned token that stands where `writer.runs` says; None where nowhere."""
    dim: int
    context_length: int

    def count_tokens(self, question: str, segments: Sequence[VisualSegment]) -> int:
        """See `LanguageModel.count_tokens`."""
        return self.writer.write(question, segments).input_ids.shape[1]

    def read_run(self, segment: VisualSegment) -> Float[Tensor, "r d"]:
        """Rows that stand for a segment, its newlines included, as precise as what they are of.

        Raises:
            InvalidFeatures: tokens of another width.
        """
        tokens = segment.tokens
        if tokens.shape[1] != self.dim:
            raise InvalidFeatures(
                f"got tokens {tokens.shape[1]} wide, expected {self.dim}; they were made by "
                "another model"
            )
        if self.newline is None:
            return tokens
        tokens = tokens.to(torch.promote_types(tokens.dtype, self.newline.dtype))
        before = self.writer.runs.newlines(segment)
        return interleave(tokens, self.newline.expand(len(before), -1), before)
