"""Features for the tests of `aot`: a frame's tokens share a direction, as real ones do."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from aot import REDUCERS, FrameFeatures, Grid

WHOLE = ("holitom", "temporal_difference", "tome")
"""Reducers that take whole clips; all others are pushed frames."""
CAUSAL = sorted({*REDUCERS} - {*WHOLE})
SYNC_ERROR = 2
"""What torch calls "error" when it is asked."""


def features(
    frames: int,
    grid: Grid = (9, 9),
    dim: int = 8,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    smooth: bool = True,
    change: float = 0.4,
) -> FrameFeatures:
    """One clip: a still part common to its frames, and `change` times noise that is not."""
    generator = torch.Generator().manual_seed(seed)

    def attention() -> torch.Tensor:
        maps = torch.rand(frames, 1, *grid, generator=generator)
        if smooth:
            maps = F.avg_pool2d(maps, 3, 1, 1, count_include_pad=False)
        return maps.flatten(1).to(dtype)

    num_tokens = grid[0] * grid[1]
    still = torch.randn(dim, generator=generator) + torch.randn(
        num_tokens, dim, generator=generator
    )
    noise = torch.randn(frames, num_tokens, dim, generator=generator)
    return FrameFeatures((still + change * noise).to(dtype), attention(), attention(), grid)


def part(clip: FrameFeatures, start: int, end: int) -> FrameFeatures:
    """Some frames of a clip."""
    return FrameFeatures(
        clip.tokens[start:end],
        clip.local_attention[start:end],
        clip.global_attention[start:end],
        clip.grid,
    )


@contextmanager
def no_waits() -> Iterator[None]:
    """Every wait of the host for a card is an error, while it is entered."""
    torch.cuda.synchronize()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # says once that it does not see every wait
            torch.cuda.set_sync_debug_mode("error")
        yield
        assert torch.cuda.get_sync_debug_mode() == SYNC_ERROR, "waits were allowed again inside"
    finally:
        torch.cuda.set_sync_debug_mode("default")
