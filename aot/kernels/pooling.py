"""Bilinear pooling of a frame's tokens in one pass over them; half precision in, float32 out.

The twin is `aot.pooling.pool_grid`. Needs Triton.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
@no_type_check  # what checks shapes in the tests would hide the source from Triton
def _tap(cell, SIZE: tl.constexpr, POOLED: tl.constexpr):
    """The two rows (or columns) a pooled one lies between, and how far it is from the first."""
    scale: tl.constexpr = SIZE / POOLED
    place = tl.maximum(scale * (cell.to(tl.float32) + 0.5) - 0.5, 0.0)
    first = tl.minimum(place.to(tl.int32), SIZE - 1)
    return first, tl.minimum(first + 1, SIZE - 1), place - first.to(tl.float32)


@triton.jit
@no_type_check
def _pool(
    tokens,
    pooled,
    width,
    frame_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    POOLED_ROWS: tl.constexpr,
    POOLED_COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Some entries of one pooled token: those of its four neighbours, weighed."""
    cells: tl.constexpr = POOLED_ROWS * POOLED_COLUMNS
    frame, cell = tl.program_id(0) // cells, tl.program_id(0) % cells
    top, bottom, down = _tap(cell // POOLED_COLUMNS, ROWS, POOLED_ROWS)
    left, right, across = _tap(cell % POOLED_COLUMNS, COLUMNS, POOLED_COLUMNS)
    entry = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = entry < width
    tokens += frame.to(tl.int64) * frame_stride + entry
    a = tl.load(tokens + (top * COLUMNS + left) * width, mask=there, other=0.0).to(tl.float32)
    b = tl.load(tokens + (top * COLUMNS + right) * width, mask=there, other=0.0).to(tl.float32)
    c = tl.load(tokens + (bottom * COLUMNS + left) * width, mask=there, other=0.0).to(tl.float32)
    d = tl.load(tokens + (bottom * COLUMNS + right) * width, mask=there, other=0.0).to(tl.float32)
    above = (1 - across) * a + across * b
    below = (1 - across) * c + across * d
    value = (1 - down) * above + down * below
    tl.store(pooled + tl.program_id(0).to(tl.int64) * width + entry, value, mask=there)


@torch.library.custom_op("aot::pool_bilinear", mutates_args=())
def pool_bilinear(
    tokens: Tensor, rows: int, columns: int, pooled_rows: int, pooled_columns: int
) -> Tensor:
    """Tokens `[t n d]` of a grid as those `[t p d]` of a smaller one, in float32.

    float32 or less; frames at any stride, contiguous within.
    """
    pooled = _allocate(tokens, rows, columns, pooled_rows, pooled_columns)
    frames, cells, width = pooled.shape
    block = min(_BLOCK, triton.next_power_of_2(width))
    launch: Any = _pool[(frames * cells, triton.cdiv(width, block))]
    launch(
        tokens, pooled, width, tokens.stride(0), ROWS=rows, COLUMNS=columns,
        POOLED_ROWS=pooled_rows, POOLED_COLUMNS=pooled_columns, BLOCK=block,
        num_warps=4 if block > 128 else 1,
    )  # fmt: skip
    return pooled


@pool_bilinear.register_fake
def _allocate(
    tokens: Tensor, rows: int, columns: int, pooled_rows: int, pooled_columns: int
) -> Tensor:
    shape = tokens.shape[0], pooled_rows * pooled_columns, tokens.shape[2]
    return torch.empty(shape, dtype=torch.float32, device=tokens.device)
