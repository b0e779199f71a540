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


@triton.jit
@no_type_check
def _score(
    novelty,
    contrast,
    signals,
    opens,
    novelty_floor,
    novelty_power,
    cell,
    is_cell,
    CELLS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """What each token is worth: its signals, and how new it is (what stands out, in a first
    frame).
    """
    new = tl.full(cell.shape, _FAR, tl.float32)
    for block in tl.static_range(0, BLOCKS):
        part = tl.load(novelty + block * CELLS + cell, mask=is_cell, other=0.0)
        new = tl.minimum(new, part)
    new = tl.maximum(new, 0.0)
    new = tl.where(opens, tl.load(contrast + cell, mask=is_cell, other=0.0), new)
    signal = tl.maximum(new + novelty_floor, _LEAST_SIGNAL)
    powered = signal
    if novelty_power != 1.0:
        powered = tl.exp(novelty_power * tl.log(signal))
    score = tl.load(signals + cell, mask=is_cell, other=0.0)
    return score * tl.where(novelty_power == 0.0, 1.0, powered)


@triton.jit
@no_type_check
def _highest(left, cell):
    """The cell of the highest number, the lowest among equals.

    Numbers as whole ones of the same order, of which a warp finds the highest at once.
    """
    bits = left.to(tl.int32, bitcast=True)
    rank = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.min(tl.where(rank == tl.max(rank, 0), cell, 1 << 30), 0)


@triton.jit
@no_type_check
def _taken_by(product, spread, unlike):
    """Logarithm of what a chosen token leaves of others' scores; products of 0 take nothing."""
    like = tl.minimum(tl.maximum((product - unlike) / (1 - unlike), 0.0), 1.0)
    return tl.log(tl.maximum(1 - spread * like, _LEAST))


@triton.jit
@no_type_check
def _choose(
    score,
    count,
    rounds,
    lines,
    spread,
    unlike,
    cell,
    is_cell,
    STEPS: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Which tokens come out: rounds of the highest, each taking from what is like what it chose.

    `lines` holds the products of each of the frame's tokens with the others.
    """
    left = tl.where(is_cell, tl.log(tl.maximum(score, _LEAST)), _NEVER)
    took = cell < 0
    size = (count + rounds - 1) // rounds
    for turn in range(0, rounds):
        quota = tl.maximum(tl.minimum(size, count - turn * size), 0)
        among, taken = left, tl.zeros(cell.shape, tl.float32)
        # What a token takes is added while the next is chosen: the row is long on its way.
        like = tl.zeros(cell.shape, tl.float32)
        for _ in range(0, quota):
            best = _highest(among, cell)
            among = tl.where(cell == best, _NEVER, among)
            took = took | (cell == best)
            if spread > 0:
                taken += _taken_by(like, spread, unlike)
                line = best.to(tl.int64) * (STEPS * CELLS)
                like = tl.load(lines + line + cell, mask=is_cell, other=0.0)
        if spread > 0:
            taken += _taken_by(like, spread, unlike)
        left = tl.where(took | (is_cell == 0), _NEVER, left + taken)
    return took & is_cell


@triton.jit
@no_type_check
def _move(
    weights,
    inverse,
    row,
    target,
    alike,
    pace,
    long,
    its_product,
    this_part,
    moves,
    cell,
    is_cell,
    BASIS: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Let each cell's target anchor step towards the cell's token: its weights and its length."""
    for part in tl.static_range(0, BASIS):
        at = weights + (target * BASIS + part) * CELLS + cell
        weight = tl.load(at, mask=is_cell & (part < this_part), other=0.0)
        weight = tl.where(part == this_part, pace * long, (1 - pace) * weight)
        tl.store(at, weight, mask=is_cell & (part <= this_part))
    old_inverse = tl.load(inverse + row, mask=is_cell & alike, other=1.0)
    old_length = tl.where(alike, 1 / tl.maximum(old_inverse, _LEAST), 0.0)
    stays = (1 - pace) * old_length
    square = stays * stays + pace * long * (2 * (1 - pace) * its_product + pace * long)
    now = 1 / tl.maximum(tl.sqrt(tl.maximum(square, 0.0)), _LEAST_LENGTH)
    tl.store(inverse + row, now, mask=moves)


@triton.jit
@no_type_check
def _note(
    mass,
    emitted,
    owed,
    born,
    row,
    alike,
    took,
    worthy,
    weighed,
    was_owed,
    at_position,
    moves,
    is_cell,
    SLOTS: tl.constexpr,
):
    """What is known of each cell's target anchor now; gives whether it is owed a token."""
    tl.store(mass + row, weighed + tl.where(took, 0.0, 1.0), mask=moves)
    owing = tl.where(alike, was_owed, worthy) & (took == 0)
    came_out = (tl.load(emitted + row, mask=is_cell & alike, other=0) != 0) | took
    tl.store(owed + row, owing.to(tl.int8), mask=moves)
    tl.store(emitted + row, came_out.to(tl.int8), mask=moves)
    tl.store(born + row, SLOTS + at_position + row * 0, mask=moves & (alike == 0))
    return owing


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
    likeness,
    places,
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
    before = tl.load(spent + clip)
    fewest = tl.load(limits + frame) - before
    most = tl.load(limits + clips * STEPS + frame) - before
    # What is read of each cell, and takes no choice: on its way while tokens are chosen.
    held = tl.load(filled + clip * CELLS + cell, mask=is_cell, other=0).to(tl.int32)
    known_cell = is_cell & (held > 0)
    likeness += clip * 2 * CELLS + cell
    places += clip * 3 * CELLS + cell
    similar = tl.load(likeness, mask=known_cell, other=_NEVER)
    its_product = tl.load(likeness + CELLS, mask=known_cell, other=0.0)
    nearest = tl.load(places, mask=known_cell, other=0)
    oldest = tl.load(places + CELLS, mask=known_cell, other=0)
    told = tl.load(places + 2 * CELLS, mask=known_cell, other=0)
    long = tl.load(length + frame * CELLS + cell, mask=is_cell, other=0.0)
    alike = similar >= merge_similarity
    if HAS_ACTIVE:
        alike = alike | (there == 0)
    is_full = held >= SLOTS
    target = tl.where(alike, nearest, tl.where(is_full, oldest, held))
    row = (clip * SLOTS + target) * CELLS + cell
    weighed = tl.load(mass + row, mask=is_cell, other=0.0)
    was_owed = tl.load(owed + row, mask=is_cell, other=0) != 0

    score = _score(
        novelty + clip * BLOCKS * CELLS, contrast + frame * CELLS, signals + frame * CELLS,
        at_position == 0, novelty_floor, novelty_power, cell, is_cell, CELLS, BLOCKS,
    )  # fmt: skip
    worthy = (score > threshold) & is_cell
    most = tl.minimum(tl.maximum(most, 0), CELLS) * there
    count = tl.sum(worthy.to(tl.int32)).to(tl.int64)
    count = tl.minimum(tl.maximum(count, fewest), most)
    tl.store(spent + clip, before + count)
    lines = (clip * BASIS + this_part).to(tl.int64) * (CELLS * STEPS * CELLS) + step * CELLS
    took = _choose(
        score, count.to(tl.int32), rounds, gram + lines, spread, unlike, cell, is_cell, STEPS, CELLS
    )
    tl.store(kept + frame * CELLS + cell, took.to(tl.int8), mask=is_cell)

    pace = 1 / (tl.minimum(tl.maximum(weighed, 1.0), patience - 1) + 1)
    pace = tl.where(took | (alike == 0), 1.0, pace) * there
    moves = is_cell & (there != 0)
    _move(
        weights, inverse, row, clip * SLOTS + target, alike, pace, long, its_product, this_part,
        moves, cell, is_cell, BASIS, CELLS,
    )  # fmt: skip
    owing = _note(
        mass, emitted, owed, born, row, alike, took, worthy, weighed, was_owed, at_position,
        moves, is_cell, SLOTS,
    )  # fmt: skip
    filling = tl.where(alike | is_full, held, held + 1).to(tl.int64)
    tl.store(filled + clip * CELLS + cell, filling, mask=is_cell)

    # How many anchors are known, not owed: those just learnt and those not touched.
    told -= ((target < held) & (was_owed == 0)).to(tl.int32)
    told += (owing == 0).to(tl.int32)
    tl.store(known + clip, tl.sum(tl.where(is_cell, told, 0)).to(tl.int64))


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
    likeness: Tensor,
    places: Tensor,
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
        mass, emitted.view(torch.uint8), born, gram, novelty, likeness, places, signals, contrast,
        length, limits, position,
        kept.view(torch.uint8) if active is None else active.view(torch.uint8),
        clips, step, threshold, novelty_floor, novelty_power, spread, unlike, merge_similarity,
        patience, rounds,
        HAS_ACTIVE=active is not None, SLOTS=slots, BASIS=basis, STEPS=gram.shape[2] // cells,
        CELLS=cells, LANES=lanes, BLOCKS=novelty.shape[1], num_warps=warps_for(lanes),
    )  # fmt: skip


@take_frame.register_fake
def _(
    kept, spent, weights, inverse, filled, owed, known, mass, emitted, born, gram, novelty,
    likeness, places, signals, contrast, length, limits, position, active, step, threshold,
    novelty_floor, novelty_power, spread, unlike, rounds, merge_similarity, patience,
) -> None:  # fmt: skip
    return None


def warps_for(lanes: int) -> int:
    """One cell a thread, as far as eight warps go: all but the choice is work on each cell."""
    return max(1, min(8, lanes // 32))
