"""Products of the adaptive reducer's tokens on tensor cores, as exact as in float32.

A float32 is split into two float16 (22 bits of it), of which three products are taken and summed in
float32: three times the work of half precision, at a rate that is more than ten times that of
float32. `combine_tokens` makes anchors of tokens in one pass over them. Needs Triton.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

_SCALE = tl.constexpr(256.0)
"""Of vectors of length one, so that the lower halves of usual entries are not subnormal."""
_ENTRIES = 4096
_TILE = {"ROWS": 128, "COLUMNS": 64, "DEPTH": 32}
_STAGES = 3


@triton.jit
@no_type_check  # what checks shapes in the tests would hide the source from Triton
def _split(vectors, high, low, size, BLOCK: tl.constexpr):
    """Each entry as the sum of two in half precision."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(vectors + place, mask=place < size, other=0.0) * _SCALE
    upper = value.to(tl.float16)
    tl.store(high + place, upper, mask=place < size)
    tl.store(low + place, (value - upper.to(tl.float32)).to(tl.float16), mask=place < size)


@triton.jit
@no_type_check
def _multiply(
    high,
    low,
    gram,
    width,
    BASIS: tl.constexpr,
    STEPS: tl.constexpr,
    CELLS: tl.constexpr,
    EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """A tile of one clip's products, where its basis holds nothing later than the tokens."""
    first_row, first_column = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    clip = tl.program_id(2).to(tl.int64)
    num_rows: tl.constexpr = BASIS * CELLS
    num_columns: tl.constexpr = STEPS * CELLS
    last_step = tl.minimum(first_column + COLUMNS - 1, num_columns - 1) // CELLS
    if first_row // CELLS <= BASIS - STEPS + last_step:
        row = first_row + tl.arange(0, ROWS)
        column = first_column + tl.arange(0, COLUMNS)
        depth = tl.arange(0, DEPTH)
        start = clip * num_rows * width
        ours = start + tl.minimum(row, num_rows - 1)[:, None] * width + depth[None, :]
        token = num_rows - num_columns + tl.minimum(column, num_columns - 1)
        theirs = start + token[:, None] * width + depth[None, :]
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for done in range(0, width, DEPTH):
            if EVEN:
                row_high, row_low = tl.load(high + ours), tl.load(low + ours)
                token_high, token_low = tl.load(high + theirs), tl.load(low + theirs)
            else:
                there = (depth < width - done)[None, :]
                row_high = tl.load(high + ours, mask=there, other=0.0)
                row_low = tl.load(low + ours, mask=there, other=0.0)
                token_high = tl.load(high + theirs, mask=there, other=0.0)
                token_low = tl.load(low + theirs, mask=there, other=0.0)
            part = tl.dot(row_low, tl.trans(token_high))
            part = tl.dot(row_high, tl.trans(token_low), part)
            part = tl.dot(row_high, tl.trans(token_high), part)
            # Tensor cores cut off what they add to a sum, and so lose some of it every time; they
            # are given short sums only. The factor also keeps the compiler from joining the two.
            total += part * (1 / (_SCALE * _SCALE))
            ours += DEPTH
            theirs += DEPTH
        place = (clip * num_rows + row)[:, None] * num_columns + column[None, :]
        there = (row < num_rows)[:, None] & (column < num_columns)[None, :]
        tl.store(gram + place, total, mask=there)


@triton.jit
@no_type_check
def _combine(
    weights,
    basis,
    anchors,
    width,
    SLOTS: tl.constexpr,
    BASIS: tl.constexpr,
    CELLS: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Some columns of all anchors of one cell."""
    clip, cell = tl.program_id(0).to(tl.int64) // CELLS, tl.program_id(0) % CELLS
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.arange(0, LANES)
    total = tl.zeros((LANES, BLOCK), tl.float32)
    for part in tl.static_range(0, BASIS):
        at = ((clip * SLOTS + slot) * BASIS + part) * CELLS + cell
        weight = tl.load(weights + at, mask=slot < SLOTS, other=0.0)
        line = ((clip * BASIS + part) * CELLS + cell) * width
        vector = tl.load(basis + line + column, mask=column < width, other=0.0)
        total += weight[:, None] * vector[None, :]
    place = ((clip * SLOTS + slot) * CELLS + cell)[:, None] * width + column[None, :]
    tl.store(anchors + place, total, mask=(slot < SLOTS)[:, None] & (column < width)[None, :])


@torch.library.custom_op("aot::split_halves", mutates_args=())
def split_halves(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Contiguous float32 vectors of length one as sums of two in float16, for `multiply_halves`."""
    high, low = _halves(vectors)
    size = vectors.numel()
    launch: Any = _split[(triton.cdiv(size, _ENTRIES),)]
    launch(vectors, high, low, size, BLOCK=_ENTRIES, num_warps=8)
    return high, low


@torch.library.custom_op("aot::multiply_halves", mutates_args=())
def multiply_halves(high: Tensor, low: Tensor, steps: int) -> Tensor:
    """Products `[c, b p, t p]` of the vectors `[c b p d]` with the last `steps` of `b`.

    Where a vector is later than the token there is nothing, whatever memory held.
    """
    gram = _gram(high, steps)
    clips, basis, cells, width = high.shape
    rows, columns = (triton.cdiv(gram.shape[side], _TILE[name]) for side, name in _SIDES)
    launch: Any = _multiply[(rows, columns, clips)]
    even = width % _TILE["DEPTH"] == 0
    launch(
        high, low, gram, width, BASIS=basis, STEPS=steps, CELLS=cells, EVEN=even, **_TILE,
        num_warps=warps_for(even=even), num_stages=_STAGES,
    )  # fmt: skip
    return gram


def warps_for(*, even: bool) -> int:
    """Of a tile; what is loaded by a mask takes registers that more threads have."""
    return 4 if even else 8


_SIDES = ((1, "ROWS"), (2, "COLUMNS"))


@torch.library.custom_op("aot::combine_tokens", mutates_args=())
def combine_tokens(weights: Tensor, basis: Tensor) -> Tensor:
    """Anchors `[c m p d]`: sums over `b` of `weights[c m b p]` times `basis[c b p d]`."""
    anchors = _anchors(weights, basis)
    clips, slots, cells, width = anchors.shape
    lanes = 1 << (slots - 1).bit_length()
    block = max(64, 4096 // lanes)
    launch: Any = _combine[(clips * cells, triton.cdiv(width, block))]
    launch(
        weights, basis, anchors, width, SLOTS=slots, BASIS=weights.shape[2], CELLS=cells,
        LANES=lanes, BLOCK=block, num_warps=4,
    )  # fmt: skip
    return anchors


@split_halves.register_fake
def _halves(vectors: Tensor) -> tuple[Tensor, Tensor]:
    high, low = (torch.empty_like(vectors, dtype=torch.float16) for _ in range(2))
    return high, low


@multiply_halves.register_fake
def _gram_shape(high: Tensor, low: Tensor, steps: int) -> Tensor:
    return _gram(high, steps)


@combine_tokens.register_fake
def _anchors(weights: Tensor, basis: Tensor) -> Tensor:
    clips, slots = weights.shape[:2]
    return basis.new_empty(clips, slots, *basis.shape[2:])


def _gram(high: Tensor, steps: int) -> Tensor:
    clips, basis, cells, _ = high.shape
    return high.new_empty(clips, basis * cells, steps * cells, dtype=torch.float32)
