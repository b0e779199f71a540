"""Which tokens matter: signals per cell, and how they are mixed.

    attention    what the token receives in the deep layer, over the frame's mean
    local        the same in the shallow layer
    contrast     one minus the cosine to the frame's mean token: what stands out in space
    novelty      the cost of transporting the token to the anchors of earlier frames: what is new

A signal is nonnegative and larger where a token matters more. Signals are mixed by multiplying
powers, so that what any of them holds for nothing counts for little: a flickering leaf is new but
not attended, a parked car is attended but not new. Novelty alone depends on earlier frames; the
others are found for all frames of all clips at once. Nothing here chooses or merges.
"""

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from aot.errors import InvalidConfig
from aot.reducers.cells import CellBatch, normalise
from aot.types import Grid

SIGNALS = ("attention", "local", "contrast", "novelty")
#: Signals are floored here, so that a power of one that is nought does not lose the others.
_FLOOR = 1e-6


def weigh_frames(
    cells: CellBatch, contrast: Float[Tensor, "c t p"], powers: Mapping[str, float]
) -> Float[Tensor, "c t p"]:
    """Product of all signals but novelty, each to its power; a power of 0 leaves a signal out."""
    maps = torch.stack([cells.attention, cells.local_attention])
    maps = (maps / maps.mean(dim=3, keepdim=True).clamp(min=_FLOOR)).clamp(min=_FLOOR)
    signals = {"attention": maps[0], "local": maps[1], "contrast": contrast}
    weights = torch.ones_like(contrast)
    for name, signal in signals.items():
        if powers.get(name):
            weights = weights * signal.clamp(min=_FLOOR) ** powers[name]
    return weights


def find_contrast(unit: Float[Tensor, "*c p d"]) -> Float[Tensor, "*c p"]:
    """One minus the cosine of each token, of length one, to its frame's mean token."""
    mean = normalise(unit.mean(dim=-2))
    return (1 - (unit @ mean[..., None])[..., 0]).clamp(min=0)


def weigh_novelty(
    novelty: Float[Tensor, "c p"], floor: float, powers: Mapping[str, float]
) -> Float[Tensor, "c p"] | float:
    """Novelty to its power. `floor` is added: how much a token counts that is not new at all."""
    power = powers.get("novelty", 0)
    if not power:
        return 1.0
    signal = novelty + floor
    if floor < _FLOOR:
        signal = signal.clamp(min=_FLOOR)
    return signal if power == 1 else signal**power


def check_powers(powers: Mapping[str, float]) -> None:
    """Raise on a mixture that cannot be.

    Raises:
        InvalidConfig: an unknown signal, a negative or infinite power, or none above 0.
    """
    if not isinstance(powers, Mapping):
        raise InvalidConfig(f"powers must map signals to numbers, got {powers!r}")
    unknown = sorted(set(powers) - set(SIGNALS))
    if unknown:
        raise InvalidConfig(f"no signal {unknown[0]!r}; choose among {', '.join(SIGNALS)}")
    numbers = [
        isinstance(power, (int, float)) and 0 <= power < math.inf for power in powers.values()
    ]
    if not all(numbers) or not any(powers.values()):
        raise InvalidConfig(
            f"powers of signals are {dict(powers)}, expected numbers from 0 on, one above 0"
        )


@lru_cache(maxsize=8)
def measure_distances(grid: Grid, device: torch.device) -> Float[Tensor, "p p"]:
    """Distances between the cells of a frame that spans [0, 1]. Never written to."""
    sides = (torch.linspace(0, 1, max(size, 2), device=device)[:size] for size in grid)
    points = torch.cartesian_prod(*sides)
    return (points[:, None] - points[None]).square().sum(dim=2).sqrt()
