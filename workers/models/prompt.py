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
from jaxtyping import Bool, Int
from torch import Tensor

from workers.errors import InvalidCheckpoint
from workers.models.base import VisualSegment


@dataclass(frozen=True)
class Prompt:
    """Token ids with a placeholder for every visual token, and where each is read."""

    input_ids: Int[Tensor, "1 l"]
    position_ids: Int[Tensor, "1 l"] | None
    """None when every token stands right after the one before it."""

    @property
    def end(self) -> int:
        """Position after the last: the length, or more where positions were kept."""
        if self.position_ids is None:
            return self.input_ids.shape[1]
        return int(self.position_ids.max()) + 1


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
        ids = torch.tensor(self.tokenizer(self.text(question, segments))["input_ids"])
        is_run = ids == self.video_token_id
        if int(is_run.sum()) != len(segments):
            raise InvalidCheckpoint(
                f"the tokenizer gave {int(is_run.sum())} placeholders for {len(segments)} videos, "
                f"expected {self.video_token!r} to be one token; mend its special tokens"
            )
        repeats = torch.ones_like(ids)
        repeats[is_run] = torch.tensor(
            [self._with_newline(len(segment.tokens)) for segment in segments], dtype=ids.dtype
        )
        input_ids = ids.repeat_interleave(repeats)
        position_ids = self._position_ids(is_run, repeats, segments)
        return Prompt(input_ids[None], position_ids)

    def text(self, question: str, segments: Sequence[VisualSegment]) -> str:
        """The prompt with one placeholder for every segment."""
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
        lines = (self._defuse(segment.mark) + self.video_token for segment in segments)
        return before + "\n".join(lines) + after[0]

    def _defuse(self, text: str) -> str:
        """Break up what the tokenizer would read as a special token."""
        special = {self.video_token, *self.tokenizer.get_added_vocab()}
        pattern = "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True))
        return re.sub(pattern, lambda match: match[0][:1] + " " + match[0][1:], text)

    def _position_ids(
        self,
        is_run: Bool[Tensor, " p"],
        repeats: Int[Tensor, " p"],
        segments: Sequence[VisualSegment],
    ) -> Int[Tensor, "1 l"] | None:
        """Positions as if no token of the runs had been left out."""
        if all(segment.positions is None for segment in segments):
            return None
        widths = torch.ones_like(repeats)
        widths[is_run] = torch.tensor([self._with_newline(_span(s)) for s in segments])
        starts = (widths.cumsum(0) - widths).repeat_interleave(repeats)
        offsets = torch.zeros_like(starts)
        offsets[is_run.repeat_interleave(repeats)] = torch.cat(
            [self._offsets(segment) for segment in segments]
        )
        return (starts + offsets)[None]

    def _offsets(self, segment: VisualSegment) -> Int[Tensor, " r"]:
        """Where tokens and newline of a run stand, from the run's first position."""
        num_tokens = len(segment.tokens)
        given = segment.positions
        kept = torch.arange(num_tokens) if given is None else given.cpu().long()
        newline = torch.arange(self._with_newline(num_tokens) - num_tokens)
        return torch.cat([kept, _span(segment) + newline])

    def _with_newline(self, num_tokens: int) -> int:
        return num_tokens + self.newline_tokens if num_tokens else 0


def _span(segment: VisualSegment) -> int:
    """Positions of a run before the reduction, without its newline."""
    return len(segment.tokens) if segment.num_positions is None else segment.num_positions
