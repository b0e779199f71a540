"""Peers that look at time: pruning by temporal difference, and a merge in the manner of HoliTom.

Pooled cells of a whole clip and a budget in, kept tokens out; re-implemented from the papers.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.reducers.cells import CellFeatures, Kept, highest, normalise
from aot.reducers.peers_spatial import average_into

_NEIGHBOURS = 5
"""Of a token, for its density (DPC-KNN)."""
_SMALLEST_GAP = 1e-4
"""Cosines this near to one are rounding: below it nothing is static any more."""


def prune_static(cells: CellFeatures, budget: int, first_share: float) -> Kept:
    """Keep what differs most from the same cell one frame earlier.

    Efficient Video Sampling (EVS, arXiv 2510.14624) and Differential Token Drop (TimeChat-Online,
    arXiv 2504.17343) keep the first frame whole and rank later tokens by one minus the cosine to
    their predecessor. Neither says what to do where one frame is more than the budget: then the
    first frame gets `first_share` of it, for the tokens least like its mean.
    """
    unit = cells.unit()
    frames, num_cells, _ = unit.shape
    first = 1 - (unit[0] * normalise(unit[0].mean(dim=0))).sum(dim=1)
    later = 1 - (unit[1:] * unit[:-1]).sum(dim=2).flatten()
    of_first = min(num_cells, budget, max(round(first_share * budget), budget - len(later)))
    index = torch.cat([highest(first, of_first), num_cells + highest(later, budget - of_first)])
    frame, cell = index // num_cells, index % num_cells
    kept_of = torch.bincount(frame, minlength=frames)
    # Dropped tokens are taken to be shown by the kept ones before them: mass is shared evenly.
    mass = torch.full_like(
        cells.attention.flatten()[index], frames * num_cells / int(kept_of.sum())
    )
    return Kept(cells.tokens.flatten(0, 1)[index], frame, cell, mass)


def merge_segments(
    cells: CellFeatures, budget: int, static_similarity: float, contextual_share: float
) -> Kept:
    """In the manner of HoliTom (Shao et al., arXiv 2505.21334), its part outside the LLM.

    The clip is cut into segments so that as many tokens as possible can be dropped for being
    static: like their predecessor, above `static_similarity`, through the whole segment. Static
    cells are averaged over their segment. What is then left over the budget is reduced per
    segment, in proportion: static cells by density peaks (DPC-KNN), each centre taking the average
    of its cluster, the others by attention received, the rest of them averaged into
    `contextual_share` of their budget. Where so much is static that less than the budget would be
    left, the threshold is raised for the clip, since budgets are to be met.
    """
    groups = _group_cells(cells, static_similarity)
    while sum(len(group.cell) for group, _ in groups) < budget:
        gap = 1 - static_similarity
        static_similarity = 1 - gap / 2 if gap > _SMALLEST_GAP else math.inf
        groups = _group_cells(cells, static_similarity)
    sizes = [len(group.cell) for group, _ in groups]
    parts = []
    for (group, attention), count in zip(groups, _deal(sizes, budget), strict=True):
        if attention is None:
            parts.append(_reduce_static(group, count))
        else:
            parts.append(_reduce_moving(group, attention, count, contextual_share))
    names = ("tokens", "frame", "cell", "mass")
    return Kept(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def cut_segments(cells: CellFeatures, static_similarity: float) -> list[tuple[int, int]]:
    """Segments `[start, end)` that let the most tokens be dropped, by dynamic programming."""
    alike = _alike(cells) > static_similarity
    frames = cells.tokens.shape[0]
    best, cut = [0] * (frames + 1), [0] * (frames + 1)
    for end in range(1, frames + 1):
        gains = [
            best[start] + (end - 1 - start) * int(alike[start : end - 1].all(dim=0).sum())
            for start in range(end)
        ]
        best[end] = max(gains)
        cut[end] = gains.index(best[end])
    segments, end = [], frames
    while end > 0:
        segments.append((cut[end], end))
        end = cut[end]
    return segments[::-1]


def _group_cells(cells: CellFeatures, static_similarity: float) -> list[tuple[Kept, Tensor | None]]:
    segments = cut_segments(cells, static_similarity)
    return [g for segment in segments for g in _split_segment(cells, segment, static_similarity)]


def _alike(cells: CellFeatures) -> Float[Tensor, "s p"]:
    unit = cells.unit()
    return (unit[1:] * unit[:-1]).sum(dim=2)


def _split_segment(
    cells: CellFeatures, segment: tuple[int, int], static_similarity: float
) -> list[tuple[Kept, Tensor | None]]:
    """Static cells averaged over the segment, and all others with their attention."""
    start, end = segment
    num_cells = cells.tokens.shape[1]
    still: Bool[Tensor, " p"] = (_alike(cells)[start : end - 1] > static_similarity).all(dim=0)
    still = still & (end - start > 1)
    cell = still.nonzero()[:, 0]
    span = cells.tokens[start:end]
    static = Kept(
        span[:, cell].mean(dim=0),
        torch.full_like(cell, start),
        cell,
        torch.full_like(span[0, cell, 0], end - start),
    )
    frame, moving = (~still).expand(end - start, num_cells).nonzero(as_tuple=True)
    others = Kept(
        span[frame, moving], frame + start, moving, torch.ones_like(span[frame, moving, 0])
    )
    return [(static, None), (others, cells.attention[start:end][frame, moving])]


def _deal(sizes: list[int], budget: int) -> list[int]:
    """`budget` in proportion to `sizes`, exact by largest remainders, none above its size."""
    total = sum(sizes)
    if budget >= total:
        return sizes
    exact = [budget * size / total for size in sizes]
    counts = [int(value) for value in exact]
    order = sorted(range(len(sizes)), key=lambda k: counts[k] - exact[k])
    for k in order[: budget - sum(counts)]:
        counts[k] += 1
    return counts


def _reduce_static(group: Kept, count: int) -> Kept:
    if count >= len(group.cell):
        return group
    return _merge_into(group, _density_peaks(group.tokens, count))


def _reduce_moving(
    group: Kept, attention: Float[Tensor, " m"], count: int, contextual_share: float
) -> Kept:
    if count >= len(group.cell):
        return group
    contextual = min(round(count * contextual_share), count)
    dominant = highest(attention, count - contextual)
    stays = torch.zeros_like(attention, dtype=torch.bool).index_fill_(0, dominant, True)
    rest = (~stays).nonzero()[:, 0]
    members = _pick(group, rest)
    merged = _merge_into(members, _density_peaks(members.tokens, contextual))
    chosen = _pick(group, dominant)
    names = ("tokens", "frame", "cell", "mass")
    return Kept(*(torch.cat([getattr(chosen, n), getattr(merged, n)]) for n in names))


def _density_peaks(tokens: Float[Tensor, "n d"], count: int) -> Int[Tensor, " c"]:
    """Centres by DPC-KNN: tokens in dense places that are far from any denser one."""
    if not count:
        return torch.zeros(0, dtype=torch.int64, device=tokens.device)
    unit = normalise(tokens)
    distance = (2 - 2 * unit @ unit.mT).clamp(min=0)
    near = distance.topk(min(_NEIGHBOURS + 1, len(tokens)), dim=1, largest=False).values
    density = torch.exp(-near.mean(dim=1))
    # Equal densities are ordered by index, so that one of them counts as the denser.
    rank = density.argsort(descending=True, stable=True).argsort()
    denser = rank[None, :] < rank[:, None]
    gap = distance.masked_fill(~denser, float("inf")).amin(dim=1)
    gap = torch.where(torch.isinf(gap), distance.max(), gap)
    return highest(density * gap, count)


def _merge_into(group: Kept, centres: Int[Tensor, " c"]) -> Kept:
    members = torch.arange(len(group.cell), device=group.cell.device)
    tokens, mass = average_into(group.tokens, group.mass, members, centres)
    return Kept(tokens, group.frame[centres], group.cell[centres], mass)


def _pick(group: Kept, index: Int[Tensor, " k"]) -> Kept:
    return Kept(group.tokens[index], group.frame[index], group.cell[index], group.mass[index])
