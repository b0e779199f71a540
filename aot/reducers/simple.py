"""The simple reducers that AOT is compared with: all cells, every k-th, random ones."""

import torch
from torch import Tensor

from aot.config import AOTConfig
from aot.reducers.cells import count_frame, space_out
from aot.reducers.frames import FrameReducer, keep_places


def make_none(retention: float, config: AOTConfig, seed: int = 0) -> FrameReducer:
    """Keeps all cells."""
    reduce = keep_places(config, lambda position, num_cells: torch.arange(num_cells))
    return FrameReducer(config, reduce, {"reducer": "none", "version": 1}, exact=False)


def make_uniform(retention: float, config: AOTConfig, seed: int = 0) -> FrameReducer:
    """Keeps evenly spread cells."""

    def choose(position: int, num_cells: int) -> Tensor:
        return space_out(num_cells, count_frame(retention, num_cells, position))

    description = {"reducer": "uniform", "version": 1, "retention": retention}
    return FrameReducer(config, keep_places(config, choose), description, exact=False)


def make_random(retention: float, config: AOTConfig, seed: int = 0) -> FrameReducer:
    """Keeps random cells, decided by the seed and the position."""

    def choose(position: int, num_cells: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + position)
        count = count_frame(retention, num_cells, position)
        return torch.randperm(num_cells, generator=generator)[:count].sort().values

    description = {"reducer": "random", "version": 1, "retention": retention, "seed": seed}
    return FrameReducer(config, keep_places(config, choose), description, exact=False)
