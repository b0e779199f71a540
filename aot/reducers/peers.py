"""What AOT is compared with: published reducers in the seam of all, at exact budgets.

Frames' features in, tokens out; each peer keeps exactly `retention` of a clip's pooled tokens, to
the nearest token. Those that decide frame by frame are causal and can be pushed; those that need
the whole clip say so when they are pushed. Their constants are keyword arguments.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from aot.config import AOTConfig
from aot.errors import InvalidConfig, NotIncremental
from aot.reducers.cells import (
    CellBatch,
    CellFeatures,
    Kept,
    count_clip,
    count_frame,
    pool_features,
    space_out,
    to_clip_tokens,
)
from aot.reducers.frames import (
    FrameReducer,
    KeptCells,
    average_places,
    describe_pooling,
    keep_places,
)
from aot.reducers.peers_spatial import merge_clip, zip_frames
from aot.reducers.peers_temporal import merge_segments, prune_static
from aot.types import ClipTokens, FrameFeatures, Grid

ReduceClip = Callable[[CellFeatures, int], Kept]
"""(all frames of a clip, budget in tokens) -> what is kept."""


class WholeClipReducer:
    """Reduces a clip as a whole: it can be compressed, not pushed."""

    def __init__(
        self,
        config: AOTConfig,
        retention: float,
        reduce: ReduceClip,
        description: Mapping[str, Any],
    ) -> None:
        self.config = config
        self._retention, self._reduce = retention, reduce
        self._description = dict(description)

    def describe(self) -> dict[str, Any]:
        """See `Reducer.describe`."""
        return {**self._description, **describe_pooling(self.config)}

    def push_many(
        self, features: Sequence[FrameFeatures], states: Sequence[Any]
    ) -> list[tuple[ClipTokens, Any]]:
        """Always raises.

        Raises:
            NotIncremental: the method ranks the tokens of all frames together.
        """
        raise NotIncremental(
            "this reducer ranks the tokens of a whole clip, got a push of some of its frames; "
            "use compress_clips, or a causal reducer for live streams"
        )

    def finish(self, state: Any, dtype: torch.dtype = torch.float32) -> ClipTokens:
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
    """VisionZip; see `aot.reducers.peers_spatial.zip_frames`."""
    _check_share("contextual_share", contextual_share)

    @lru_cache(maxsize=8)
    def counts(num_cells: int, device: torch.device) -> tuple[Tensor, int]:
        """Dominant and contextual tokens of a clip's frames, and the most of the latter."""
        budgets = [count_frame(retention, num_cells, at) for at in range(config.clip_frames)]
        merged = [_count_contextual(budget, contextual_share) for budget in budgets]
        kept = [budget - count for budget, count in zip(budgets, merged, strict=True)]
        return torch.tensor([kept, merged]).to(device), max(merged)

    def reduce(cells: CellBatch, position: Int[Tensor, "c t"]) -> KeptCells:
        table, most = counts(cells.tokens.shape[2], cells.tokens.device)
        dominant, contextual = table[:, position % config.clip_frames]
        return zip_frames(cells, dominant, contextual, most)

    constants = {"retention": retention, "contextual_share": contextual_share}
    return FrameReducer(config, reduce, {"reducer": "visionzip", "version": 1, **constants})


def _count_contextual(budget: int, share: float) -> int:
    """Of a frame's budget; one at least where there is more than one token."""
    count = min(round(budget * share), budget)
    return max(count, 1) if budget > 1 and share > 0 else count


def make_tome(
    retention: float, config: AOTConfig, seed: int = 0, *, step_share: float = 0.5
) -> WholeClipReducer:
    """ToMe over a clip; see `aot.reducers.peers_spatial.merge_clip`."""
    _check_share("step_share", step_share)
    constants = {"step_share": step_share}
    return _whole("tome", retention, config, partial(merge_clip, **constants), constants)


def make_temporal_difference(
    retention: float, config: AOTConfig, seed: int = 0, *, first_share: float = 0.25
) -> WholeClipReducer:
    """EVS and DTD; see `aot.reducers.peers_temporal.prune_static`."""
    _check_share("first_share", first_share)
    constants, reduce = {"first_share": first_share}, partial(prune_static, first_share=first_share)
    return _whole("temporal_difference", retention, config, reduce, constants)


def make_holitom(
    retention: float,
    config: AOTConfig,
    seed: int = 0,
    *,
    static_similarity: float = 0.8,
    contextual_share: float = 10 / 64,
) -> WholeClipReducer:
    """HoliTom-like; see `aot.reducers.peers_temporal.merge_segments`."""
    constants = {"static_similarity": static_similarity, "contextual_share": contextual_share}
    for name, value in constants.items():
        _check_share(name, value)
    return _whole("holitom", retention, config, partial(merge_segments, **constants), constants)


def _whole(
    name: str,
    retention: float,
    config: AOTConfig,
    reduce: ReduceClip,
    constants: Mapping[str, float],
) -> WholeClipReducer:
    description = {"reducer": name, "version": 1, "retention": retention, **constants}
    return WholeClipReducer(config, retention, reduce, description)


def make_frame_skip(retention: float, config: AOTConfig, seed: int = 0) -> FrameReducer:
    """Whole frames, evenly spread over `config.clip_frames`; the last one in part, thinned."""
    frames = config.clip_frames

    def choose(position: int, num_cells: int) -> Tensor:
        budget = count_clip(retention, frames * num_cells)
        chosen = -(-budget // num_cells)
        middles = [(2 * k + 1) * frames // (2 * chosen) for k in range(chosen)]
        count = num_cells if position in middles else 0
        if chosen and position == middles[-1]:
            count = budget - (chosen - 1) * num_cells
        return space_out(num_cells, count)

    def weigh(num_cells: int, count: int) -> float:
        return frames * num_cells / count_clip(retention, frames * num_cells)

    description = {"reducer": "frame_skip", "version": 1, "retention": retention}
    return FrameReducer(config, keep_places(config, choose, weigh), description)


def make_mean_pool(retention: float, config: AOTConfig, seed: int = 0) -> FrameReducer:
    """A coarser grid per frame, by average pooling; grids alternate to come near the retention."""

    def choose(position: int, grid: Grid) -> tuple[Tensor, Tensor]:
        coarse = _coarse_grid(grid, retention, position)
        down, across = (
            (2 * torch.arange(n) + 1) * size // (2 * n)
            for n, size in zip(coarse, grid, strict=True)
        )
        images = torch.eye(grid[0] * grid[1]).unflatten(1, grid)
        weights = F.adaptive_avg_pool2d(images, coarse).flatten(1).mT
        return (down[:, None] * grid[1] + across[None]).flatten(), weights

    description = {"reducer": "mean_pool", "version": 1, "retention": retention}
    return FrameReducer(config, average_places(config, choose), description)


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


def _check_share(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InvalidConfig(f"{name} must be a number within [0, 1], got {value!r}")


PEERS: dict[str, Callable[..., FrameReducer | WholeClipReducer]] = {
    "frame_skip": make_frame_skip,
    "mean_pool": make_mean_pool,
    "visionzip": make_visionzip,
    "tome": make_tome,
    "temporal_difference": make_temporal_difference,
    "holitom": make_holitom,
}
"""Peers by name: (retention, config, seed, **constants)."""
