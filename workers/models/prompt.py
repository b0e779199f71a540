"""The prompt of a question about visual segments: template, marks, runs of placeholders.

The checkpoint's chat template is rendered with one video, as its processor would; that one place
is then taken by `mark <video>` for every segment, one a line. So templates that put all videos
before all text still read each mark beside its tokens, and one segment without a mark is exactly
the processor's prompt. Text from outside cannot write special tokens.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from workers.errors import InvalidCheckpoint
from workers.models.base import VisualSegment


@dataclass(frozen=True)
class Prompt:
    """Token ids with a placeholder for every visual token, and where each is read."""

    input_ids: Int[Tensor, "1 l"]
    position_ids: Int[Tensor, "1 l"] | None
    """None when every token stands right after the one before it."""


@dataclass(frozen=True)
class PromptWriter:
    """Writes prompts of one checkpoint."""

    tokenizer: Any
    """A `PreTrainedTokenizerBase` with a chat template."""
    video_token: str
    video_token_id: int
    newline_tokens: int
    """Placeholders the family appends to every run: 1 for LLaVA-OneVision's newline."""

    def write(self, question: str, segments: Sequence[VisualSegment]) -> Prompt:
        """Prompt ids for a question about segments; those without tokens leave their mark only.

        Raises:
            InvalidCheckpoint: the chat template has no place for a video, or the tokenizer does
                not know the placeholder.
        """
        runs = [segment for segment in segments if len(segment.tokens)]
        ids = torch.tensor(self.tokenizer(self.text(question, segments))["input_ids"])
        is_placeholder = ids == self.video_token_id
        if int(is_placeholder.sum()) != len(runs):
            raise InvalidCheckpoint(
                f"the tokenizer gave {int(is_placeholder.sum())} placeholders for {len(runs)} "
                f"videos, expected {self.video_token!r} to be one token; mend its special tokens"
            )
        repeats = torch.ones_like(ids)
        repeats[is_placeholder] = torch.tensor(
            [len(run.tokens) + self.newline_tokens for run in runs], dtype=ids.dtype
        )
        input_ids = ids.repeat_interleave(repeats)[None]
        return Prompt(input_ids, self._position_ids(input_ids[0], runs))

    def text(self, question: str, segments: Sequence[VisualSegment]) -> str:
        """The prompt with one placeholder for every run of visual tokens."""
        content = [{"type": "text", "text": self._defuse(question)}]
        if segments:
            content.insert(0, {"type": "video"})
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        if not segments:
            return str(rendered)
        before, *after = str(rendered).split(self.video_token)
        if len(after) != 1:
            raise InvalidCheckpoint(
                f"the chat template rendered {len(after)} of {self.video_token!r} for one video, "
                "expected 1; use the template that came with the checkpoint"
            )
        lines = (
            self._defuse(segment.mark) + (self.video_token if len(segment.tokens) else "")
            for segment in segments
        )
        return before + "\n".join(lines) + after[0]

    def _defuse(self, text: str) -> str:
        """Break up what the tokenizer would read as a special token."""
        special = {self.video_token, *self.tokenizer.get_added_vocab()}
        pattern = "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True))
        return re.sub(pattern, lambda match: match[0][:1] + " " + match[0][1:], text)

    def _position_ids(
        self, input_ids: Int[Tensor, " l"], runs: Sequence[VisualSegment]
    ) -> Int[Tensor, "1 l"] | None:
        """Positions as if no token of the runs had been left out."""
        if all(run.positions is None for run in runs):
            return None
        pieces, position, start = [], 0, 0
        placeholder_ends = _run_ends(input_ids == self.video_token_id, runs, self.newline_tokens)
        for run, end in zip(runs, placeholder_ends, strict=True):
            length = len(run.tokens) + self.newline_tokens
            text = torch.arange(position, position + end - length - start)
            position += len(text)
            kept = torch.arange(len(run.tokens)) if run.positions is None else run.positions.cpu()
            span = len(run.tokens) if run.num_positions is None else run.num_positions
            newline = torch.arange(self.newline_tokens) + span
            pieces += [text, position + kept, position + newline]
            position += span + self.newline_tokens
            start = end
        pieces.append(torch.arange(position, position + len(input_ids) - start))
        return torch.cat(pieces)[None]


def _run_ends(
    is_placeholder: Tensor, runs: Sequence[VisualSegment], newline_tokens: int
) -> list[int]:
    """Index after the last placeholder of each run; runs may touch."""
    places = is_placeholder.nonzero()[:, 0]
    lengths = torch.tensor([len(run.tokens) + newline_tokens for run in runs])
    return (places[lengths.cumsum(0) - 1] + 1).tolist()
