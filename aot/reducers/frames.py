"""Reducers that decide frame by frame: what is kept of a frame depends on it and on its position.

All frames of all clips at once, in fixed shapes; the only state is the position. Where a choice
depends on the position alone it is a table, made once, of a clip's frames; a clip that is longer
than `AOTConfig.clip_frames` begins the table again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.config import AOTConfig
from aot.packing import front_rows, take_rows
from aot.reducers.cells import CellBatch, count_up, pool_batch
from aot.seam import CausalReducer
from aot.types import ClipState, FeatureBatch, Grid, PackedTokens, TokenKind


@dataclass(frozen=True)
class KeptCells:
    """What is kept of frames: a token at some of their cells."""

    kept: Bool[Tensor, "c t p"]
    tokens: Float[Tensor, "c t p d"]
    mass: Float[Tensor, "c t p"]
    """Pooled input tokens that each stands for."""


ReduceFrames = Callable[[CellBatch, Int[Tensor, "c t"]], KeptCells]
"""(frames, the position of each in its clip) -> what is kept of each."""


class FrameReducer(CausalReducer[ClipState]):
    """Reduces every frame by itself; all the state is the position. See `Reducer`."""

    def __init__(
        self,
        config: AOTConfig,
        reduce: ReduceFrames,
        description: Mapping[str, Any],
        *,
        exact: bool = True,
    ) -> None:
        self.config = config
        self._reduce, self._exact = reduce, exact
        self._description = dict(description)

    def describe(self) -> dict[str, Any]:
        """See `Reducer.describe`."""
        return {**self._description, **describe_pooling(self.config)}

    def open_state(
        self, clips: int, grid: Grid, width: int, dtype: torch.dtype, device: torch.device
    ) -> ClipState:
        """See `CausalReducer.open_state`."""
        return ClipState(grid, width, torch.zeros(clips, dtype=torch.int64, device=device))

    def push_batch(
        self, batch: FeatureBatch, state: ClipState | None = None
    ) -> tuple[PackedTokens, ClipState]:
        """See `CausalReducer.push_batch`."""
        cells = pool_batch(batch, self.config, exact=self._exact)
        clips, frames, num_cells, width = cells.tokens.shape
        device, dtype = cells.tokens.device, cells.tokens.dtype
        begun = state or self.open_state(clips, cells.grid, width, dtype, device)
        position = begun.position[:, None] + count_up(frames, device)
        result = self._reduce(cells, position)
        kept = result.kept if batch.active is None else result.kept & batch.active[..., None]
        index = front_rows(kept.flatten(1), frames * num_cells)
        frame = position.gather(1, index.div(num_cells, rounding_mode="floor"))
        kind = torch.where(frame == 0, int(TokenKind.KEYFRAME), int(TokenKind.DISTINCT))
        total = cells.tokens.sum(dim=3) + cells.attention + cells.local_attention
        packed = PackedTokens(
            tokens=take_rows(result.tokens.flatten(1, 2), index).to(batch.tokens.dtype),
            frame=frame,
            cell=index % num_cells,
            mass=take_rows(result.mass.flatten(1), index).float(),
            kind=kind.to(torch.uint8),
            count=kept.flatten(1).sum(dim=1),
            finite=torch.isfinite(total.flatten(1)).all(dim=1),
            grid=cells.grid,
        )
        pushed = frames if batch.active is None else batch.active.sum(dim=1)
        return packed, ClipState(cells.grid, width, begun.position + pushed)


def describe_pooling(config: AOTConfig) -> dict[str, Any]:
    """The constants that decide the tokens of every reducer: of the cells, and of a clip."""
    names = ("pooling", "pool_stride", "clip_frames")
    return {name: getattr(config, name) for name in names}


def keep_places(
    config: AOTConfig,
    choose: Callable[[int, int], Int[Tensor, " k"]],
    weigh: Callable[[int, int], float] = lambda num_cells, count: num_cells / max(count, 1),
) -> ReduceFrames:
    """Keeps cells as they are that `choose(position, num_cells)` gives, rising.

    Each stands for `weigh(num_cells, number of the kept)`; unless given, they share the frame.
    """

    @lru_cache(maxsize=8)
    def table(num_cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
        kept = torch.zeros(config.clip_frames, num_cells, dtype=torch.bool)
        mass = torch.zeros(config.clip_frames, num_cells)
        for position in range(config.clip_frames):
            cell = choose(position, num_cells)
            kept[position, cell], mass[position] = True, weigh(num_cells, len(cell))
        return kept.to(device), mass.to(device)

    def reduce(cells: CellBatch, position: Int[Tensor, "c t"]) -> KeptCells:
        kept, mass = table(cells.tokens.shape[2], cells.tokens.device)
        row = position % config.clip_frames
        return KeptCells(kept[row], cells.tokens, mass[row])

    return reduce


def average_places(
    config: AOTConfig, choose: Callable[[int, Grid], tuple[Int[Tensor, " k"], Float[Tensor, "k p"]]]
) -> ReduceFrames:
    """Keeps averages of cells: `choose(position, grid)` gives the cells at which they are kept,
    rising, and the weights of all cells in each. Together they stand for the frame.
    """

    @lru_cache(maxsize=8)
    def table(grid: Grid, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        num_cells = grid[0] * grid[1]
        weights = torch.zeros(config.clip_frames, num_cells, num_cells)
        kept = torch.zeros(config.clip_frames, num_cells, dtype=torch.bool)
        for position in range(config.clip_frames):
            cell, rows = choose(position, grid)
            weights[position, cell], kept[position, cell] = rows, True
        mass = (num_cells / kept.sum(dim=1, keepdim=True)).expand(-1, num_cells).contiguous()
        return kept.to(device), weights.to(device), mass.to(device)

    def reduce(cells: CellBatch, position: Int[Tensor, "c t"]) -> KeptCells:
        kept, weights, mass = table(cells.grid, cells.tokens.device)
        row = position % config.clip_frames
        return KeptCells(kept[row], weights[row].to(cells.tokens.dtype) @ cells.tokens, mass[row])

    return reduce
