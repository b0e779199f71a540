"""Positions of families that number time, rows and columns apart (M-RoPE; Qwen2-VL, section 2.1).

Text counts in all three at once. A visual token stands at its time, its row and its column, from
where its run begins, wherever the tokens around it have gone; text behind a run goes on where the
longer side of the grid would end, as the model's own `get_rope_index` has it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workers.models.base import VisualSegment

ROUNDING = 1e-4
"""Positions are rounded down; a time that is a whole number of them may lie this far below it."""


def mrope_positions(
    is_run: Bool[Tensor, " p"],
    repeats: Int[Tensor, " p"],
    segments: Sequence[VisualSegment],
    positions_per_s: float,
) -> Int[Tensor, "4 1 l"]:
    """Index of every token in the prompt, then its time, row and column.

    Args:
        is_run: which entries of the unexpanded prompt stand for a run.
        repeats: how many tokens each entry becomes.
        segments: the runs.
    """
    widths = torch.ones_like(repeats)
    widths[is_run] = torch.tensor([_width(segment) for segment in segments], dtype=widths.dtype)
    starts = (widths.cumsum(0) - widths).repeat_interleave(repeats)
    offsets = torch.zeros(3, len(starts), dtype=torch.long)
    if segments:
        inside = is_run.repeat_interleave(repeats)
        offsets[:, inside] = torch.cat([_offsets(s, positions_per_s) for s in segments], dim=1)
    index = torch.arange(len(starts))
    return torch.cat([index[None], starts + offsets])[:, None]


def _width(segment: VisualSegment) -> int:
    """Positions that a run takes from the text behind it."""
    if segment.places is None or not len(segment.tokens):
        return len(segment.tokens)
    return max(segment.places.grid)


def _offsets(segment: VisualSegment, positions_per_s: float) -> Int[Tensor, "3 m"]:
    places = segment.places
    if not len(segment.tokens):
        return torch.zeros(3, 0, dtype=torch.long)
    if places is None:  # a placeholder, which is counted and not read
        return torch.arange(len(segment.tokens)).expand(3, -1)
    time = (places.time_s * positions_per_s + ROUNDING).floor().long()
    return torch.stack([time, places.row, places.column])
