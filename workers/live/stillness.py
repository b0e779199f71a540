"""Which frames of a camera show nothing new, so that they need not be encoded again.

A frame is compared with the last one that was encoded, cell by cell: the mean colours of blocks,
whose noise is far below a pixel's. What a block varies by when nothing happens is the median of its
last steps, which a thing that comes and goes does not move; a change is what stands clear of that,
in several blocks or plainly in one. A keyframe codes the same place anew, a little different nearly
everywhere: a change must stand clear of what most blocks differ by, too. Light that changes all
over is taken out of both, and counts by itself once it has gone far enough, so that nothing is held
for ever. Knows no model and no time.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

Cells = Float[np.ndarray, "r c 3"]


@dataclass(frozen=True)
class StillnessRule:
    """When a frame is held."""

    cells: int = 24
    """Blocks along each side."""
    least_change: float = 2.0
    """Levels of 255 that a block's mean must differ by, however quiet the picture."""
    noise_factor: float = 6.0
    """And so many times what it differs by from frame to frame when nothing happens."""
    flicker_factor: float = 4.0
    """And so many times what most blocks of this frame differ by, as those of a keyframe do,"""
    most_flicker: float = 8.0
    """of which so many levels count at most: what changes all over in earnest is seen."""
    blocks: int = 4
    """A change counts that is seen in so many blocks at once: an edge that trembles is none."""
    clear: float = 4.0
    """One of so many times what it must be counts in a single block."""
    light: float = 8.0
    """Levels that the light may have changed all over."""
    memory: int = 6
    """Steps from frame to frame that a block's noise is the median of."""
    known: int = 4
    """With fewer steps than this all blocks are taken to be as noisy as most of them are: what
    moves in a camera's first seconds is no noise."""
    longest_frames: int = 600
    """Held frames in a row before one is encoded in any case."""


class StillnessGate:
    """Looks at frames in order; `is_still` says whether one shows nothing new."""

    def __init__(self, rule: StillnessRule | None = None) -> None:
        self.rule = rule or StillnessRule()
        self._encoded: Cells | None = None
        self._before: Cells | None = None
        self._steps: deque[np.ndarray] = deque(maxlen=self.rule.memory)
        self._held = 0

    def is_still(self, pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
        """Whether the frame can be held; one that cannot is what later ones are compared with."""
        cells = average_cells(pixels, self.rule.cells)
        still = (
            self._encoded is not None
            and self._held < self.rule.longest_frames
            and not self._is_new(cells, self._encoded)
        )
        self._held = self._held + 1 if still else 0
        if not still:
            self._encoded = cells
        if self._before is not None:
            self._steps.append(_differ(cells, self._before)[0])
        self._before = cells
        return still

    def restart(self) -> None:
        """Forget the picture: the next frame is new whatever it shows."""
        self._encoded = self._before = None
        self._steps.clear()
        self._held = 0

    def _is_new(self, cells: Cells, encoded: Cells) -> bool:
        rule = self.rule
        differs, light = _differ(cells, encoded)
        flicker = min(rule.most_flicker, rule.flicker_factor * float(np.median(differs)))
        noise = rule.noise_factor * self._noise()
        ratio = differs / np.maximum(max(rule.least_change, flicker), noise)
        return bool(
            (ratio > 1).sum() >= rule.blocks or ratio.max() > rule.clear or light > rule.light
        )

    def _noise(self) -> Float[np.ndarray, "r c"]:
        """What each block varies by, at least as much as the quieter half of all do."""
        if not self._steps:
            return np.zeros((1, 1), np.float32)
        noise = np.median(np.stack(self._steps), axis=0)
        usual = np.full_like(noise, np.median(noise))
        return usual if len(self._steps) < self.rule.known else np.maximum(noise, usual)


def _differ(cells: Cells, others: Cells) -> tuple[Float[np.ndarray, "r c"], float]:
    """Levels by which each block differs in its most different colour, and by which all do."""
    differs = cells - others
    light = np.median(differs, axis=(0, 1))
    return np.abs(differs - light).max(-1), float(np.abs(light).max())


def average_cells(pixels: UInt8[np.ndarray, "h w 3"], cells: int) -> Cells:
    """Mean colours of `cells` x `cells` blocks, all of the picture among them: blocks differ by a
    pixel where they do not divide it."""
    high, wide = (min(cells, side) for side in pixels.shape[:2])
    rows, columns = (
        np.arange(count) * side // count
        for count, side in zip((high, wide), pixels.shape[:2], strict=True)
    )
    # Sums of whole numbers along rows first: a sixth of the time of a mean over both axes.
    sums = np.add.reduceat(pixels, rows, axis=0, dtype=np.uint32)
    sums = np.add.reduceat(sums, columns, axis=1)
    areas = np.outer(
        *(
            np.diff([*starts, side])
            for starts, side in zip((rows, columns), pixels.shape[:2], strict=True)
        )
    )
    return (sums / areas[..., None]).astype(np.float32)
