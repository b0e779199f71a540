"""What AOT is compared with: published reducers in the seam of all, at exact budgets.

Frames' features in, tokens out; each peer keeps exactly `retention` of a clip's pooled tokens, to
the nearest token. Those that decide frame by frame are causal and can be pushed; those that need
the whole clip say so when they are pushed. Their constants are keyword arguments.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aot.config import AOTConfig
from aot.errors import InvalidConfig, NotIncremental
from aot.reducers.cells import (
    CellFeatures,
    Kept,
    OneClip,
    count_clip,
    count_frame,
    pool_features,
    to_clip_tokens,
)
from aot.reducers.peers_spatial import merge_clip, zip_frame
from aot.reducers.peers_temporal import merge_segments, prune_static
from aot.types import ClipTokens, FrameFeatures, Grid

ReduceFrame = Callable[[CellFeatures, int, int], Kept]
"""(frames, step, position of that frame in its clip) -> what is kept of the frame."""
ReduceClip = Callable[[CellFeatures, int], Kept]
"""(all frames of a clip, budget in tokens) -> what is kept."""


class FrameReducer:
    """Reduces every frame by itself; all the state is the position. See `Reducer`."""

    def __init__(self, config: AOTConfig, reduce: ReduceFrame) -> None:
        self.config = config
        self._reduce = reduce

    def describe(self) -> dict[str, Any]:
        """See `Reducer.describe`."""
        return {"reducer": type(self).__name__, "version": 1}

    def push_many(
        self, features: Sequence[FrameFeatures], states: Sequence[OneClip | None]
    ) -> list[tuple[ClipTokens, OneClip]]:
        """Take the next frames of several clips, each with its own state (None opens one)."""
        return [self._push(clip, state) for clip, state in zip(features, states, strict=True)]

    def finish(self, state: OneClip, dtype: torch.dtype = torch.float32) -> ClipTokens:
        """Nothing: every token came out at once."""
        none = state.cell[:0]
        return ClipTokens(
            tokens=state.anchors[:0].to(dtype), frame=none, cell=none, mass=state.mass[:0],
            kind=none.to(torch.uint8), grid=state.pooled_grid,
        )  # fmt: skip

    def compress_clips(self, features: Sequence[FrameFeatures]) -> list[ClipTokens]:
        """Whole clips in reading order."""
        return [tokens for tokens, _ in self.push_many(features, [None] * len(features))]

    def _push(self, clip: FrameFeatures, state: OneClip | None) -> tuple[ClipTokens, OneClip]:
        cells = pool_features(clip, self.config)
        begun, frames = (state.position if state else 0), len(cells.tokens)
        parts = [self._reduce(cells, step, begun + step) for step in range(frames)]
        names = ("tokens", "frame", "cell", "mass")
        kept = Kept(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
        none = kept.cell[:0]
        left = OneClip(kept.tokens[:0], none, kept.mass[:0], 0, begun + frames, cells.grid)
        return to_clip_tokens(kept, cells, begun), left


class WholeClipReducer:
    """Reduces a clip as a whole: it can be compressed, not pushed."""

    def __init__(self, config: AOTConfig, retention: float, reduce: ReduceClip) -> None:
        self.config = config
        self._retention, self._reduce = retention, reduce

    def describe(self) -> dict[str, Any]:
        """See `Reducer.describe`."""
        return {"reducer": type(self).__name__, "version": 1}

    def push_many(
        self, features: Sequence[FrameFeatures], states: Sequence[OneClip | None]
    ) -> list[tuple[ClipTokens, OneClip]]:
        """Always raises.

        Raises:
            NotIncremental: the method ranks the tokens of all frames together.
        """
        raise NotIncremental(
            "this reducer ranks the tokens of a whole clip, got a push of some of its frames; "
            "use compress_clips, or a causal reducer for live streams"
        )

    def finish(self, state: OneClip, dtype: torch.dtype = torch.float32) -> ClipTokens:
        """Always raises, as `push_many` does."""
        self.push_many([], [])
        raise AssertionError("push_many raises")

    def compress_clips(self, features: Sequence[FrameFeatures]) -> list[ClipTokens]:
        """Whole clips in reading order."""
        return [self._compress(clip) for clip in features]

    def _compress(self, clip: FrameFeatures) -> ClipTokens:
        cells = pool_features(clip, self.config)
        budget = count_clip(self._retention, cells.attention.numel())
        return to_clip_tokens(self._reduce(cells, budget), cells)


def make_visionzip(
    retention: float, config: AOTConfig, seed: int = 0, *, contextual_share: float = 10 / 64
) -> FrameReducer:
    """VisionZip; see `aot.reducers.peers_spatial.zip_frame`."""
    _check_share("contextual_share", contextual_share)

    def reduce(cells: CellFeatures, step: int, position: int) -> Kept:
        budget = count_frame(retention, cells.attention.shape[1], position)
        return zip_frame(cells, step, budget, contextual_share)

    return FrameReducer(config, reduce)


def make_tome(
    retention: float, config: AOTConfig, seed: int = 0, *, step_share: float = 0.5
) -> WholeClipReducer:
    """ToMe over a clip; see `aot.reducers.peers_spatial.merge_clip`."""
    _check_share("step_share", step_share)
    return WholeClipReducer(config, retention, partial(merge_clip, step_share=step_share))


def make_temporal_difference(
    retention: float, config: AOTConfig, seed: int = 0, *, first_share: float = 0.25
) -> WholeClipReducer:
    """EVS and DTD; see `aot.reducers.peers_temporal.prune_static`."""
    _check_share("first_share", first_share)
    return WholeClipReducer(config, retention, partial(prune_static, first_share=first_share))


def make_holitom(
    retention: float,
    config: AOTConfig,
    seed: int = 0,
    *,
    static_similarity: float = 0.8,
    contextual_share: float = 10 / 64,
) -> WholeClipReducer:
    """HoliTom-like; see `aot.reducers.peers_temporal.merge_segments`."""
    _check_share("static_similarity", static_similarity)
    _check_share("contextual_share", contextual_share)
    reduce = partial(
        merge_segments, static_similarity=static_similarity, contextual_share=contextual_share
    )
    return WholeClipReducer(config, retention, reduce)


def make_frame_skip(retention: float, config: AOTConfig, seed: int = 0) -> FrameReducer:
    """Whole frames, evenly spread over `config.clip_frames`; the last one in part, thinned."""

    def reduce(cells: CellFeatures, step: int, position: int) -> Kept:
        num_cells = cells.attention.shape[1]
        budget = count_clip(retention, config.clip_frames * num_cells)
        chosen = -(-budget // num_cells)
        middles = [(2 * k + 1) * config.clip_frames // (2 * chosen) for k in range(chosen)]
        at = position % config.clip_frames
        count = num_cells if at in middles else 0
        if chosen and at == middles[-1]:
            count = budget - (chosen - 1) * num_cells
        cell = (torch.arange(count) * num_cells + num_cells // 2).div(
            max(count, 1), rounding_mode="floor"
        )
        cell = cell.to(cells.tokens.device)
        mass = config.clip_frames * num_cells / budget
        return _kept(cells.tokens[step][cell], step, cell, mass)

    return FrameReducer(config, reduce)


def make_mean_pool(retention: float, config: AOTConfig, seed: int = 0) -> FrameReducer:
    """A coarser grid per frame, by average pooling; grids alternate to come near the retention."""

    def reduce(cells: CellFeatures, step: int, position: int) -> Kept:
        rows, columns = _coarse_grid(cells.grid, retention, position)
        image = cells.tokens[step].mT.unflatten(1, cells.grid)
        pooled = F.adaptive_avg_pool2d(image, (rows, columns)).flatten(1).mT
        down, across = (
            (2 * torch.arange(n, device=pooled.device) + 1) * size // (2 * n)
            for n, size in ((rows, cells.grid[0]), (columns, cells.grid[1]))
        )
        cell = (down[:, None] * cells.grid[1] + across[None]).flatten()
        return _kept(pooled, step, cell, cells.attention.shape[1] / (rows * columns))

    return FrameReducer(config, reduce)


def _coarse_grid(grid: Grid, retention: float, position: int) -> Grid:
    """The grid, nearly as oblong as `grid`, that brings the tokens so far nearest to the budget."""
    num_cells = grid[0] * grid[1]
    sizes = _grids(grid)
    spent = 0
    size = sizes[0]
    for frame in range(position + 1):
        wanted = retention * num_cells * (frame + 1) - spent
        size = min(sizes, key=lambda s: abs(s[0] * s[1] - wanted))
        spent += size[0] * size[1]
    return size


def _grids(grid: Grid) -> list[Grid]:
    """Coarser grids by their number of cells, each side shrunk alike or one row more."""
    sizes = {}
    for rows in range(1, grid[0] + 1):
        near = rows * grid[1] / grid[0]
        for columns in {max(1, int(near)), min(grid[1], int(near) + 1)}:
            sizes[rows * columns] = (rows, columns)
    return [sizes[count] for count in sorted(sizes)]


def _kept(tokens: Tensor, step: int, cell: Tensor, mass: float) -> Kept:
    return Kept(tokens, torch.full_like(cell, step), cell, torch.full_like(tokens[:, 0], mass))


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InvalidConfig(f"{name} must be within [0, 1], got {value}")


PEERS: dict[str, Callable[..., FrameReducer | WholeClipReducer]] = {
    "frame_skip": make_frame_skip,
    "mean_pool": make_mean_pool,
    "visionzip": make_visionzip,
    "tome": make_tome,
    "temporal_difference": make_temporal_difference,
    "holitom": make_holitom,
}
"""Peers by name: (retention, config, seed, **constants)."""
