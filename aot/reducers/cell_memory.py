"""What the cells of open clips have shown: the anchors of the project's own reducer.

Every cell has an anchor for each distinct state it was in, so that what comes back (background
behind a passer-by) finds what it was. A token moves the most alike anchor of its cell or becomes
one. Anchors lie in slots, as many a cell as are ever remembered; a cell fills them from the first
on. Tensors in, tensors out; what is emitted and why is not decided here.
"""

import math
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.packing import take_rows
from aot.reducers.cells import NORM_FLOOR, count_up, normalise, scale_tokens
from aot.types import ClipState, Grid, PackedTokens, TokenKind


@dataclass(frozen=True, repr=False)
class AdaptiveState(ClipState):
    """Open clips of the adaptive reducer: `m` slots for every cell's anchors, and what they know.

    Nothing is where a slot is not filled: zeros, and False.
    """

    spent: Int[Tensor, " c"]
    """Tokens emitted so far."""
    filled: Int[Tensor, "c p"]
    """Slots in use of every cell, the first ones."""
    anchors: Float[Tensor, "c u p d"]
    """float32, or float64 where the features are; of the first slots. On a CPU, where asking is
    free, of those in use; all columns together (`columns`) hold all."""
    inverse: Float[Tensor, "c m p"]
    """One over the anchor's length."""
    mass: Float[Tensor, "c m p"]
    """Tokens handed over and not yet emitted; all masses and all emitted tokens add up to what
    went in."""
    emitted: Bool[Tensor, "c m p"]
    """Whether the anchor came out once."""
    owed: Bool[Tensor, "c m p"]
    """What was worth a token that the budget did not have; it counts as new until it gets one."""
    born: Int[Tensor, "c m p"]
    """Rises with the frame an anchor was learnt in: tells a cell's oldest."""

    @property
    def free(self) -> Bool[Tensor, "c m p"]:
        """Slots that hold no anchor."""
        return count_up(self.slots, self.mass.device)[:, None] >= self.filled[:, None]

    @property
    def slots(self) -> int:
        """Anchors that a cell can have."""
        return self.mass.shape[1]

    @property
    def columns(self) -> dict[str, Tensor]:
        """See `ClipState.columns`: shapes are fixed there."""
        return {**super().columns, "anchors": self.anchors_of(self.slots)}

    def anchors_of(self, slots: int) -> Float[Tensor, "c s p d"]:
        """Anchors of the first slots; a view of those there are, unless there are fewer."""
        there = self.anchors.shape[1]
        return self.anchors[:, :slots] if slots <= there else _copy_slots(self.anchors, slots)

    def first(self, slots: int) -> "AdaptiveState":
        """A view that leaves out later slots."""
        names = ("inverse", "mass", "emitted", "owed", "born")
        columns = {name: getattr(self, name)[:, :slots] for name in names}
        return replace(self, anchors=self.anchors_of(slots), **columns)


def open_memory(
    clips: int,
    slots: int,
    grid: Grid,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    blank: bool = True,
) -> AdaptiveState:
    """Clips whose cells have shown nothing.

    `blank` off leaves anchors what memory held, for a scan that makes all of them.
    """
    allocate = torch.zeros if blank else torch.empty
    room = 1 if device.type == "cpu" else slots
    cells = grid[0] * grid[1]
    numbers = torch.zeros(2, clips, dtype=torch.int64, device=device)
    measures = torch.zeros(2, clips, slots, cells, dtype=dtype, device=device)
    marks = torch.zeros(2, clips, slots, cells, dtype=torch.bool, device=device)
    return AdaptiveState(
        grid=grid,
        width=width,
        position=numbers[0],
        spent=numbers[1],
        filled=torch.zeros(clips, cells, dtype=torch.int64, device=device),
        anchors=allocate(clips, room, cells, width, dtype=dtype, device=device),
        inverse=measures[0],
        mass=measures[1],
        emitted=marks[0],
        owed=marks[1],
        # Slots are filled in order; only frames that may drop an anchor have to tell its place.
        born=count_up(slots, device)[:, None].repeat(clips, 1, cells),
    )


def copy_memory(memory: AdaptiveState, *, anchors: bool) -> AdaptiveState:
    """A memory of one's own to write to, its anchors with it or still those of the other."""
    columns = {
        column.name: value.clone()
        for column in fields(memory)
        if column.name != "anchors" and isinstance(value := getattr(memory, column.name), Tensor)
    }
    if anchors:
        columns["anchors"] = _copy_slots(memory.anchors, count_slots(memory, memory.slots))
    return replace(memory, **columns)


def _make_room(memory: AdaptiveState, target: Int[Tensor, "c p"]) -> AdaptiveState:
    """The memory with a place for what every cell learns of a frame."""
    there = memory.anchors.shape[1]
    if there == memory.slots or there > int(target.max()):
        return memory
    return replace(memory, anchors=_copy_slots(memory.anchors, there + 1))


def _copy_slots(anchors: Float[Tensor, "c u p d"], slots: int) -> Float[Tensor, "c s p d"]:
    """The first slots, zeros where there were none."""
    there = min(slots, anchors.shape[1])
    copied = anchors.new_empty(anchors.shape[0], slots, *anchors.shape[2:])
    copied[:, :there] = anchors[:, :there]
    copied[:, there:] = 0
    return copied


def count_slots(memory: AdaptiveState, most: int) -> int:
    """Slots that need looking at: `most`, on a CPU, where asking is free, no more than in use."""
    if memory.filled.device.type == "cpu":
        return min(most, int(memory.filled.max()))
    return most


def compare(
    memory: AdaptiveState, unit: Float[Tensor, "c p d"], offset: Float[Tensor, "p p"]
) -> tuple[Float[Tensor, "c p"], Float[Tensor, "c m p"]]:
    """Tokens of length one against what is known.

    Gives the cost of the cheapest transport of each token to an anchor, and its cosines to the
    anchors of its own cell (minus infinity where there is none). The cost is

        min_j (1 - cos(x_i, a_j) + position_weight * distance_ij)

    the semi-relaxed transport, in which every token is handed over whole and no anchor has to take
    its share. The distance lets a shaken camera's background find itself in the next cell, at a
    price; `offset` is one and that price. Anchors that are owed do not count, unless all are.
    """
    anchors = memory.anchors_of(memory.slots)
    clips, slots, cells, width = anchors.shape
    product = torch.bmm(anchors.reshape(clips, slots * cells, width), unit.mT)
    cosine = product.view(clips, slots, cells, cells).mul_(memory.inverse[..., None])
    free = memory.free
    own = cosine.diagonal(dim1=2, dim2=3).masked_fill(free, -math.inf)
    hidden = free | memory.owed
    hidden = torch.where(hidden.flatten(1).all(dim=1)[:, None, None], free, hidden)
    cost = (offset - cosine).masked_fill_(hidden[..., None], math.inf)
    return cost.amin(dim=(1, 2)).clamp(min=0), own


@dataclass(frozen=True)
class Frame:
    """One frame of every clip, and what was decided of it."""

    tokens: Float[Tensor, "c p d"]
    position: Int[Tensor, " c"]
    """In its clip."""
    kept: Bool[Tensor, "c p"]
    """Tokens that came out."""
    worthy: Bool[Tensor, "c p"]
    """Those worth a token, kept or not."""
    active: Bool[Tensor, " c"] | None
    """Clips that have the frame, None for all; of the others nothing is kept."""


def learn_first(memory: AdaptiveState, frame: Frame, length: Float[Tensor, "c p"]) -> AdaptiveState:
    """The memory after the frame that opens all clips, of tokens so long; its slots are written
    to.
    """
    unkept = ~frame.kept
    memory.anchors[:, 0] = frame.tokens
    memory.inverse[:, 0] = length.clamp(min=NORM_FLOOR).reciprocal()
    memory.mass[:, 0], memory.emitted[:, 0] = unkept, frame.kept
    memory.owed[:, 0] = frame.worthy & unkept
    return replace(memory, filled=torch.ones_like(memory.filled))


def learn(
    memory: AdaptiveState,
    frame: Frame,
    own: Float[Tensor, "c s p"],
    *,
    merge_similarity: float,
    patience: float,
    drops: bool,
) -> AdaptiveState:
    """The memory after a frame; the slots it has are written to.

    A cell's most alike anchor becomes what was kept of the cell, or steps towards what was not, by
    one over its mass; what is like none of them is remembered as an anchor of its own.

    Args:
        own: cosines to the anchors of the own cell, of the first slots.
        merge_similarity: cosine from which on a token is like an anchor.
        patience: tokens after which an anchor's steps get no smaller.
        drops: whether a cell may be full; then its oldest anchor goes, and the new one gets its
            mass.
    """
    kept, unkept = frame.kept, ~frame.kept
    nearest = own.max(dim=1)
    alike, arrived = nearest.values >= merge_similarity, unkept
    if frame.active is not None:  # a frame that is not there moves an anchor by nothing
        alike, arrived = alike | ~frame.active[:, None], unkept & frame.active[:, None]
    target = torch.where(alike, nearest.indices, _place_of_new(memory, drops))
    memory = _make_room(memory, target)
    target, new = target[:, None], ~alike

    def at(values: Tensor) -> Tensor:
        return values.gather(1, target)[:, 0]

    mass, emitted, owed = at(memory.mass), at(memory.emitted), at(memory.owed)
    pace = (mass.clamp(min=1, max=patience - 1) + 1).reciprocal().masked_fill(kept | new, 1)
    if frame.active is not None:
        pace = pace * frame.active[:, None]
    wide = target[..., None].expand(-1, -1, -1, frame.tokens.shape[2])
    before = memory.anchors.gather(1, wide)[:, 0]
    if drops:
        before, emitted = before * alike[..., None], emitted & alike
        born = torch.where(alike, at(memory.born), memory.slots + frame.position[:, None])
        memory.born.scatter_(1, target, born[:, None])
    moved = before + pace[..., None] * (frame.tokens - before)
    length = torch.linalg.vector_norm(moved, dim=2).clamp(min=NORM_FLOOR)
    owed = torch.where(alike, owed, frame.worthy) & unkept
    memory.anchors.scatter_(1, wide, moved[:, None])
    memory.inverse.scatter_(1, target, length.reciprocal()[:, None])
    memory.mass.scatter_(1, target, (mass + arrived)[:, None])
    memory.emitted.scatter_(1, target, (emitted | kept)[:, None])
    memory.owed.scatter_(1, target, owed[:, None])
    filled = memory.filled + new
    return replace(memory, filled=filled.clamp(max=memory.slots) if drops else filled)


def _place_of_new(memory: AdaptiveState, drops: bool) -> Int[Tensor, "c p"]:
    """The slot that a cell's next new anchor gets: the first free one, else its oldest's."""
    if not drops:
        return memory.filled
    return torch.where(memory.filled < memory.slots, memory.filled, memory.born.argmin(dim=1))


def end_clips(
    memory: AdaptiveState, wanted: Int[Tensor, " c"], room: int, dtype: torch.dtype
) -> PackedTokens:
    """Merged anchors that end clips, none of which came out before, with all mass that did not.

    Each cell's heaviest anchor, of cells that nothing came out of yet, and of those the `wanted`
    least like the mean of all; where everything came out once, one comes again, so that no mass is
    lost; and nothing where there is no mass. `room` bounds what can be wanted.
    """
    slots, cells = memory.mass.shape[1:]
    used, mass = ~memory.free, memory.mass
    anchors = memory.anchors_of(slots)
    unit = scale_tokens(anchors, memory.inverse).flatten(1, 2)
    total = used.flatten(1).sum(dim=1)[:, None].clamp(min=1)
    mean = normalise(unit.sum(dim=1) / total)
    contrast = 1 - (unit @ mean[..., None])[..., 0]
    waiting = _heaviest_untold(memory, used).flatten(1)
    available = waiting.sum(dim=1)
    open_to = torch.where(available[:, None] > 0, waiting, used.flatten(1))
    count = torch.minimum(wanted, available.clamp(min=1)) * (mass > 0).flatten(1).any(dim=1)
    ranked = contrast.masked_fill(~open_to, -math.inf).sort(dim=1, descending=True, stable=True)
    there = count_up(room, count.device) < count[:, None]
    index = ranked.indices[:, :room].masked_fill(~there, slots * cells).sort(dim=1).values
    index = index.clamp(max=slots * cells - 1)
    return PackedTokens(
        tokens=take_rows(anchors.flatten(1, 2), index).to(dtype),
        frame=torch.zeros_like(index),
        cell=index % cells,
        mass=_hand_over(unit, (mass * used).flatten(1), index, there).float(),
        kind=torch.full_like(index, int(TokenKind.MERGED), dtype=torch.uint8),
        count=count,
        finite=torch.ones_like(count, dtype=torch.bool),
        grid=memory.grid,
    )


def _heaviest_untold(memory: AdaptiveState, used: Bool[Tensor, "c m p"]) -> Bool[Tensor, "c m p"]:
    """Each cell's heaviest anchor, the oldest among equals, of cells nothing came out of."""
    weight = memory.mass.masked_fill(~used, -1)
    lighter = weight < weight.amax(dim=1, keepdim=True)
    heaviest = memory.born.masked_fill(lighter, torch.iinfo(torch.int64).max)
    untold = ~(memory.emitted & used).any(dim=1, keepdim=True)
    return torch.zeros_like(used).scatter_(1, heaviest.argmin(dim=1, keepdim=True), untold)


def _hand_over(
    unit: Float[Tensor, "c a d"],
    mass: Float[Tensor, "c a"],
    index: Int[Tensor, "c k"],
    there: Bool[Tensor, "c k"],
) -> Float[Tensor, "c k"]:
    """Mass of all anchors, each given whole to the one of `index` it is most like."""
    likeness = (unit @ take_rows(unit, index).mT).masked_fill(~there[:, None], -math.inf)
    order = count_up(index.shape[1], index.device).expand_as(index)
    # An anchor that is chosen keeps its own; places that are not there point at the first.
    own = order.where(there, 0)
    nearest = likeness.argmax(dim=2).scatter(1, index.where(there, index[:, :1]), own)
    return torch.zeros_like(mass[:, : index.shape[1]]).scatter_add_(1, nearest, mass)
