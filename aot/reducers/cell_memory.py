"""What the cells of an open clip have shown: the anchors of the project's own reducer.

Every cell has an anchor for each distinct state it was in, oldest first, so that what comes back
(background behind a passer-by) finds what it was. A token moves the most alike anchor of its cell
or becomes one. Tensors in, tensors out; what is emitted and why is not decided here.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.reducers.cells import OneClip, highest, normalise
from aot.types import Grid


@dataclass(frozen=True)
class Anchors:
    """What every cell has shown, its states in the order they came; the open clip's whole state."""

    tokens: Float[Tensor, "a d"]
    cell: Int[Tensor, " a"]
    mass: Float[Tensor, " a"]
    """Tokens handed over and not yet emitted; all masses and all emitted tokens add up to what
    went in."""
    emitted: Bool[Tensor, " a"]
    owed: Bool[Tensor, " a"]
    """What was worth a token that the budget did not have; it counts as new until it gets one."""
    position: int
    grid: Grid

    @property
    def num_cells(self) -> int:
        """Cells of a frame, each of which has an anchor at least."""
        return self.grid[0] * self.grid[1]

    @property
    def spent(self) -> int:
        """Tokens emitted so far."""
        return self.position * self.num_cells - round(float(self.mass.double().sum()))


def learn_frame(
    tokens: Float[Tensor, "p d"],
    kept: Int[Tensor, " k"],
    worthy: Bool[Tensor, " p"],
    old: Anchors | None,
    grid: Grid,
    *,
    merge_similarity: float,
    patience: float,
    memory: int,
) -> Anchors:
    """Anchors after a frame of which the cells `kept` were emitted.

    A cell's most alike state becomes what was kept of the cell, or steps towards what was not, by
    one over its mass; what is like none of them is remembered as a state of its own.

    Args:
        worthy: cells worth a token, kept or not.
        merge_similarity: cosine from which on a token is like an anchor.
        patience: tokens after which an anchor's steps get no smaller.
        memory: states of a cell that are kept; the oldest goes, and the new one gets its mass.
    """
    cell = torch.arange(len(tokens), device=tokens.device)
    emitted = torch.zeros_like(cell, dtype=torch.bool)
    emitted[kept] = True
    arrived = (~emitted).to(tokens.dtype)
    fresh = Anchors(tokens, cell, arrived, emitted, worthy & ~emitted, 1, grid)
    if old is None:
        return fresh
    before = old.tokens.to(tokens.dtype)
    similarity = (normalise(tokens)[old.cell] * normalise(before)).sum(dim=1)
    nearest = find_nearest(similarity, old.cell, len(tokens))
    alike = similarity[nearest] >= merge_similarity
    row = nearest[alike]
    step = 1 / (old.mass[row].to(tokens.dtype).clamp(min=1, max=patience - 1) + 1)
    step = torch.where(emitted[alike], 1.0, step)
    moved = before.index_add(0, row, step[:, None] * (tokens[alike] - before[row]))
    known = replace(
        old,
        tokens=moved,
        mass=old.mass.index_add(0, row, arrived[alike]),
        emitted=old.emitted.index_put((row,), old.emitted[row] | emitted[alike]),
        owed=old.owed.index_put((row,), old.owed[row] & ~emitted[alike]),
        position=old.position + 1,
    )
    return _remember(known, fresh, ~alike, memory)


def find_nearest(
    similarity: Float[Tensor, " a"], cell: Int[Tensor, " a"], num_cells: int
) -> Int[Tensor, " p"]:
    """Index of each cell's most alike anchor, the first among equals."""
    highest_of = similarity.new_full((num_cells,), -math.inf).scatter_reduce(
        0, cell, similarity, "amax"
    )
    index = torch.arange(len(cell), device=cell.device)
    index = index.masked_fill(similarity < highest_of[cell], len(cell))
    return index.new_full((num_cells,), len(cell)).scatter_reduce(0, cell, index, "amin")


def _remember(known: Anchors, fresh: Anchors, new: Bool[Tensor, " p"], memory: int) -> Anchors:
    """`known` and the `new` states of `fresh`."""
    index = torch.arange(len(known.cell), device=known.cell.device)
    oldest = index.new_full((known.num_cells,), len(index))
    oldest = oldest.scatter_reduce(0, known.cell, index, "amin")
    full = new & (torch.bincount(known.cell, minlength=known.num_cells) >= memory)
    stays = torch.ones_like(known.emitted)
    stays[oldest[full]] = False
    mass = fresh.mass.clone()
    mass[full] += known.mass[oldest[full]]
    return replace(
        known,
        tokens=torch.cat([known.tokens[stays], fresh.tokens[new]]),
        cell=torch.cat([known.cell[stays], fresh.cell[new]]),
        mass=torch.cat([known.mass[stays], mass[new]]),
        emitted=torch.cat([known.emitted[stays], fresh.emitted[new]]),
        owed=torch.cat([known.owed[stays], fresh.owed[new]]),
    )


def find_known(anchors: Anchors) -> Int[Tensor, " k"]:
    """Anchors that a later token is compared with: all but those owed, or all where all are."""
    known = (~anchors.owed).nonzero()[:, 0]
    return known if len(known) else torch.arange(len(anchors.cell), device=known.device)


def choose_merged(anchors: Anchors, count: int) -> Int[Tensor, " k"]:
    """Anchors to end a clip with: each cell's heaviest, of cells that nothing came out of yet, and
    of those the least like the mean of all.
    """
    unit = normalise(anchors.tokens)
    contrast = 1 - unit @ normalise(unit.mean(dim=0))
    told = torch.zeros(anchors.num_cells, dtype=torch.bool, device=contrast.device)
    told[anchors.cell[anchors.emitted]] = True
    waiting = torch.zeros_like(anchors.emitted)
    waiting[find_nearest(anchors.mass.float(), anchors.cell, anchors.num_cells)] = True
    waiting &= ~told[anchors.cell]
    available = int(waiting.sum())
    if not available:  # all came out once: one comes again, so that no mass is lost
        return highest(contrast, min(count, 1))
    return highest(contrast.masked_fill(~waiting, -math.inf), min(count, available))


def hand_over(anchors: Anchors, chosen: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Mass of all anchors, each given whole to the chosen one it is most like."""
    if not len(chosen):
        return anchors.mass[chosen].float()
    unit = normalise(anchors.tokens)
    nearest = (unit @ unit[chosen].mT).argmax(dim=1)
    nearest[chosen] = torch.arange(len(chosen), device=chosen.device)
    return torch.zeros(len(chosen), device=chosen.device).index_add_(
        0, nearest, anchors.mass.float()
    )


def write_state(anchors: Anchors) -> OneClip:
    """One row an anchor; `cell` also tells whether it came out and whether it is owed."""
    marks = anchors.emitted + 2 * anchors.owed
    return OneClip(
        anchors.tokens, anchors.cell + anchors.num_cells * marks, anchors.mass, 0,
        anchors.position, anchors.grid,
    )  # fmt: skip


def read_state(state: OneClip) -> Anchors:
    num_cells = state.pooled_grid[0] * state.pooled_grid[1]
    marks = state.cell // num_cells
    return Anchors(
        state.anchors, state.cell % num_cells, state.mass, marks % 2 == 1, marks >= 2,
        state.position, state.pooled_grid,
    )  # fmt: skip
