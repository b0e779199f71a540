"""Attention as a mask over all positions, which the miniature's training never builds."""

import torch
from torch import Tensor

from demo.miniature.sequence import SLOT_LENGTH, prefix_length


def block_mask(frames: int, slots: int) -> Tensor:
    """Who sees whom, bool [1 1 l l]: causal, and no slot sees another."""
    prefix = prefix_length(frames)
    length = prefix + slots * SLOT_LENGTH
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    for slot in range(slots):
        start = prefix + slot * SLOT_LENGTH
        mask[start : start + SLOT_LENGTH, prefix:start] = False
    return mask[None, None]
