"""The simple reducers that AOT is compared with: all cells, every k-th, random ones."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from aot.config import AOTConfig
from aot.pooling import pool_grid, pooled_grid
from aot.reducers.cells import OneClip, count_frame
from aot.seam import Reducer, check_batch
from aot.spatial import check_finite
from aot.temporal import concatenate
from aot.types import ClipTokens, FrameFeatures, Grid, TokenKind


class CellReducer:
    """Keeps chosen cells of every pooled frame as they are; the kept ones share the frame's mass.

    `choose(position, num_cells)` gives the cells of the frame at `position` in its clip, rising.
    """

    def __init__(self, config: AOTConfig, choose: Callable[[int, int], Int[Tensor, " k"]]) -> None:
        self.config = config
        self._choose = choose

    def describe(self) -> dict[str, Any]:
        """See `Reducer.describe`."""
        return {"reducer": type(self).__name__, "version": 1}

    def push_many(
        self, features: Sequence[FrameFeatures], states: Sequence[OneClip | None]
    ) -> list[tuple[ClipTokens, OneClip]]:
        """See `Reducer.push_many`."""
        check_batch(features, states, self.config)
        for clip in features:
            check_finite(torch.linalg.vector_norm(clip.tokens.float(), dim=2))
        return [self._push(clip, state) for clip, state in zip(features, states, strict=True)]

    def finish(self, state: OneClip, dtype: torch.dtype = torch.float32) -> ClipTokens:
        """Nothing: every token came out at once."""
        empty = state.cell[:0]
        return ClipTokens(
            tokens=state.anchors[:0].to(dtype),
            frame=empty,
            cell=empty,
            mass=state.mass[:0],
            kind=empty.to(torch.uint8),
            grid=state.pooled_grid,
        )

    def compress_clips(self, features: Sequence[FrameFeatures]) -> list[ClipTokens]:
        """See `Reducer.compress_clips`."""
        return [tokens for tokens, _ in self.push_many(features, [None] * len(features))]

    def _push(self, clip: FrameFeatures, state: OneClip | None) -> tuple[ClipTokens, OneClip]:
        mode, stride = self.config.pooling, self.config.pool_stride
        grid = pooled_grid(clip.grid, mode, stride=stride)
        pooled = pool_grid(clip.tokens, clip.grid, mode, stride=stride)
        begun = state.position if state else 0
        frames = [self._frame(pooled[step], begun + step, grid) for step in range(pooled.shape[0])]
        dim, position = pooled.shape[2], begun + pooled.shape[0]
        none = torch.zeros(0, dtype=torch.int64, device=pooled.device)
        left = OneClip(pooled.new_zeros(0, dim), none, pooled.new_zeros(0), 0, position, grid)
        return concatenate(frames), left

    def _frame(self, tokens: Tensor, position: int, grid: Grid) -> ClipTokens:
        cell = self._choose(position, grid[0] * grid[1]).to(tokens.device)
        kind = TokenKind.KEYFRAME if position == 0 else TokenKind.DISTINCT
        share = tokens.shape[0] / max(len(cell), 1)
        return ClipTokens(
            tokens=tokens[cell],
            frame=torch.full_like(cell, position),
            cell=cell,
            mass=torch.full(cell.shape, share, device=tokens.device),
            kind=torch.full(cell.shape, kind, dtype=torch.uint8, device=tokens.device),
            grid=grid,
        )


def make_none(retention: float, config: AOTConfig, seed: int) -> Reducer:
    return CellReducer(config, lambda position, num_cells: torch.arange(num_cells))


def make_uniform(retention: float, config: AOTConfig, seed: int) -> Reducer:
    def choose(position: int, num_cells: int) -> Tensor:
        count = count_frame(retention, num_cells, position)
        spread = torch.arange(count) * num_cells + num_cells // 2
        return spread.div(max(count, 1), rounding_mode="floor")

    return CellReducer(config, choose)


def make_random(retention: float, config: AOTConfig, seed: int) -> Reducer:
    def choose(position: int, num_cells: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + position)
        count = count_frame(retention, num_cells, position)
        return torch.randperm(num_cells, generator=generator)[:count].sort().values

    return CellReducer(config, choose)
