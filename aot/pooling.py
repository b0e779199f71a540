"""The model family's own 2-D pooling of a frame's tokens, and of the mask of its anchors.

Bilinear is LLaVA-OneVision's (27x27 to 14x14, no antialiasing), average LLaVA-Video's (27x27 to
13x13, the odd last row and column dropped); method section 5. The same pooling is also given as a
matrix, since merging and pooling are both linear in the tokens and are applied as one product.
"""

import math
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from aot.errors import InvalidConfig, InvalidFeatures
from aot.types import Grid, Pooling

PoolMode = Pooling | Literal["max"]
"""Max is known to LLaVA checkpoints, but not linear, so that no reduction can be built on it."""


def pooled_grid(grid: Grid, mode: PoolMode = "bilinear", *, stride: int = 2) -> Grid:
    """Rows and columns after pooling: rounded up for bilinear, down for average and max.

    Raises:
        InvalidConfig: no such pooling, or nothing would be left of the grid.
    """
    if mode == "none":
        return grid
    if mode not in ("bilinear", "average", "max"):
        raise InvalidConfig(f"got pooling {mode!r}, expected bilinear, average, max or none")
    rounded = math.ceil if mode == "bilinear" else math.floor
    rows, columns = rounded(grid[0] / stride), rounded(grid[1] / stride)
    if rows < 1 or columns < 1:
        raise InvalidConfig(
            f"got grid {grid}, expected at least {stride} rows and columns for {mode} pooling with "
            f"stride {stride}; lower the stride"
        )
    return rows, columns


def pool_grid(
    tokens: Float[Tensor, "t n d"], grid: Grid, mode: PoolMode = "bilinear", *, stride: int = 2
) -> Float[Tensor, "t p d"]:
    """Tokens of the pooled grid, in raster order, in the input dtype.

    Raises:
        InvalidFeatures: the number of tokens is not that of the grid.
    """
    if tokens.shape[1] != grid[0] * grid[1]:
        raise InvalidFeatures(
            f"got {tokens.shape[1]} tokens per frame, expected {grid[0] * grid[1]} for grid "
            f"{grid}; pass the grid the tokens were cut from"
        )
    frames, _, dim = tokens.shape
    size = pooled_grid(grid, mode, stride=stride)
    image = tokens.reshape(frames, *grid, dim).permute(0, 3, 1, 2)
    pooled = _pool(image, size, mode, stride)
    return pooled.permute(0, 2, 3, 1).reshape(frames, size[0] * size[1], dim)


def pool_mask(
    mask: Bool[Tensor, "t n"],
    grid: Grid,
    mode: PoolMode = "bilinear",
    *,
    stride: int = 2,
    threshold: float = 0.5,
) -> Bool[Tensor, "t p"]:
    """Cells of the pooled grid of which at least `threshold` is marked, pooled in float32."""
    return pool_grid(mask.float()[:, :, None], grid, mode, stride=stride)[:, :, 0] >= threshold


@lru_cache(maxsize=8)
def pool_matrix(
    grid: Grid, mode: PoolMode, stride: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "p n"]:
    """The pooling as a matrix. Kept for the few grids a process sees; never written to."""
    eye = torch.eye(grid[0] * grid[1], dtype=dtype, device=device)
    return pool_grid(eye[None], grid, mode, stride=stride)[0]


def _pool(image: Tensor, size: Grid, mode: PoolMode, stride: int) -> Tensor:
    if mode == "bilinear":
        return F.interpolate(image, size=size, mode="bilinear", align_corners=False)
    if mode == "average":
        return F.avg_pool2d(image, stride)
    if mode == "max":
        return F.max_pool2d(image, stride)
    return image
