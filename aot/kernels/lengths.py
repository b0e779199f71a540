"""Tokens of length one and their lengths, or tokens of given lengths, in one pass over them.

The twins are `aot.reducers.cells.part_lengths` and `scale_tokens`. Needs Triton.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
@no_type_check  # what checks shapes in the tests would hide the source from Triton
def _normalise(tokens, unit, length, width, floor, BLOCK: tl.constexpr):
    """One token, divided by its length."""
    token = tl.program_id(0).to(tl.int64)
    entry = tl.arange(0, BLOCK)
    value = tl.load(tokens + token * width + entry, mask=entry < width, other=0.0)
    norm = tl.sqrt(tl.sum(value * value))
    tl.store(unit + token * width + entry, value / tl.maximum(norm, floor), mask=entry < width)
    tl.store(length + token, norm)


@triton.jit
@no_type_check
def _scale(tokens, factor, scaled, width, BLOCK: tl.constexpr):
    """One token times its factor."""
    token = tl.program_id(0).to(tl.int64)
    entry = tl.arange(0, BLOCK)
    value = tl.load(tokens + token * width + entry, mask=entry < width, other=0.0)
    tl.store(scaled + token * width + entry, value * tl.load(factor + token), mask=entry < width)


@torch.library.custom_op("aot::part_lengths", mutates_args=())
def part_lengths(tokens: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Contiguous float32 tokens `[... d]` over their lengths, of at least `floor`, and these."""
    unit, length = _unit_and_length(tokens, floor)
    block, warps = _block(tokens.shape[-1])
    launch: Any = _normalise[(length.numel(),)]
    launch(tokens, unit, length, tokens.shape[-1], floor, BLOCK=block, num_warps=warps)
    return unit, length


@torch.library.custom_op("aot::scale_tokens", mutates_args=())
def scale_tokens(tokens: Tensor, factor: Tensor) -> Tensor:
    """Contiguous float32 tokens `[... d]`, each times its factor `[...]`."""
    scaled = torch.empty_like(tokens)
    block, warps = _block(tokens.shape[-1])
    launch: Any = _scale[(factor.numel(),)]
    launch(tokens, factor, scaled, tokens.shape[-1], BLOCK=block, num_warps=warps)
    return scaled


@part_lengths.register_fake
def _unit_and_length(tokens: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(tokens), tokens.new_empty(tokens.shape[:-1])


@scale_tokens.register_fake
def _(tokens: Tensor, factor: Tensor) -> Tensor:
    return torch.empty_like(tokens)


def _block(width: int) -> tuple[int, int]:
    """Entries at once, which is all of a token, and warps."""
    block = 1 << (width - 1).bit_length()
    return block, max(1, min(8, block // 256))
