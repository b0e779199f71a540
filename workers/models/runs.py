"""How a family lays out a run of visual tokens: which learned newlines stand in it, and where.

A newline is never stored: it is put back when the prompt is written, also into runs that have lost
most of their tokens.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from aot import InvalidFeatures
from workers.models.base import VisualSegment


@runtime_checkable
class RunFormat(Protocol):
    """The newlines of a family."""

    def newlines(self, segment: VisualSegment) -> Int[Tensor, " b"]:
        """How many of the run's tokens stand before each newline, rising; none in an empty run."""
        ...

    def count_newlines(self, segment: VisualSegment) -> int:
        """How many they are."""
        ...

    def offsets(self, segment: VisualSegment) -> tuple[Int[Tensor, " r"], int]:
        """Where tokens and newlines stand in the run as it was before the reduction, and its
        length then.
        """
        ...


@dataclass(frozen=True)
class PlainRuns:
    """Tokens and nothing else."""

    def newlines(self, segment: VisualSegment) -> Int[Tensor, " b"]:
        """See `RunFormat.newlines`."""
        return torch.zeros(0, dtype=torch.long)

    def count_newlines(self, segment: VisualSegment) -> int:
        """See `RunFormat.count_newlines`."""
        return 0

    def offsets(self, segment: VisualSegment) -> tuple[Int[Tensor, " r"], int]:
        """See `RunFormat.offsets`."""
        return _stood(segment), _span(segment)


@dataclass(frozen=True)
class EndedRuns:
    """One newline behind a run that has tokens."""

    def newlines(self, segment: VisualSegment) -> Int[Tensor, " b"]:
        """See `RunFormat.newlines`."""
        num_tokens = len(segment.tokens)
        return torch.tensor([num_tokens] if num_tokens else [], dtype=torch.long)

    def count_newlines(self, segment: VisualSegment) -> int:
        """See `RunFormat.count_newlines`."""
        return int(segment.tokens.shape[0] > 0)

    def offsets(self, segment: VisualSegment) -> tuple[Int[Tensor, " r"], int]:
        """See `RunFormat.offsets`."""
        newlines, span = self.newlines(segment), _span(segment)
        ends = torch.full_like(newlines, span)
        return interleave(_stood(segment), ends, newlines), span + (1 if span else 0)


@dataclass(frozen=True)
class RowRuns:
    """A newline behind what is left of every row of every frame."""

    columns: int
    """Of the grid that the language model reads."""

    def newlines(self, segment: VisualSegment) -> Int[Tensor, " b"]:
        """See `RunFormat.newlines`.

        Of a segment without places, such as a placeholder, as many as its tokens fill rows.

        Raises:
            InvalidFeatures: places on a grid of other columns.
        """
        num_tokens, places = len(segment.tokens), segment.places
        if places is None:
            rows = -(-num_tokens // self.columns)
            return (torch.arange(rows) * self.columns + self.columns).clamp(max=num_tokens)
        if places.grid[1] != self.columns:
            raise InvalidFeatures(
                f"got tokens of a grid of {places.grid}, expected {self.columns} columns; "
                "they were made by another model"
            )
        if not num_tokens:
            return torch.zeros(0, dtype=torch.long)
        moves = (places.row.diff() != 0) | (places.time_s.diff() != 0)
        return torch.cat([moves.nonzero()[:, 0] + 1, torch.tensor([num_tokens])])

    def count_newlines(self, segment: VisualSegment) -> int:
        """See `RunFormat.count_newlines`."""
        return len(self.newlines(segment))

    def offsets(self, segment: VisualSegment) -> tuple[Int[Tensor, " r"], int]:
        """See `RunFormat.offsets`."""
        stood, span, newlines = _stood(segment), _span(segment), self.newlines(segment)
        rows = stood.div(self.columns, rounding_mode="floor")
        ends = (rows[newlines - 1] + 1) * (self.columns + 1) - 1
        return interleave(stood + rows, ends, newlines), span + -(-span // self.columns)


def interleave(tokens: Tensor, newlines: Tensor, before: Int[Tensor, " b"]) -> Tensor:
    """Rows of a run: `newlines` set between `tokens`, each behind so many of them."""
    if not len(before):
        return tokens
    is_newline = torch.zeros(len(tokens) + len(before), dtype=torch.bool, device=tokens.device)
    is_newline[before.to(tokens.device) + torch.arange(len(before), device=tokens.device)] = True
    run = tokens.new_empty(len(is_newline), *tokens.shape[1:])
    run[~is_newline], run[is_newline] = tokens, newlines.to(tokens)
    return run


def _stood(segment: VisualSegment) -> Int[Tensor, " m"]:
    if segment.positions is None:
        return torch.arange(len(segment.tokens))
    return segment.positions.cpu().long()


def _span(segment: VisualSegment) -> int:
    """Tokens of a run before the reduction."""
    return len(segment.tokens) if segment.num_positions is None else segment.num_positions
