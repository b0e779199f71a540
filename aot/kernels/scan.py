"""What comes out of a frame and what is learnt of it: the adaptive scan's second launch of two.

One program a clip scores, counts, chooses and learns, whatever the number of clips; the first
launch, `aot.kernels.novelty`, has compared the frame's tokens with the anchors and says how these
are held. The twin of both together is `aot.reducers.scan.scan_frames`. Needs Triton.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

_NEVER, _FAR = tl.constexpr(-2e30), tl.constexpr(1e30)
_LEAST, _LEAST_SIGNAL = tl.constexpr(1e-30), tl.constexpr(1e-6)
_LEAST_LENGTH = tl.constexpr(1e-8)


@triton.jit
@no_type_check  # what checks shapes in the tests would hide the source from Triton
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
    `length[c t p]`, `limits[2 c t]`, `position` and `active[c t]`; the rest as
    `aot.kernels.novelty.find_novelty`.
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
