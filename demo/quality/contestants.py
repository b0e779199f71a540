"""Who takes part in `aot bench quality`, with which constants, and how budgets are made equal.

A contestant is a name, constants and a retention; `open_contestant` gives the function that reduces
clips. Most reducers keep exact numbers of tokens. The reference does not: what it keeps hangs on
how its anchors lie together. Its dials are therefore turned until it keeps the target on the clips
themselves, which takes no answers. `CHOSEN` was found by `python -m demo.quality.choose`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from aot import (
    AOTConfig,
    ClipCompressor,
    ClipTokens,
    FrameFeatures,
    make_reducer,
    pool_mask,
    select_anchors,
)
from aot.reducers.adaptive import make_adaptive
from aot.reducers.peers import PEERS
from demo.miniature.model import CELLS, PATCHES
from demo.quality.evaluate import FRAMES

Reduce = Callable[[Sequence[FrameFeatures]], list[ClipTokens]]
Constants = Mapping[str, Any]

GRID = (PATCHES, PATCHES)
TOKENS_PER_CLIP = FRAMES * CELLS * CELLS
CONTESTANTS = (
    "none", "random", "uniform", "frame_skip", "mean_pool", "tome", "visionzip",
    "temporal_difference", "holitom", "aot", "aot_cost", "adaptive", "adaptive_contrast",
)  # fmt: skip
"""All that take part; `aot` is the exact reference, `aot_cost` the same with its absolute keep
rule, `adaptive` the project's own, `adaptive_contrast` the same with a signal that is nearly an
oracle on these scenes."""

CHOSEN: dict[str, Constants] = {
    "visionzip": {"contextual_share": 0.0},
    "tome": {"step_share": 0.05},
    "temporal_difference": {"first_share": 0.25},
    "holitom": {"static_similarity": 0.65, "contextual_share": 0.0},
    "aot": {"window": 7, "distinct_fraction": 0.5},
    "aot_cost": {"anchor_share": 2.5, "temporal_scale": 1.0},
    "adaptive_contrast": {
        "powers": {"attention": 0.25, "novelty": 1.0, "contrast": 0.5},
        "threshold": 0.25,
    },
}
"""Constants of each contestant, where they are not its defaults."""

_WIDEST = 2.0
"""Largest cosine distance."""
_TURNS = 11
"""Halvings of a dial's range: 1 in 2048 of it."""


def open_contestant(
    name: str,
    retention: float,
    calibration: Sequence[FrameFeatures],
    constants: Constants | None = None,
) -> Reduce:
    """The contestant as a function of clips; `constants` take the place of those chosen.

    `calibration` are clips to match the budget on, where the method does not hit it by itself.
    """
    given = dict(CHOSEN.get(name, {}) if constants is None else constants)
    config = AOTConfig.for_retention(retention, grid=GRID, clip_frames=FRAMES)
    if retention >= 1:
        return make_reducer("none", 1.0, grid=GRID).compress_clips
    if name == "aot":
        return _match_reference(retention, calibration, given).compress_clips
    if name == "aot_cost":
        return _match_threshold(retention, calibration, given).compress_clips
    if name in ("adaptive", "adaptive_contrast"):
        return make_adaptive(retention, config, **given).compress_clips
    if name in PEERS:
        return PEERS[name](retention, config, **given).compress_clips
    return make_reducer(name, retention, config=config).compress_clips


def measure_retention(reduce: Reduce, clips: Sequence[FrameFeatures]) -> float:
    """Tokens kept over pooled tokens before."""
    kept = sum(len(tokens) for tokens in reduce(clips))
    return kept / (CELLS * CELLS * sum(len(clip.tokens) for clip in clips))


def _match_reference(
    retention: float, clips: Sequence[FrameFeatures], constants: Constants
) -> ClipCompressor:
    """The reference, its anchors turned first, then the share of distinct tokens.

    What it keeps follows from the anchors alone, so that nothing need be merged to count it.
    """
    base = AOTConfig.for_retention(retention, grid=GRID, clip_frames=FRAMES, **constants)

    def with_anchors(value: float) -> AOTConfig:
        return replace(base, anchors_per_frame=max(4, round(value)))

    def count_pooled(config: AOTConfig) -> list[Tensor]:
        return [_count_anchors(clip, config) for clip in clips]

    def measure(config: AOTConfig, counts: Sequence[Tensor]) -> float:
        kept = sum(_count_reference(count, config.distinct_fraction) for count in counts)
        return kept / (TOKENS_PER_CLIP * len(clips))

    most = PATCHES * PATCHES - 1
    coarse = _turn(with_anchors, lambda c: measure(c, count_pooled(c)), 4, most, retention)
    counts = count_pooled(coarse)

    def with_distinct(value: float) -> AOTConfig:
        return replace(coarse, distinct_fraction=value)

    middle = coarse.distinct_fraction
    ends = max(0, middle - 0.4), min(1, middle + 0.2)
    return ClipCompressor(_turn(with_distinct, lambda c: measure(c, counts), *ends, retention))


def _count_anchors(clip: FrameFeatures, config: AOTConfig) -> Tensor:
    """Anchors of every frame after pooling."""
    anchors = select_anchors(clip.local_attention, clip.global_attention, clip.grid, config)
    stride, threshold = config.pool_stride, config.pool_threshold
    pooled = pool_mask(anchors, clip.grid, config.pooling, stride=stride, threshold=threshold)
    return pooled.sum(dim=1)


def _count_reference(anchors: Tensor, fraction: float) -> int:
    """Tokens of a clip: the keyframe's anchors twice, and the distinct ones between.

    A keyframe of one anchor takes all that follows: no plan is more diffuse than another.
    """
    counts = [count for count in anchors.tolist() if count]
    if len(counts) < 2:
        return sum(counts)
    if counts[0] == 1:
        return 2
    return 2 * counts[0] + sum(math.ceil(fraction * (count - 1)) for count in counts[1:])


def _match_threshold(
    retention: float, clips: Sequence[FrameFeatures], constants: Constants
) -> ClipCompressor:
    """The reference with its absolute rule: the threshold on the cost is turned.

    `anchor_share` is what share of a frame's tokens are anchors, over the retention.
    """
    given = dict(constants)
    share = min(1.0, given.pop("anchor_share", 2.0) * retention)
    most = PATCHES * PATCHES - 1
    anchors = min(max(4, round(share * PATCHES * PATCHES)), most)
    base = AOTConfig(anchors_per_frame=anchors, clip_frames=FRAMES, keep_rule="cost", **given)

    def with_threshold(value: float) -> AOTConfig:
        return replace(base, keep_threshold=max(0.0, _WIDEST - value))

    def measure(config: AOTConfig) -> float:
        return measure_retention(ClipCompressor(config).compress_clips, clips)

    return ClipCompressor(_turn(with_threshold, measure, 0.0, _WIDEST, retention))


def _turn(
    build: Callable[[float], AOTConfig],
    measure: Callable[[AOTConfig], float],
    low: float,
    high: float,
    retention: float,
) -> AOTConfig:
    """Halve the range of a dial on which the tokens kept rise; the nearest met on the way."""
    best, error = build(high), math.inf
    for _ in range(_TURNS):
        middle = (low + high) / 2
        tried = build(middle)
        measured = measure(tried)
        if abs(measured - retention) < error:
            best, error = tried, abs(measured - retention)
        low, high = (middle, high) if measured < retention else (low, middle)
    return best
