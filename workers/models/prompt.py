"""The prompt of a question about visual segments: template, marks, runs of placeholders.

The checkpoint's chat template is rendered with one video, as its processor would; that one place
is then taken by `mark <video>` for every segment, one a line. So templates that put all videos
before all text still read each mark beside its tokens, and one segment without a mark is exactly
the processor's prompt. Text from outside cannot write special tokens.

What differs between families is told by fields: brackets around a run, what stands between two,
newlines within (`workers.models.runs`), and whether positions count tokens or time, rows and
columns (`workers.models.mrope`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workers.errors import InvalidCheckpoint
from workers.models.base import VisualSegment
from workers.models.mrope import mrope_positions
from workers.models.runs import PlainRuns, RunFormat


@dataclass(frozen=True)
class Prompt:
    """Token ids with a placeholder for every visual token, and where each is read."""

    input_ids: Int[Tensor, "1 l"]
    position_ids: Int[Tensor, "1 l"] | Int[Tensor, "4 1 l"] | None
    """None when every token stands right after the one before it; four rows where time, rows and
    columns are numbered apart."""

    @property
    def end(self) -> int:
        """Position after the last: the length, or more where positions were kept."""
        length = self.input_ids.shape[1]
        if self.position_ids is None:
            return length
        return max(length, int(self.position_ids.max()) + 1)


@dataclass(frozen=True)
class PromptWriter:
    """Writes prompts of one checkpoint."""

    tokenizer: Any
    """A `PreTrainedTokenizerBase` with a chat template."""
    video_token: str
    video_token_id: int
    runs: RunFormat = field(default_factory=PlainRuns)
    """The newlines of the family."""
    brackets: tuple[str, str] = ("", "")
    """What the chat template writes around the placeholder of a video."""
    rendered: str | None = None
    """What the chat template writes for a video where that is not the placeholder in brackets."""
    separator: str = "\n"
    """What stands between two segments."""
    positions_per_s: float | None = None
    """Of families that number time, rows and columns apart; None counts tokens."""

    def write(self, question: str, segments: Sequence[VisualSegment]) -> Prompt:
        """Prompt ids for a question about segments; those without tokens leave their mark only.

        Raises:
            InvalidCheckpoint: the chat template has no place for a video, or the tokenizer does
                not know the placeholder.
        """
        ids = torch.tensor(self._folded(question, segments))
        is_run = ids == self.video_token_id
        repeats = torch.ones_like(ids)
        repeats[is_run] = torch.tensor(
            [self.run_length(segment) for segment in segments], dtype=ids.dtype
        )
        input_ids = ids.repeat_interleave(repeats)
        position_ids = self._position_ids(is_run, repeats, segments)
        return Prompt(input_ids[None], position_ids)

    def count(self, question: str, segments: Sequence[VisualSegment]) -> int:
        """Length of that prompt; errors as `write`."""
        runs = sum(map(self.run_length, segments))
        return len(self._folded(question, segments)) - len(segments) + runs

    def _folded(self, question: str, segments: Sequence[VisualSegment]) -> list[int]:
        """Ids with one placeholder for every segment."""
        ids = self.tokenizer(self.text(question, segments))["input_ids"]
        if (found := ids.count(self.video_token_id)) != len(segments):
            raise InvalidCheckpoint(
                f"the tokenizer gave {found} placeholders for {len(segments)} videos, "
                f"expected {self.video_token!r} to be one token; mend its special tokens"
            )
        return ids

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
        place = self.video_token.join(self.brackets)
        expected = self.rendered or place
        before, *after = str(rendered).split(expected)
        if len(after) != 1:
            raise InvalidCheckpoint(
                f"the chat template rendered {len(after)} of {expected!r} for one video, "
                "expected 1; use the template that came with the checkpoint"
            )
        # Brackets around nothing would be read as a video that shows nothing.
        runs = (place if segment.tokens.shape[0] else self.video_token for segment in segments)
        marks = (self._defuse(segment.mark) for segment in segments)
        return before + self.separator.join(map("".join, zip(marks, runs, strict=True))) + after[0]

    def run_length(self, segment: VisualSegment) -> int:
        """Placeholders of a run: its tokens and newlines."""
        return segment.tokens.shape[0] + self.runs.count_newlines(segment)

    def _defuse(self, text: str) -> str:
        """Break up what the tokenizer would read as a special token."""
        return self._special.sub(lambda match: match[0][:1] + " " + match[0][1:], text)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """What the tokenizer reads as a special token; the longest first."""
        special = {self.video_token, *self.tokenizer.get_added_vocab()}
        return re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))

    def _position_ids(
        self,
        is_run: Bool[Tensor, " p"],
        repeats: Int[Tensor, " p"],
        segments: Sequence[VisualSegment],
    ) -> Int[Tensor, "1 l"] | Int[Tensor, "4 1 l"] | None:
        """Positions as if no token of the runs had been left out; None where that is plain."""
        if self.positions_per_s is not None:
            return mrope_positions(is_run, repeats, segments, self.positions_per_s)
        if all(segment.positions is None for segment in segments):
            return None
        placed = [self.runs.offsets(segment) for segment in segments]
        widths = torch.ones_like(repeats)
        widths[is_run] = torch.tensor([width for _, width in placed])
        starts = (widths.cumsum(0) - widths).repeat_interleave(repeats)
        offsets = torch.zeros_like(starts)
        offsets[is_run.repeat_interleave(repeats)] = torch.cat([inside for inside, _ in placed])
        return (starts + offsets)[None]
