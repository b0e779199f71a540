"""How many tokens the frames of a clip may and must emit, so that the clip meets its retention.

A clip's budget comes in evenly, frame by frame. Positions in, numbers out, as tensors on the
device of the positions: which frame of its clip is next is not known to the host. In float64, in
which they are what the same sums in Python would be. Knows no tokens.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

KeepMode = Literal["budget", "absolute"]

_NO_LIMIT = 1 << 40
"""More tokens than there are, as a limit that does not bind."""


@dataclass(frozen=True)
class Budget:
    """The limits of a clip's frames; see `AdaptiveRule` for the constants."""

    retention: float
    clip_frames: int
    num_cells: int
    advance: float
    arrears: float
    keep_mode: KeepMode
    merged_tokens: int

    @property
    def per_frame(self) -> float:
        """Tokens that a frame brings in."""
        return self.retention * self.num_cells

    def limits(self, position: Int[Tensor, "*c"]) -> tuple[Int[Tensor, "*c"], Int[Tensor, "*c"]]:
        """Fewest and most tokens that a clip may have emitted after the frame at `position`.

        `advance` of the whole may be spent early, and up to `arrears` of it may be left for frames
        that need it more, as long as the frames to come have room for it. The tokens that end the
        clip are set aside.
        """
        if self.retention >= 1:
            everything = torch.full_like(position, _NO_LIMIT)
            return everything, everything
        clip = self.clip_frames
        so_far = position.double() + 1
        early = (self.advance * clip + (1 - self.advance) * so_far).clamp(min=so_far)
        budget = (self.per_frame * so_far.clamp(min=clip)).round() - self.merged_tokens
        high = torch.minimum((self.per_frame * early).floor(), budget)
        if self.keep_mode == "absolute":
            return torch.full_like(position, -_NO_LIMIT), high.long()
        owing = torch.where(so_far < clip, so_far - self.arrears * clip, so_far)
        unspendable = budget - (clip - so_far).clamp(min=0) * self.num_cells
        low = torch.minimum(torch.maximum((self.per_frame * owing).round(), unspendable), budget)
        return low.long(), high.long()

    def limits_of_opening(
        self, clips: int, frames: int, device: torch.device
    ) -> tuple[Int[Tensor, "c t"], Int[Tensor, "2 c t"]]:
        """Positions and limits of the first frames of clips, made once."""
        position, limits = _opening(self, frames, device)
        return position.repeat(clips, 1), limits[:, None].repeat(1, clips, 1)

    def left(self, frames: Int[Tensor, " c"], spent: Int[Tensor, " c"]) -> Int[Tensor, " c"]:
        """Tokens of the budget that the frames so far have left over for the clip's end."""
        if self.keep_mode == "absolute":
            return torch.zeros_like(spent)
        return (self.per_frame * frames.double()).round().long() - spent

    def room_to_emit(self, frames: int, *, opens: bool) -> int:
        """Most tokens that so many frames can emit, of clips they open or of any."""
        everything = frames * self.num_cells
        if self.retention >= 1:
            return everything
        return min(everything, _room_to_emit(self, frames, opens))

    @property
    def room_to_finish(self) -> int:
        """Most tokens that can end a clip of any length."""
        return min(self.num_cells, max(self.merged_tokens, _most_left(self)))


@lru_cache(maxsize=32)
def _opening(
    budget: Budget, frames: int, device: torch.device
) -> tuple[Int[Tensor, " t"], Int[Tensor, "2 t"]]:
    """Never written to."""
    position = torch.arange(frames, device=device)
    return position, torch.stack(budget.limits(position))


@lru_cache(maxsize=64)
def _limits_of_a_clip(budget: Budget, frames: int) -> tuple[list[int], list[int]]:
    low, high = budget.limits(torch.arange(frames, device="cpu"))
    return low.tolist(), high.tolist()


@lru_cache(maxsize=64)
def _room_to_emit(budget: Budget, frames: int, opens: bool) -> int:
    """What is unspent when the first of the frames comes, and what they bring in.

    From `clip_frames` on a clip owes nothing, so that no later frame has more than the one there.
    """
    if opens:
        return max(0, _limits_of_a_clip(budget, frames)[1][-1])
    if budget.keep_mode == "absolute":
        return frames * budget.num_cells
    low, high = _limits_of_a_clip(budget, budget.clip_frames + frames + 1)
    begun = range(budget.clip_frames + 1)
    unspent = (high[at + frames - 1] - max(0, min(low[at - 1], high[at - 1])) for at in begun if at)
    return max(high[frames - 1], *unspent, 0) + 2  # rounding, both ways


@lru_cache(maxsize=64)
def _most_left(budget: Budget) -> int:
    if budget.keep_mode == "absolute" or budget.retention >= 1:
        return 0
    low, high = _limits_of_a_clip(budget, budget.clip_frames + 1)
    spent = (max(0, min(pair)) for pair in zip(low, high, strict=True))
    so_far = (budget.per_frame * (at + 1) for at in range(budget.clip_frames + 1))
    return max(math.ceil(all_ - used) for all_, used in zip(so_far, spent, strict=True)) + 1
