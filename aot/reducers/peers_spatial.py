"""Peers that look at space: VisionZip and ToMe, re-implemented from their papers.

Pooled cells and a budget in, kept tokens out. What the papers read inside the vision tower
(attention keys) is not there after the projector, so likeness is the cosine of the tokens.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.reducers.cells import CellBatch, CellFeatures, Kept, count_up, highest, normalise
from aot.reducers.frames import KeptCells


def zip_frames(
    cells: CellBatch, dominant: Int[Tensor, "c t"], contextual: Int[Tensor, "c t"], most: int
) -> KeptCells:
    """VisionZip (Yang et al., arXiv 2412.04467) on every frame.

    Dominant tokens are the given number that receive most attention; of the rest, evenly spaced
    ones become targets, every other is averaged into the target it is most like (contextual
    tokens, at most `most`). The paper keeps 54 dominant and 10 contextual of 64.
    """
    num_cells = cells.tokens.shape[2]
    place = count_up(num_cells, cells.tokens.device)
    order = cells.attention.sort(dim=2, descending=True, stable=True).indices
    chosen = torch.zeros_like(cells.attention, dtype=torch.bool)
    chosen = chosen.scatter(2, order, place < dominant[..., None])
    rest = chosen.to(torch.uint8).sort(dim=2, stable=True).indices  # the others, rising, come first
    order = count_up(most, place.device)
    there = order < contextual[..., None]
    others = (num_cells - dominant)[..., None]
    spaced = (order * others + others // 2).div(
        contextual[..., None].clamp(min=1), rounding_mode="floor"
    )
    target = rest.gather(2, spaced.clamp(max=num_cells - 1).where(there, 0))
    tokens, mass = _average(cells.tokens, ~chosen, target, there)
    # Places that are not there write to a cell of their own, which is then left out.
    at = target.where(there, num_cells)
    wide = at[..., None].expand(-1, -1, -1, tokens.shape[3])
    merged = F.pad(cells.tokens, (0, 0, 0, 1)).scatter(2, wide, tokens)[:, :, :-1]
    masses = F.pad(torch.ones_like(cells.attention), (0, 1)).scatter(2, at, mass)[:, :, :-1]
    kept = F.pad(chosen, (0, 1)).scatter(2, at, there)[:, :, :-1]
    return KeptCells(kept, merged, masses)


def _average(
    tokens: Float[Tensor, "c t p d"],
    members: Bool[Tensor, "c t p"],
    target: Int[Tensor, "c t k"],
    there: Bool[Tensor, "c t k"],
) -> tuple[Float[Tensor, "c t k d"], Float[Tensor, "c t k"]]:
    """Averages of the members, each gone to the target it is most like, a target to itself."""
    unit = normalise(tokens)
    wide = target[..., None].expand(-1, -1, -1, tokens.shape[3])
    likeness = (unit @ unit.gather(2, wide).mT).masked_fill(~there[:, :, None], -math.inf)
    order = count_up(target.shape[2], target.device).expand_as(target)
    if target.shape[2]:
        own = target.where(there, target[..., :1])
        nearest = likeness.argmax(dim=3).scatter(2, own, order.where(there, 0))
    else:
        nearest = torch.zeros_like(members, dtype=torch.int64)
    given = (nearest[:, :, None] == order[..., None]) & members[:, :, None] & there[..., None]
    weights = given.to(tokens.dtype)
    mass = weights.sum(dim=3)
    return weights @ tokens / mass.clamp(min=1)[..., None], mass


def average_into(
    tokens: Float[Tensor, "n d"],
    mass: Float[Tensor, " n"],
    members: Int[Tensor, " m"],
    targets: Int[Tensor, " c"],
) -> tuple[Float[Tensor, "c d"], Float[Tensor, " c"]]:
    """Mass-weighted averages of `members`, each gone to the target it is most like.

    Targets are members and go to themselves. Gives the averages and their masses.
    """
    if not len(targets):
        return tokens[targets], mass[targets]
    unit = normalise(tokens)
    nearest = (unit[members] @ unit[targets].mT).argmax(dim=1)
    place = torch.full((len(tokens),), -1, dtype=torch.int64, device=tokens.device)
    place[targets] = torch.arange(len(targets), device=tokens.device)
    own = place[members]
    nearest = torch.where(own >= 0, own, nearest)
    weight = mass[members]
    total = torch.zeros_like(mass[targets]).index_add_(0, nearest, weight)
    summed = torch.zeros_like(tokens[targets])
    summed.index_add_(0, nearest, weight[:, None] * tokens[members])
    return summed / total[:, None], total


def merge_clip(cells: CellFeatures, budget: int, step_share: float) -> Kept:
    """ToMe (Bolya et al., arXiv 2210.09461) over all tokens of a clip, as for spatiotemporal ViTs.

    Tokens are dealt alternately into two sets; each of the first finds its most alike in the
    second; the best pairs are merged by mass-weighted average, at most `step_share` of all tokens
    a step, until the budget is met. A merged token has the place of the one that was found.
    """
    frames, num_cells, _ = cells.tokens.shape
    index = torch.arange(frames * num_cells, device=cells.tokens.device)
    tokens, mass = cells.tokens.flatten(0, 1), torch.ones_like(cells.attention).flatten()
    while len(tokens) > budget:
        surplus = len(tokens) - budget
        merges = min(surplus, max(1, int(step_share * len(tokens))), len(tokens) // 2)
        tokens, mass, index = _merge_pairs(tokens, mass, index, merges)
    return Kept(tokens, index // num_cells, index % num_cells, mass)


def _merge_pairs(
    tokens: Float[Tensor, "n d"], mass: Float[Tensor, " n"], index: Int[Tensor, " n"], merges: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of bipartite soft matching; places stay in rising order."""
    unit = normalise(tokens)
    best, found = (unit[0::2] @ unit[1::2].mT).max(dim=1)
    giving = highest(best, merges)
    source, target = 2 * giving, 2 * found[giving] + 1
    summed = (mass[:, None] * tokens).index_add(0, target, mass[source, None] * tokens[source])
    total = mass.index_add(0, target, mass[source])
    stays = torch.ones_like(mass, dtype=torch.bool).index_fill_(0, source, False)
    return (summed / total[:, None])[stays], total[stays], index[stays]
