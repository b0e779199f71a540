"""Which tokens of a frame become anchors: the most attended of every window, then of the frame.

Attention maps in, a boolean mask out (method section 2; paper section 3.2). Ties go to the lowest
index, so that a selection is reproducible.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from aot.config import AOTConfig
from aot.errors import InvalidConfig, InvalidFeatures
from aot.types import Grid


def count_anchors(grid: Grid, config: AOTConfig) -> tuple[int, int]:
    """Local anchors per window and global anchors per frame.

    The local share is divided evenly among the windows and rounded down, as in the reference, so
    that fewer than `anchors_per_frame` may be chosen (100 on 9 windows gives 95).

    Raises:
        InvalidConfig: more anchors than tokens, or none at all.
    """
    num_tokens = grid[0] * grid[1]
    wanted = num_tokens if config.anchors_per_frame is None else config.anchors_per_frame
    if wanted > num_tokens:
        raise InvalidConfig(
            f"anchors_per_frame is {wanted}, expected at most the {num_tokens} tokens of grid "
            f"{grid}; lower it, or leave it None to keep all"
        )
    num_local = int(wanted * (1 - config.global_fraction))
    windows = math.ceil(grid[0] / config.window) * math.ceil(grid[1] / config.window)
    per_window, num_global = num_local // windows, wanted - num_local
    if per_window == 0 and num_global == 0:
        raise InvalidConfig(
            f"anchors_per_frame is {wanted} with global_fraction {config.global_fraction}, too few "
            f"for {windows} windows, expected at least one anchor; raise either"
        )
    return per_window, num_global


def anchors_in_frame(grid: Grid, config: AOTConfig) -> int:
    """How many anchors `select_anchors` marks in every frame.

    Raises:
        InvalidConfig: as `count_anchors`.
    """
    if keeps_all(grid, config):
        return grid[0] * grid[1]
    per_window, num_global = count_anchors(grid, config)
    heights, widths = (_sides(size, config.window) for size in grid)
    return num_global + sum(min(per_window, h * w) for h in heights for w in widths)


def _sides(size: int, window: int) -> list[int]:
    """Lengths of the windows along an axis; the last one may be shorter."""
    return [min(window, size - start) for start in range(0, size, window)]


def keeps_all(grid: Grid, config: AOTConfig) -> bool:
    """Whether every token of a frame is an anchor, so that there is nothing to merge."""
    return config.anchors_per_frame in (None, grid[0] * grid[1])


def select_anchors(
    local_attention: Float[Tensor, "t n"],
    global_attention: Float[Tensor, "t n"],
    grid: Grid,
    config: AOTConfig,
) -> Bool[Tensor, "t n"]:
    """Mask of the anchors of every frame; all frames have the same number of them.

    Local anchors are the most attended tokens of every `window x window` block in the shallow
    layer (blocks at the right and bottom edge may be smaller, and give no more than they have);
    global anchors are the most attended of the rest in the deep layer.

    Raises:
        InvalidConfig: more anchors than tokens, or none at all.
        InvalidFeatures: the maps do not fit the grid, or are not finite.
    """
    _check_maps(local_attention, global_attention, grid)
    return choose_anchors(local_attention, global_attention, grid, config)


def choose_anchors(
    local_attention: Float[Tensor, "t n"],
    global_attention: Float[Tensor, "t n"],
    grid: Grid,
    config: AOTConfig,
) -> Bool[Tensor, "t n"]:
    """`select_anchors` on maps that fit the grid, their values unread: the host waits for nothing.

    Where a map holds NaN or infinity some tokens are chosen all the same.
    """
    if keeps_all(grid, config):
        return torch.ones_like(local_attention, dtype=torch.bool)
    per_window, num_global = count_anchors(grid, config)
    mask = _best_of_windows(local_attention, grid, config.window, per_window)
    # At most `anchors_per_frame` are local or global, so that enough are left to choose from.
    return mask | _highest(global_attention.masked_fill(mask, float("-inf")), num_global)


def _best_of_windows(
    attention: Float[Tensor, "t n"], grid: Grid, window: int, per_window: int
) -> Bool[Tensor, "t n"]:
    frames, (rows, columns) = attention.shape[0], grid
    down, across = math.ceil(rows / window), math.ceil(columns / window)
    padding = (0, across * window - columns, 0, down * window - rows)
    padded = F.pad(attention.reshape(frames, rows, columns), padding, value=float("-inf"))
    blocks = padded.view(frames, down, window, across, window).permute(0, 1, 3, 2, 4)
    best = _highest(blocks.reshape(frames * down * across, window * window), per_window)
    best = best.view(frames, down, across, window, window).permute(0, 1, 3, 2, 4)
    best = best.reshape(frames, down * window, across * window)[:, :rows, :columns]
    return best.reshape(frames, rows * columns)


def _highest(values: Float[Tensor, "b n"], count: int) -> Bool[Tensor, "b n"]:
    """Mask of the `count` highest values a row, the lowest index first among equals."""
    order = values.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, order, True)


def _check_maps(local: Tensor, deep: Tensor, grid: Grid) -> None:
    if local.shape != deep.shape or local.shape[1] != grid[0] * grid[1]:
        raise InvalidFeatures(
            f"attention maps have shapes {tuple(local.shape)} and {tuple(deep.shape)}, expected "
            f"{grid[0] * grid[1]} columns in both for grid {grid}; pass the tokens' own grid"
        )
    finite = torch.isfinite(local) & torch.isfinite(deep)
    if not bool(finite.all()):
        frame, token = (~finite).nonzero()[0].tolist()
        raise InvalidFeatures(
            f"attention of token {token} of frame {frame} is NaN or infinite, expected finite "
            "values; check the vision tower's output"
        )
