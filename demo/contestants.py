"""Who takes part in `aot bench quality`, with which constants, and how budgets are made equal.

A contestant is a name, constants and a retention; `open_contestant` gives the function that
reduces clips. Most reducers keep exact numbers of tokens. The reference does not: what it keeps
hangs on how its anchors lie together. Its dials are therefore turned until it keeps the target
on the clips themselves, which takes no answers. `CHOSEN` was found by `python -m demo.choose`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aot import AOTConfig, ClipCompressor, ClipTokens, FrameFeatures, make_reducer
from aot.adaptive import make_adaptive
from aot.peers import PEERS
from demo.evaluate import FRAMES
from demo.model import CELLS, PATCHES

Reduce = Callable[[Sequence[FrameFeatures]], list[ClipTokens]]
Constants = Mapping[str, Any]

GRID = (PATCHES, PATCHES)
TOKENS_PER_CLIP = FRAMES * CELLS * CELLS
CONTESTANTS = (
    "none", "random", "uniform", "frame_skip", "mean_pool", "tome", "visionzip",
    "temporal_difference", "holitom", "aot", "aot_cost", "adaptive",
)  # fmt: skip
"""All that take part; `aot` is the exact reference, `aot_cost` the same with its absolute keep
rule, `adaptive` the project's own."""

CHOSEN: dict[str, Constants] = {}
"""Constants of each contestant, where they are not its defaults."""

_TURNS = 16
"""Halvings of a dial's range."""


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
    if name == "adaptive":
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
    """The reference, its anchors turned first, then the share of distinct tokens."""
    base = AOTConfig.for_retention(retention, grid=GRID, clip_frames=FRAMES, **constants)
    most = PATCHES * PATCHES

    def with_anchors(value: float) -> ClipCompressor:
        return ClipCompressor(replace(base, anchors_per_frame=max(4, round(value))))

    coarse = _turn(with_anchors, 4, most, retention, clips)

    def with_distinct(value: float) -> ClipCompressor:
        return ClipCompressor(replace(coarse.config, distinct_fraction=value))

    wanted = coarse.config.distinct_fraction
    return _turn(with_distinct, max(0, wanted - 0.2), min(1, wanted + 0.2), retention, clips)


def _match_threshold(
    retention: float, clips: Sequence[FrameFeatures], constants: Constants
) -> ClipCompressor:
    """The reference with its absolute rule: the threshold on the cost is turned.

    `anchor_share` is what share of a frame's tokens are anchors, over the retention.
    """
    given = dict(constants)
    share = min(1.0, given.pop("anchor_share", 2.0) * retention)
    anchors = max(4, round(share * PATCHES * PATCHES))
    base = AOTConfig(
        anchors_per_frame=min(anchors, PATCHES * PATCHES - 1), clip_frames=FRAMES,
        keep_rule="cost", **given,
    )  # fmt: skip

    def with_threshold(value: float) -> ClipCompressor:
        return ClipCompressor(replace(base, keep_threshold=2 - value))

    return _turn(with_threshold, 0.0, 2.0, retention, clips)


def _turn(
    build: Callable[[float], ClipCompressor],
    low: float,
    high: float,
    retention: float,
    clips: Sequence[FrameFeatures],
) -> ClipCompressor:
    """Halve the range of a dial on which the tokens kept rise; the nearest met on the way."""
    best, error = build(high), float("inf")
    for _ in range(_TURNS):
        middle = (low + high) / 2
        tried = build(middle)
        measured = measure_retention(tried.compress_clips, clips)
        if abs(measured - retention) < error:
            best, error = tried, abs(measured - retention)
        low, high = (middle, high) if measured < retention else (low, middle)
    return best
