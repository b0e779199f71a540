"""The scan of `aot.reducers.scan` by kernels: two launches a frame, whatever the number of clips.

An anchor is a sum of tokens of its own cell, each with a weight. One product of all tokens with all
tokens, made before the scan, therefore holds every product the scan needs; what moves in it are
weights, and the width of a token occurs in none of it. Needs `aot.kernels`.
"""

from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aot.kernels import runs_kernels
from aot.reducers.cell_memory import AdaptiveState
from aot.reducers.cells import ROUNDS, UNLIKE, scale_tokens
from aot.reducers.rule import AdaptiveRule
from aot.reducers.scan import ScannedFrames

_LEAST = 1e-30
"""Of what divides."""
USES_TENSOR_CORES = True
"""Whether products are taken in halves on tensor cores; off, in float32, of all with all."""
MOST_FRAMES = 32
"""Frames of one push, over which the kernels unroll their loops."""
MOST_CELLS = 1024
"""Cells of a frame, which a program of the kernel holds at once."""


def fits_kernels(frames: ScannedFrames) -> bool:
    """Whether the kernels run there and take these frames."""
    tokens = frames.tokens
    fits = tokens.shape[1] <= MOST_FRAMES and tokens.shape[2] <= MOST_CELLS
    fits = fits and tokens.dtype == torch.float32
    return fits and runs_kernels(tokens.device)


def scan_fused(
    frames: ScannedFrames, memory: AdaptiveState, rule: AdaptiveRule
) -> tuple[Bool[Tensor, "c t p"], AdaptiveState]:
    """What `scan_frames` gives, up to rounding; `memory` is written to."""
    from aot.kernels.novelty import count_blocks, find_novelty
    from aot.kernels.products import combine_tokens
    from aot.kernels.scan import take_frame

    clips, steps, cells, _ = frames.tokens.shape
    slots = memory.slots
    length, basis = frames.length, frames.unit
    weights = length.new_zeros(clips, slots, steps, cells)
    if not frames.opens:  # what the clips already know are vectors of the basis too
        basis = torch.cat([scale_tokens(memory.anchors_of(slots), memory.inverse), basis], dim=1)
        own = torch.eye(slots, device=length.device)[:, :, None]
        lengths = own * (1 / memory.inverse.clamp(min=_LEAST))[:, :, None]
        weights = torch.cat([lengths * (~memory.free)[:, :, None], weights], dim=2)
    gram = multiply(basis, steps)
    novelty = length.new_empty(clips, count_blocks(cells), cells)
    likeness = length.new_empty(clips, 2, cells)
    places = torch.empty(clips, 3, cells, dtype=torch.int32, device=length.device)
    known = torch.empty(clips, dtype=torch.int64, device=length.device)
    if not frames.opens:
        known = (~memory.free & ~memory.owed).flatten(1).sum(dim=1)
    kept = torch.empty(clips, steps, cells, dtype=torch.bool, device=length.device)
    take = partial(
        take_frame,
        threshold=rule.threshold,
        novelty_floor=rule.novelty_floor,
        novelty_power=float(rule.powers.get("novelty", 0)),
        spread=rule.spread,
        unlike=UNLIKE,
        rounds=ROUNDS if rule.spread else 1,
        merge_similarity=rule.merge_similarity,
        patience=rule.patience,
    )
    spent = memory.spent.clone()
    for step in range(steps):
        if step or not frames.opens:
            find_novelty(
                novelty, likeness, places, gram, weights, memory.inverse, memory.filled,
                memory.owed, memory.born, known, frames.offset, step,
            )  # fmt: skip
        take(
            kept, spent, weights, memory.inverse, memory.filled, memory.owed, known, memory.mass,
            memory.emitted, memory.born, gram, novelty, likeness, places, frames.weights,
            frames.contrast, length, frames.limits, frames.position, frames.active, step,
        )  # fmt: skip
    return kept, replace(memory, anchors=combine_tokens(weights, basis.contiguous()), spent=spent)


def multiply(basis: Float[Tensor, "c b p d"], steps: int) -> Float[Tensor, "c q r"]:
    """Products of all vectors with the last `steps`, the tokens, of vectors that are no later."""
    from aot.kernels.products import multiply_halves, split_halves

    if not USES_TENSOR_CORES:
        return torch.bmm(basis.flatten(1, 2), basis[:, -steps:].flatten(1, 2).mT)
    return multiply_halves(*split_halves(basis.contiguous()), steps)
