"""How many anchors a target retention takes: the model behind `AOTConfig.for_retention`.

A pooled cell is kept when anchors make up enough of its taps, so that an isolated anchor may
disappear and a few close ones may keep a cell each. What survives therefore depends on how many
anchors there are, on the grid, and on how clustered attention is. Numbers in, numbers out; knows
no tensors and no video, so that what is really kept must always be measured.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from aot.pooling import pooled_grid
from aot.types import Grid, Pooling

#: Weight of anchors scattered independently, against clustered ones whose share simply stays.
#: 0.65 lies midway between random attention maps and maps smoothed over 3x3 patches, at 5 to 90 %
#: anchors, for both poolings and even and odd grids.
_SCATTERED = 0.65
#: Bisections of [0, 1]: finer than one patch of any grid in use.
_HALVINGS = 20


@dataclass(frozen=True)
class PoolingModel:
    """What pooling leaves of a share of anchors."""

    grid: Grid
    pooling: Pooling
    stride: int
    threshold: float

    @property
    def num_cells(self) -> int:
        """Cells of a frame's pooled grid."""
        rows, columns = pooled_grid(self.grid, self.pooling, stride=self.stride)
        return rows * columns

    def kept_share(self, anchor_share: float) -> float:
        """Expected share of the cells kept when `anchor_share` of the tokens are anchors."""
        size = len(self._patterns) - 1
        scattered = sum(
            patterns * anchor_share**marked * (1 - anchor_share) ** (size - marked)
            for marked, patterns in enumerate(self._patterns)
        )
        return _SCATTERED * scattered + (1 - _SCATTERED) * anchor_share

    def anchor_share(self, kept_share: float) -> float:
        """The inverse of `kept_share`."""
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.kept_share(middle) < kept_share else (low, middle)
        return high

    @cached_property
    def _patterns(self) -> list[float]:
        """For every number of anchors among a cell's taps: how many patterns of them keep it,
        the mean over cells.
        """
        threshold = self.threshold - 1e-9  # weights are sums of rounded products
        if self.pooling != "bilinear":  # taps weigh the same
            size = self.stride**2 if self.pooling == "average" else 1
            return [math.comb(size, k) * float(k / size >= threshold) for k in range(size + 1)]
        axes = [_axis_taps(size, self.stride) for size in self.grid]
        counts = [0] * 5
        for down, across in product(*axes):
            weights = [a * b for a, b in product(down, across)]
            for pattern in product((0, 1), repeat=4):
                kept = sum(w * bit for w, bit in zip(weights, pattern, strict=True)) >= threshold
                counts[sum(pattern)] += kept
        return [count / self.num_cells for count in counts]


def tokens_per_frame(retention: float, frames: int, fraction: float, num_cells: int) -> float:
    """Tokens a frame must keep, so that a clip of `frames` keeps `retention` of all cells.

    Of `n` tokens a frame, a clip keeps `2 n + (frames - 1) ceil(fraction (n - 1))`, where rounding
    up adds half a token a frame; a clip of one frame keeps `n`.
    """
    budget = retention * frames * num_cells
    if frames == 1:
        return budget
    rounding = 0.5 if 0 < fraction < 1 else 0.0
    fixed = (frames - 1) * (rounding - fraction)
    return max(1.0, (budget - fixed) / (2 + fraction * (frames - 1)))


def distinct_fraction(
    retention: float, frames: int, num_cells: int, kept: float | None = None
) -> float:
    """Distinct share of the later frames' tokens, for `kept` tokens a frame where that is given.

    Otherwise it grows with the target, and as far as a frame's own tokens cannot fill the budget.
    """
    later = max(frames - 1, 1)
    if kept is not None:
        wanted = (retention * frames * num_cells - 2 * kept) / (later * kept)
    else:
        wanted = max(0.1 + retention, (retention * frames - 2) / later)
    return min(max(wanted, 0.0), 1.0)


def _axis_taps(size: int, stride: int) -> list[tuple[float, float]]:
    """The two weights of every bilinear sample along one axis (half-pixel centres)."""
    samples = math.ceil(size / stride)
    centres = ((index + 0.5) * size / samples - 0.5 for index in range(samples))
    fractions = (max(centre, 0.0) % 1 for centre in centres)
    return [(1 - fraction, fraction) for fraction in fractions]
