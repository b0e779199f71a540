"""Cameras that show nothing new some of the time: what `demo.quality.held` looks at."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from demo.world.scenes import BLOCK_S, Item, Scene, generate_scene, scatter_scene

QUIET_S, STAYING_S = 32.0, 64.0


@dataclass(frozen=True)
class Footage:
    """Cameras, and the seconds from which on they are asked about."""

    make: Callable[[int], Scene]
    first_seed: int
    """Of scenes that nothing else is chosen or measured on; even ones are taken."""
    starts_s: tuple[float, ...]


def quiet_scene(seed: int) -> Scene:
    """A camera with things in every other stretch, and some that stay."""
    scene = generate_scene("surveillance", seed, QUIET_S)
    first = (seed // 2) % 2
    items = [item for item in scene.items if int(item.start_s // BLOCK_S) % 2 == first]
    return replace(scene, items=tuple(items))


def staying_scene(seed: int) -> Scene:
    """A camera on which two things come to stay, and then one passes every eight seconds."""
    stay = [
        replace(item, start_s=1.2 + 1.5 * number)
        for number, item in enumerate(scatter_scene(seed, STAYING_S).items[:2])
    ]
    names = {item.name for item in stay}
    passing: dict[int, Item] = {}
    for item in generate_scene("surveillance", seed, STAYING_S).items:
        block = int(item.start_s // BLOCK_S)
        if block and item.name not in names:
            passing.setdefault(block, item)
    return Scene("surveillance", seed, STAYING_S, (*stay, *passing.values()))


FOOTAGE = {
    "quiet": Footage(quiet_scene, 510_000, tuple(np.arange(0.0, QUIET_S, BLOCK_S).tolist())),
    "staying": Footage(staying_scene, 700_000, tuple(np.arange(16.0, 56.0, BLOCK_S / 2).tolist())),
}
