"""Which frames of a camera show nothing new, so that they need not be encoded again.

A frame is compared with the last one that was encoded, cell by cell: the means of its luma over
blocks, whose noise is far below a pixel's. What a block varies by when nothing happens is learned
from the blocks themselves; a change is what stands clear of that. Where the light changes slowly
the differences add up until the frame counts as new, so that nothing is held for ever. Knows no
model and no time.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601."""


@dataclass(frozen=True)
class StillnessRule:
    """When a frame is held."""

    cells: int = 24
    """Blocks along each side."""
    least_change: float = 2.0
    """Levels of 255 that a block's mean must differ by, however quiet the picture."""
    noise_factor: float = 6.0
    """And so many times what it differs by from frame to frame when nothing happens."""
    learn: float = 0.1
    """Share of a new difference in the noise that is known of a block; the first ones are averaged,
    so that a noisy sensor is known after a few frames."""
    longest_frames: int = 600
    """Held frames in a row before one is encoded in any case."""


class StillnessGate:
    """Looks at frames in order; `is_still` says whether one shows nothing new."""

    def __init__(self, rule: StillnessRule | None = None) -> None:
        self.rule = rule or StillnessRule()
        self._encoded: Float[np.ndarray, "r c"] | None = None
        self._before: Float[np.ndarray, "r c"] | None = None
        self._noise: np.ndarray = np.zeros((1, 1), np.float32)
        self._held = self._learned = 0

    def is_still(self, pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
        """Whether the frame can be held; one that cannot is what later ones are compared with."""
        cells = average_cells(pixels, self.rule.cells)
        self._learn(cells)
        still = (
            self._encoded is not None
            and self._held < self.rule.longest_frames
            and not self._changed(cells, self._encoded).any()
        )
        self._held = self._held + 1 if still else 0
        if not still:
            self._encoded = cells
        return still

    def restart(self) -> None:
        """Forget the picture: the next frame is new whatever it shows."""
        self._encoded = self._before = None

    def _changed(
        self, cells: Float[np.ndarray, "r c"], encoded: Float[np.ndarray, "r c"]
    ) -> np.ndarray:
        return np.abs(cells - encoded) > self._limit()

    def _limit(self) -> np.ndarray:
        """What a block must differ by, at least as much as the quieter half of all would."""
        noise = np.maximum(self._noise, np.median(self._noise))
        return np.maximum(self.rule.least_change, self.rule.noise_factor * noise)

    def _learn(self, cells: Float[np.ndarray, "r c"]) -> None:
        """Noise is learned from blocks that did not change, so that a moving thing is none.

        The median over all blocks is what nearly all picture noise is; whatever moves is less than
        half of it.
        """
        before, self._before = self._before, cells
        if before is None:
            self._noise, self._learned = np.zeros_like(cells), 0
            return
        step = np.abs(cells - before)
        usual = step <= np.maximum(self._limit(), self.rule.noise_factor * np.median(step))
        self._learned += 1
        share = max(self.rule.learn, 1.0 / self._learned)
        learned = self._noise + share * (step - self._noise)
        self._noise = np.where(usual, learned, self._noise)


def average_cells(pixels: UInt8[np.ndarray, "h w 3"], cells: int) -> Float[np.ndarray, "r c"]:
    """Mean luma of `cells` x `cells` blocks; rows and columns beyond a whole block are left out."""
    rows, columns = (max(1, side // cells) for side in pixels.shape[:2])
    high, wide = (min(cells, side) for side in pixels.shape[:2])
    luma = pixels[: high * rows, : wide * columns].astype(np.float32) @ LUMA
    return luma.reshape(high, rows, wide, columns).mean((1, 3))
