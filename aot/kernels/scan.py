"""The adaptive reducer's scan: two launches a frame, whatever the number of clips.

`find_novelty` compares a frame's tokens with the anchors, blocks of both side by side;
`take_frame`, one program a clip, scores, counts, chooses and learns. The twin of both together is
`aot.reducers.scan.scan_frames`. Needs Triton.

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
"""Tokens that a program of `find_novelty` compares, and cells whose anchors it takes at once."""
_PARTS = tl.constexpr(4)
_TAKEN, _NEVER = tl.constexpr(-1e30), tl.constexpr(-2e30)
_FAR = tl.constexpr(1e30)
_LEAST, _LEAST_SIGNAL = tl.constexpr(1e-30), tl.constexpr(1e-6)
_LEAST_LENGTH = tl.constexpr(1e-8)


@triton.jit(do_not_specialize=["step"])
@no_type_check  # what checks shapes in the tests would hide the source from Triton
def _find_novelty(
    novelty,
    own,
    gram,
    weights,
    inverse,
    filled,
    owed,
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

    Where these are the tokens' own cells, also the products of each with its cell's anchors.
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
    for slot in range(0, tl.max(held)):
        row = (clip * SLOTS + slot) * CELLS + cell
        owing = tl.load(owed + row, mask=is_cell, other=0) != 0
        scale = tl.load(inverse + row, mask=is_cell, other=0.0)
        counts = (slot < held) & ((some_known & owing) == 0)
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
                same = tl.where(cell[:, None] == token[None, :], product, 0.0)
                tl.store(own + row, tl.sum(same, 1), mask=is_cell)
    blocks = tl.num_programs(2)
    tl.store(novelty + (clip * blocks + others) * CELLS + token, best, mask=is_token)


@triton.jit
@no_type_check
def _taken_by(product, spread, unlike):
    """Logarithm of what a chosen token leaves of others' scores; products of 0 take nothing."""
    like = tl.minimum(tl.maximum((product - unlike) / (1 - unlike), 0.0), 1.0)
    return tl.log(tl.maximum(1 - spread * like, _LEAST))


@triton.jit(do_not_specialize=["clips", "step", "rounds"])
@no_type_check
def _take_frame(
    kept,
    spent,
    weights,
    inverse,
    filled,
    owed,
    known,
    mass,
    emitted,
    born,
    gram,
    novelty,
    own,
    signals,
    contrast,
    length,
    limits,
    position,
    active,
    clips,
    step,
    threshold,
    novelty_floor,
    novelty_power,
    spread,
    unlike,
    merge_similarity,
    patience,
    rounds,
    HAS_ACTIVE: tl.constexpr,
    SLOTS: tl.constexpr,
    BASIS: tl.constexpr,
    STEPS: tl.constexpr,
    CELLS: tl.constexpr,
    LANES: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """One frame of one clip."""
    clip = tl.program_id(0)
    frame = clip * STEPS + step
    cell = tl.arange(0, LANES)
    is_cell = cell < CELLS
    this_part = BASIS - STEPS + step
    there = 1
    if HAS_ACTIVE:
        there = tl.load(active + frame).to(tl.int32)
    at_position = tl.load(position + frame)

    # What each token is worth.
    new = tl.full((LANES,), _FAR, tl.float32)
    for block in tl.static_range(0, BLOCKS):
        part = tl.load(novelty + (clip * BLOCKS + block) * CELLS + cell, mask=is_cell, other=0.0)
        new = tl.minimum(new, part)
    new = tl.maximum(new, 0.0)
    opening = tl.load(contrast + frame * CELLS + cell, mask=is_cell, other=0.0)
    new = tl.where(at_position == 0, opening, new)
    signal = tl.maximum(new + novelty_floor, _LEAST_SIGNAL)
    powered = tl.where(novelty_power == 1.0, signal, tl.exp(novelty_power * tl.log(signal)))
    score = tl.load(signals + frame * CELLS + cell, mask=is_cell, other=0.0)
    score = score * tl.where(novelty_power == 0.0, 1.0, powered)
    worthy = (score > threshold) & is_cell

    # How many come out.
    before = tl.load(spent + clip)
    fewest = tl.load(limits + frame) - before
    most = tl.load(limits + clips * STEPS + frame) - before
    most = tl.minimum(tl.maximum(most, 0), CELLS) * there
    count = tl.sum(worthy.to(tl.int32)).to(tl.int64)
    count = tl.minimum(tl.maximum(count, fewest), most)
    tl.store(spent + clip, before + count)

    # Which: rounds of the highest, each taking from what is like what it chose.
    left = tl.where(is_cell, tl.log(tl.maximum(score, _LEAST)), _NEVER)
    took = cell < 0
    size = (count + rounds - 1) // rounds
    for turn in range(0, rounds):
        quota = tl.maximum(tl.minimum(size, count - turn * size), 0).to(tl.int32)
        among, taken = left, tl.zeros((LANES,), tl.float32)
        # What a token takes is added while the next is chosen: the row is long on its way.
        like = tl.zeros((LANES,), tl.float32)
        for _ in range(0, quota):
            best = tl.argmax(among, 0, tie_break_left=True)
            among = tl.where(cell == best, _NEVER, among)
            took = took | (cell == best)
            if spread > 0:
                taken += _taken_by(like, spread, unlike)
                line = ((clip * BASIS + this_part) * CELLS + best).to(tl.int64) * (STEPS * CELLS)
                like = tl.load(gram + line + step * CELLS + cell, mask=is_cell, other=0.0)
        if spread > 0:
            taken += _taken_by(like, spread, unlike)
        left = tl.where(took | (is_cell == 0), _NEVER, left + taken)
    took = took & is_cell
    tl.store(kept + frame * CELLS + cell, took.to(tl.int8), mask=is_cell)

    # The most alike anchor of each token's own cell.
    held = tl.load(filled + clip * CELLS + cell, mask=is_cell, other=0).to(tl.int32)
    similar = tl.full((LANES,), _NEVER, tl.float32)
    its_product = tl.zeros((LANES,), tl.float32)
    nearest, oldest = cell * 0, cell * 0
    age = tl.full((LANES,), 1 << 62, tl.int64)
    told = cell * 0
    for slot in tl.static_range(0, SLOTS):
        row = (clip * SLOTS + slot) * CELLS + cell
        there_is = is_cell & (slot < held)
        product = tl.load(own + row, mask=there_is, other=0.0)
        cosine = product * tl.load(inverse + row, mask=there_is, other=0.0)
        told += (there_is & (tl.load(owed + row, mask=there_is, other=0) == 0)).to(tl.int32)
        better = (slot < held) & (cosine > similar)
        similar = tl.where(better, cosine, similar)
        its_product = tl.where(better, product, its_product)
        nearest = tl.where(better, slot, nearest)
        since = tl.load(born + row, mask=there_is, other=0)
        older = (slot < held) & (since < age)
        age = tl.where(older, since, age)
        oldest = tl.where(older, slot, oldest)
    alike = similar >= merge_similarity
    if HAS_ACTIVE:
        alike = alike | (there == 0)
    is_full = held >= SLOTS
    target = tl.where(alike, nearest, tl.where(is_full, oldest, held))

    # What that anchor becomes.
    row = (clip * SLOTS + target) * CELLS + cell
    weighed = tl.load(mass + row, mask=is_cell, other=0.0)
    pace = 1 / (tl.minimum(tl.maximum(weighed, 1.0), patience - 1) + 1)
    pace = tl.where(took | (alike == 0), 1.0, pace) * there
    long = tl.load(length + frame * CELLS + cell, mask=is_cell, other=0.0)
    for part in tl.static_range(0, BASIS):
        at = weights + ((clip * SLOTS + target) * BASIS + part) * CELLS + cell
        weight = tl.load(at, mask=is_cell & (part < this_part), other=0.0)
        weight = tl.where(part == this_part, pace * long, (1 - pace) * weight)
        tl.store(at, weight, mask=is_cell & (part <= this_part))
    old_inverse = tl.load(inverse + row, mask=is_cell & alike, other=1.0)
    old_length = tl.where(alike, 1 / tl.maximum(old_inverse, _LEAST), 0.0)
    stays = (1 - pace) * old_length
    square = stays * stays + pace * long * (2 * (1 - pace) * its_product + pace * long)
    now = 1 / tl.maximum(tl.sqrt(tl.maximum(square, 0.0)), _LEAST_LENGTH)
    moves = is_cell & (there != 0)
    tl.store(inverse + row, now, mask=moves)
    tl.store(mass + row, weighed + tl.where(took, 0.0, 1.0), mask=moves)
    was_owed = tl.load(owed + row, mask=is_cell, other=0) != 0
    owing = tl.where(alike, was_owed, worthy) & (took == 0)
    came_out = (tl.load(emitted + row, mask=is_cell & alike, other=0) != 0) | took
    tl.store(owed + row, owing.to(tl.int8), mask=moves)
    tl.store(emitted + row, came_out.to(tl.int8), mask=moves)
    tl.store(born + row, SLOTS + at_position + cell * 0, mask=moves & (alike == 0))
    tl.store(
        filled + clip * CELLS + cell,
        tl.where(alike | is_full, held, held + 1).to(tl.int64),
        mask=is_cell,
    )

    # How many anchors are known, not owed: those just learnt and those not touched.
    told -= ((target < held) & (was_owed == 0)).to(tl.int32)
    told += (owing == 0).to(tl.int32)
    number = tl.sum(tl.where(is_cell, told, 0)).to(tl.int64)
    tl.store(known + clip, number)


@torch.library.custom_op("aot::find_novelty", mutates_args=("novelty", "own"))
def find_novelty(
    novelty: Tensor,
    own: Tensor,
    gram: Tensor,
    weights: Tensor,
    inverse: Tensor,
    filled: Tensor,
    owed: Tensor,
    known: Tensor,
    offset: Tensor,
    step: int,
) -> None:
    """Cost of the cheapest transport of each token of frame `step` to an anchor of each block of
    cells, into `novelty[c k p]`, and its products with its cell's anchors, into `own[c m p]`.

    `gram[c, b p, t p]`, `weights[c m b p]`, `inverse[c m p]`, `filled[c p]`, `owed[c m p]`,
    `known[c]`, `offset[p p]`; contiguous, float32 and int64.
    """
    clips, slots, basis, cells = weights.shape
    blocks = count_blocks(cells)
    launch: Any = _find_novelty[(clips, blocks, blocks)]
    launch(
        novelty, own, gram, weights, inverse, filled, owed.view(torch.uint8), known, offset, step,
        SLOTS=slots, BASIS=basis, STEPS=gram.shape[2] // cells, CELLS=cells, BLOCK=_BLOCK,
        num_warps=4,
    )  # fmt: skip


@find_novelty.register_fake
def _(novelty, own, gram, weights, inverse, filled, owed, known, offset, step) -> None:
    return None


def count_blocks(cells: int) -> int:
    """Blocks of cells, each of which has its own part in `novelty`."""
    return -(-cells // _BLOCK)


@torch.library.custom_op(
    "aot::take_frame",
    mutates_args=(
        *("kept", "spent", "weights", "inverse", "filled", "owed", "known"),
        *("mass", "emitted", "born"),
    ),
)
def take_frame(
    kept: Tensor,
    spent: Tensor,
    weights: Tensor,
    inverse: Tensor,
    filled: Tensor,
    owed: Tensor,
    known: Tensor,
    mass: Tensor,
    emitted: Tensor,
    born: Tensor,
    gram: Tensor,
    novelty: Tensor,
    own: Tensor,
    signals: Tensor,
    contrast: Tensor,
    length: Tensor,
    limits: Tensor,
    position: Tensor,
    active: Tensor | None,
    step: int,
    threshold: float,
    novelty_floor: float,
    novelty_power: float,
    spread: float,
    unlike: float,
    rounds: int,
    merge_similarity: float,
    patience: float,
) -> None:
    """What comes out of frame `step`, and what the cells learn of it.

    `kept[c t p]`, `spent[c]`, `mass`, `emitted` and `born[c m p]`, `signals`, `contrast` and
    `length[c t p]`, `limits[2 c t]`, `position` and `active[c t]`; the rest as `find_novelty`.
    """
    clips, slots, basis, cells = weights.shape
    lanes = 1 << (cells - 1).bit_length()
    launch: Any = _take_frame[(clips,)]
    launch(
        kept.view(torch.uint8), spent, weights, inverse, filled, owed.view(torch.uint8), known,
        mass, emitted.view(torch.uint8), born, gram, novelty, own, signals, contrast, length,
        limits, position, kept.view(torch.uint8) if active is None else active.view(torch.uint8),
        clips, step, threshold, novelty_floor, novelty_power, spread, unlike,
        merge_similarity, patience, rounds,
        HAS_ACTIVE=active is not None, SLOTS=slots, BASIS=basis, STEPS=gram.shape[2] // cells,
        CELLS=cells, LANES=lanes, BLOCKS=novelty.shape[1], num_warps=warps_for(lanes),
    )  # fmt: skip


@take_frame.register_fake
def _(
    kept, spent, weights, inverse, filled, owed, known, mass, emitted, born, gram, novelty, own,
    signals, contrast, length, limits, position, active, step, threshold, novelty_floor,
    novelty_power, spread, unlike, rounds, merge_similarity, patience,
) -> None:  # fmt: skip
    return None


def warps_for(lanes: int) -> int:
    """Few: a choice is a tree over all cells, which is soonest done within a warp."""
    return max(1, min(8, lanes // 256))
