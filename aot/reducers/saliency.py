"""Which tokens matter: signals per cell of one frame, and how they are mixed. Pluggable.

    attention    what the token receives in the deep layer, over the frame's mean
    local        the same in the shallow layer
    contrast     one minus the cosine to the frame's mean token: what stands out in space
    novelty      the cost of transporting the token to the anchors of earlier frames: what is new

A signal is nonnegative and larger where a token matters more. Signals are mixed by multiplying
powers, so that what any of them holds for nothing counts for little: a flickering leaf is new but
not attended, a parked car is attended but not new. Nothing here chooses or merges.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from aot.errors import InvalidConfig
from aot.reducers.cells import normalise
from aot.types import Grid

_FLOOR = 1e-6


@dataclass(frozen=True)
class FrameView:
    """What a signal may look at: one frame, and what came before it."""

    unit: Float[Tensor, "p d"]
    """Tokens of length one."""
    attention: Float[Tensor, " p"]
    local_attention: Float[Tensor, " p"]
    anchors: Float[Tensor, "a d"] | None
    """Anchors of the frames before, of length one; None in the first frame of a clip."""
    anchor_distance: Float[Tensor, "p a"] | None
    """Distance in the frame from each cell to each anchor's, the frame spanning [0, 1]."""
    position_weight: float
    """Weight of that distance in the cost of transport."""
    novelty_floor: float = 0.0
    """Added to the cost: how much a token counts that is not new at all."""
    keyframe_weight: float = 1.0
    """Weight of contrast where it stands for novelty."""


def find_attention(view: FrameView) -> Float[Tensor, " p"]:
    """Attention received in the deep layer, over the frame's mean."""
    return view.attention / view.attention.mean().clamp(min=_FLOOR)


def find_local(view: FrameView) -> Float[Tensor, " p"]:
    """Attention received in the shallow layer, over the frame's mean."""
    return view.local_attention / view.local_attention.mean().clamp(min=_FLOOR)


def find_contrast(view: FrameView) -> Float[Tensor, " p"]:
    """One minus the cosine to the frame's mean token."""
    return (1 - view.unit @ normalise(view.unit.mean(dim=0))).clamp(min=0)


def find_novelty(view: FrameView) -> Float[Tensor, " p"]:
    """Cost of the cheapest transport of each token to the anchors; contrast where there are none.

    `min_j (1 - cos(x_i, a_j) + position_weight * distance_ij)`: the semi-relaxed transport, in
    which every token is handed over whole and no anchor has to take its share. The distance lets
    a shaken camera's background find itself in the next cell, at a price. `novelty_floor` is added,
    and `keyframe_weight` brings contrast to the scale of costs.
    """
    if view.anchors is None or view.anchor_distance is None:
        return view.keyframe_weight * find_contrast(view) + view.novelty_floor
    cost = 1 - view.unit @ view.anchors.mT + view.position_weight * view.anchor_distance
    return cost.amin(dim=1).clamp(min=0) + view.novelty_floor


SIGNALS: dict[str, Callable[[FrameView], Tensor]] = {
    "attention": find_attention,
    "local": find_local,
    "contrast": find_contrast,
    "novelty": find_novelty,
}


def mix_signals(view: FrameView, powers: Mapping[str, float]) -> Float[Tensor, " p"]:
    """Product of the signals, each to its power; a power of 0 leaves a signal out."""
    score = torch.ones_like(view.attention)
    for name, power in powers.items():
        if power:
            score = score * SIGNALS[name](view).clamp(min=_FLOOR) ** power
    return score


def check_powers(powers: Mapping[str, float]) -> None:
    """Raise on a mixture that cannot be.

    Raises:
        InvalidConfig: an unknown signal, a negative or infinite power, or none above 0.
    """
    unknown = sorted(set(powers) - set(SIGNALS))
    if unknown:
        raise InvalidConfig(f"no signal {unknown[0]!r}; choose among {', '.join(SIGNALS)}")
    if not all(0 <= power < math.inf for power in powers.values()) or not any(powers.values()):
        raise InvalidConfig(
            f"powers of signals are {dict(powers)}, expected numbers from 0 on, one above 0"
        )


@lru_cache(maxsize=8)
def measure_distances(grid: Grid, device: torch.device) -> Float[Tensor, "p p"]:
    """Distances between the cells of a frame that spans [0, 1]. Never written to."""
    sides = (torch.linspace(0, 1, max(size, 2), device=device)[:size] for size in grid)
    points = torch.cartesian_prod(*sides)
    return (points[:, None] - points[None]).square().sum(dim=2).sqrt()
