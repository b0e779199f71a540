"""Which tokens of clips' frames come out: one frame after the other, each after what was before.

`ScannedFrames`, what is known of the frames without those before them, and the memory in; a mask
of what comes out, and the memory after them. The loop is over frames, never over clips.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.reducers.cell_memory import (
    AdaptiveState,
    Frame,
    compare,
    count_slots,
    learn,
    learn_first,
)
from aot.reducers.cells import CellBatch, choose_unlike, leave_over, part_lengths
from aot.reducers.rule import AdaptiveRule
from aot.reducers.saliency import (
    find_contrast,
    measure_distances,
    weigh_frames,
    weigh_novelty,
)


@dataclass(frozen=True)
class ScannedFrames:
    """The next frames of clips, and what is known of each without those before it."""

    tokens: Float[Tensor, "c t p d"]
    unit: Float[Tensor, "c t p d"]
    """Tokens of length one."""
    length: Float[Tensor, "c t p"]
    weights: Float[Tensor, "c t p"]
    """All signals but novelty."""
    contrast: Float[Tensor, "c t p"]
    """Brought to the scale of costs, it stands for novelty in a clip's first frame."""
    offset: Float[Tensor, "p p"]
    """One, and what the distance of two cells adds to the cost of transport."""
    limits: Int[Tensor, "2 c t"]
    """Fewest and most tokens that a clip may have emitted after each frame."""
    position: Int[Tensor, "c t"]
    """Of each frame in its clip."""
    active: Bool[Tensor, "c t"] | None
    """Frames that are there; None for all."""
    opens: bool
    """Whether the first of the frames is the first of every clip."""


def find_frames(
    cells: CellBatch,
    limits: Int[Tensor, "2 c t"],
    position: Int[Tensor, "c t"],
    active: Bool[Tensor, "c t"] | None,
    rule: AdaptiveRule,
    *,
    opens: bool,
) -> ScannedFrames:
    """All that takes no earlier frame, for all frames of all clips at once."""
    unit, length = part_lengths(cells.tokens)
    contrast = find_contrast(unit)
    distance = measure_distances(cells.grid, unit.device).to(unit.dtype)
    return ScannedFrames(
        tokens=cells.tokens,
        unit=unit,
        length=length,
        weights=weigh_frames(cells, contrast, rule.powers),
        contrast=rule.keyframe_weight * contrast,
        offset=1 + rule.position_weight * distance,
        limits=limits,
        position=position,
        active=active,
        opens=opens,
    )


def scan_frames(
    frames: ScannedFrames, memory: AdaptiveState, rule: AdaptiveRule
) -> tuple[Bool[Tensor, "c t p"], AdaptiveState]:
    """Which tokens come out, and the memory after all frames; `memory` is written to."""
    left_over = leave_over(frames.unit, rule.spread)
    kept = []
    for step in range(frames.tokens.shape[1]):
        novelty, own = frames.contrast[:, step], None
        if step or not frames.opens:
            most = min(step, memory.slots) if frames.opens else memory.slots
            known = memory.first(count_slots(memory, most))
            novelty, own = compare(known, frames.unit[:, step], frames.offset)
            if not step:  # some clips may begin here
                begins = frames.position[:, :1] == 0
                novelty = frames.contrast[:, 0].where(begins, novelty)
        weight = weigh_novelty(novelty, rule.novelty_floor, rule.powers)
        score = frames.weights[:, step] * weight
        worthy = score > rule.threshold
        there = None if frames.active is None else frames.active[:, step]
        count = count_chosen(worthy, frames.limits[:, :, step] - memory.spent, there)
        chosen = choose_unlike(score, left_over[:, step], count, rule.spread)
        kept.append(chosen)
        memory = replace(memory, spent=memory.spent + count)
        frame = Frame(frames.tokens[:, step], frames.position[:, step], chosen, worthy, there)
        if own is None:
            memory = learn_first(memory, frame, frames.length[:, 0])
        else:
            memory = learn(
                memory,
                frame,
                own,
                merge_similarity=rule.merge_similarity,
                patience=rule.patience,
                drops=not frames.opens or step >= memory.slots,
            )
    return torch.stack(kept, dim=1), memory


def count_chosen(
    worthy: Bool[Tensor, "c p"], limits: Int[Tensor, "2 c"], active: Bool[Tensor, " c"] | None
) -> Int[Tensor, " c"]:
    """Tokens that a frame emits: those worth it, within the fewest and the most it may."""
    most = limits[1].clamp(min=0, max=worthy.shape[1])
    if active is not None:
        most = most * active
    return worthy.sum(dim=1).clamp(min=limits[0], max=most)
