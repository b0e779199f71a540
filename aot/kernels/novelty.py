"""How new the tokens of a frame are to the anchors: the first of the adaptive scan's two launches.

Blocks of tokens and blocks of cells side by side, a program each. `aot.kernels.scan` has the second
launch, and says what both together are. Needs Triton.

Anchors are weights on a basis: slot `m` of cell `p` holds the sum over `b` of `weights[c, m, b, p]`
times `basis[c, b, p]`, where the basis are the anchors that were there before and the frames, all
of length one, and `gram[c, b, p, t, q]` is the product of a vector of it with token `q` of frame
`t`; where `b` is a later frame than `t` nothing is read.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 32
"""Tokens that a program compares, and cells whose anchors it takes at once."""
_PARTS = tl.constexpr(4)
_NEVER, _FAR = tl.constexpr(-2e30), tl.constexpr(1e30)


@triton.jit(do_not_specialize=["step"])
@no_type_check  # what checks shapes in the tests would hide the source from Triton
def _find_novelty(
    novelty,
    likeness,
    places,
    gram,
    weights,
    inverse,
    filled,
    owed,
    born,
    known,
    offset,
    step,
    SLOTS: tl.constexpr,
    BASIS: tl.constexpr,
    STEPS: tl.constexpr,
    CELLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`min over known anchors of offset - cosine`, of some tokens to the anchors of some cells.

    Where these are the tokens' own cells, also the most alike anchor of each, and the oldest.
    """
    clip, others = tl.program_id(0), tl.program_id(2)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    cell = others * BLOCK + tl.arange(0, BLOCK)
    is_token, is_cell = token < CELLS, cell < CELLS
    both = is_cell[:, None] & is_token[None, :]
    is_own = tl.program_id(1) == others
    some_known = tl.load(known + clip) > 0
    apart = tl.load(offset + cell[:, None] * CELLS + token[None, :], mask=both, other=0.0)
    held = tl.load(filled + clip * CELLS + cell, mask=is_cell, other=0).to(tl.int32)
    within = cell[:, None] * (STEPS * CELLS) + step * CELLS + token[None, :]
    best = tl.full((BLOCK,), _FAR, tl.float32)
    similar, its_product = tl.full((BLOCK,), _NEVER, tl.float32), tl.zeros((BLOCK,), tl.float32)
    age = tl.full((BLOCK,), 1 << 62, tl.int64)
    nearest, oldest, told = cell * 0, cell * 0, cell * 0
    for slot in range(0, tl.max(held)):
        row = (clip * SLOTS + slot) * CELLS + cell
        there_is = is_cell & (slot < held)
        owing = tl.load(owed + row, mask=is_cell, other=0) != 0
        scale = tl.load(inverse + row, mask=is_cell, other=0.0)
        counts = there_is & ((some_known & owing) == 0)
        if (tl.sum(counts.to(tl.int32)) > 0) | is_own:
            product = tl.zeros((BLOCK, BLOCK), tl.float32)
            # Some at once, so that their loads are on their way together.
            for first in range(0, BASIS - STEPS + step, _PARTS):
                for more in tl.static_range(0, _PARTS):
                    part = first + more
                    at = ((clip * SLOTS + slot) * BASIS + part) * CELLS + cell
                    there = is_cell & (part < BASIS - STEPS + step)
                    weight = tl.load(weights + at, mask=there, other=0.0)
                    start = gram + (clip.to(tl.int64) * BASIS + part) * (CELLS * STEPS * CELLS)
                    there = both & (weight != 0)[:, None]
                    product += weight[:, None] * tl.load(start + within, mask=there, other=0.0)
            cost = tl.where(both & counts[:, None], apart - scale[:, None] * product, _FAR)
            best = tl.minimum(best, tl.min(cost, 0))
            if is_own:
                own = tl.sum(tl.where(cell[:, None] == token[None, :], product, 0.0), 1)
                better = there_is & (own * scale > similar)
                similar = tl.where(better, own * scale, similar)
                its_product = tl.where(better, own, its_product)
                nearest = tl.where(better, slot, nearest)
                since = tl.load(born + row, mask=there_is, other=0)
                older = there_is & (since < age)
                age = tl.where(older, since, age)
                oldest = tl.where(older, slot, oldest)
                told += (there_is & (owing == 0)).to(tl.int32)
    blocks = tl.num_programs(2)
    tl.store(novelty + (clip * blocks + others) * CELLS + token, best, mask=is_token)
    if is_own:
        tl.store(likeness + clip * 2 * CELLS + cell, similar, mask=is_cell)
        tl.store(likeness + (clip * 2 + 1) * CELLS + cell, its_product, mask=is_cell)
        tl.store(places + clip * 3 * CELLS + cell, nearest, mask=is_cell)
        tl.store(places + (clip * 3 + 1) * CELLS + cell, oldest, mask=is_cell)
        tl.store(places + (clip * 3 + 2) * CELLS + cell, told, mask=is_cell)


@torch.library.custom_op("aot::find_novelty", mutates_args=("novelty", "likeness", "places"))
def find_novelty(
    novelty: Tensor,
    likeness: Tensor,
    places: Tensor,
    gram: Tensor,
    weights: Tensor,
    inverse: Tensor,
    filled: Tensor,
    owed: Tensor,
    born: Tensor,
    known: Tensor,
    offset: Tensor,
    step: int,
) -> None:
    """Cost of the cheapest transport of each token of frame `step` to an anchor of each block of
    cells, into `novelty[c k p]`; its cosine to the most alike anchor of its cell and the product of
    the two, into `likeness[c 2 p]`; the slots of that one and of the cell's oldest, and how many of
    the cell's are known and not owed, into `places[c 3 p]`.

    `gram[c, b p, t p]`, `weights[c m b p]`, `inverse[c m p]`, `filled[c p]`, `owed` and
    `born[c m p]`, `known[c]`, `offset[p p]`; contiguous, float32 and int64, `places` int32.
    """
    clips, slots, basis, cells = weights.shape
    blocks = count_blocks(cells)
    launch: Any = _find_novelty[(clips, blocks, blocks)]
    launch(
        novelty, likeness, places, gram, weights, inverse, filled, owed.view(torch.uint8), born,
        known, offset, step, SLOTS=slots, BASIS=basis, STEPS=gram.shape[2] // cells, CELLS=cells,
        BLOCK=_BLOCK, num_warps=4,
    )  # fmt: skip


@find_novelty.register_fake
def _(
    novelty, likeness, places, gram, weights, inverse, filled, owed, born, known, offset, step
) -> None:  # fmt: skip
    return None


def count_blocks(cells: int) -> int:
    """Blocks of cells, each of which has its own part in `novelty`."""
    return -(-cells // _BLOCK)
