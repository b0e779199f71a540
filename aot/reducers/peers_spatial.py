"""Peers that look at space: VisionZip and ToMe, re-implemented from their papers.

Pooled cells and a budget in, kept tokens out. What the papers read inside the vision tower
(attention keys) is not there after the projector, so likeness is the cosine of the tokens.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aot.reducers.cells import CellFeatures, Kept, highest, normalise


def zip_frame(cells: CellFeatures, step: int, budget: int, contextual_share: float) -> Kept:
    """VisionZip (Yang et al., arXiv 2412.04467) on one frame.

    Dominant tokens are those that receive most attention; of the rest, evenly spaced ones become
    targets, every other is averaged into the target it is most like (contextual tokens). The
    paper keeps 54 dominant and 10 contextual of 64.
    """
    tokens, attention = cells.tokens[step], cells.attention[step]
    contextual = min(round(budget * contextual_share), budget)
    if budget > 1 and contextual_share > 0:
        contextual = max(contextual, 1)
    dominant = highest(attention, budget - contextual)
    chosen = torch.zeros_like(attention, dtype=torch.bool).index_fill_(0, dominant, True)
    rest = (~chosen).nonzero()[:, 0]
    targets = rest[_spaced(len(rest), contextual).to(rest.device)]
    merged, mass = average_into(tokens, torch.ones_like(attention), rest, targets)
    cell = torch.cat([dominant, targets])
    return Kept(
        torch.cat([tokens[dominant], merged]),
        torch.full_like(cell, step),
        cell,
        torch.cat([torch.ones_like(attention[dominant]), mass]),
    )


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


def _spaced(length: int, count: int) -> Int[Tensor, " c"]:
    """`count` of `length` places, evenly spread."""
    places = torch.arange(count) * length + length // 2
    return places.div(max(count, 1), rounding_mode="floor")
