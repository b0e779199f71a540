"""The constants of the method, each with its default and where it comes from.

"Reference" is the published code (arXiv 2603.01400, TyroneLi/AOT at 88455ee), which decides where
it differs from the paper. One dial, `AOTConfig.for_retention`, derives what most users need.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from aot.errors import InvalidConfig
from aot.retention import PoolingModel, distinct_fraction, tokens_per_frame
from aot.transport import LARGEST_COST_RANGE
from aot.types import Grid, Pooling

KeepRule = Literal["quantile", "plan", "cost"]


@dataclass(frozen=True)
class AOTConfig:
    """All constants of the reduction; frozen, checked once."""

    anchors_per_frame: int | None = 126
    """Tokens kept within a frame before pooling (reference: VISUAL_TOKEN_NUM); None keeps all."""
    global_fraction: float = 0.5
    """Share of the anchors chosen over the whole frame (reference: GLOBAL_RATIO)."""
    window: int = 9
    """Side in patches of the windows whose best tokens are the local anchors."""
    position_weight: float = 0.5
    """Weight of the distance in the frame, in the within-frame cost (reference, literal)."""
    nearest_blend: float = 0.1
    """Share of the nearest-anchor average in a merged anchor; the rest is transport (reference)."""
    epsilon: float = 0.1
    """Entropic regularisation of both transports (reference, literal)."""
    max_iterations: int = 100
    """Limit of Sinkhorn iterations (paper, supplement)."""
    tolerance: float = 1e-2
    """Sinkhorn stops once the mean absolute change of the source scaling is below (reference)."""
    spatial_scale: float = 1.0
    """Lambda of the within-frame merge (reference: a literal 1.0 overwrites INTRA_SCALE)."""
    distinct_fraction: float = 0.3
    """Share of a later frame's tokens kept as distinct (reference: KEEP_RATIO)."""
    time_sigma: float = 1.5
    """Width in frames of the time kernel in the across-frames cost (reference, literal)."""
    temporal_scale: float = 1.0
    """Lambda of the across-frames merge (reference: INTER_SCALE)."""
    clip_frames: int = 8
    """Frames in a clip (reference: 4 of 32 frames, 8 of 64)."""
    merge_frames: bool = True
    """Whether the across-frames stage runs (reference: INTER_COMPRESS)."""
    pooling: Pooling = "bilinear"
    """The model family's pooling: bilinear for LLaVA-OneVision, average for LLaVA-Video."""
    pool_stride: int = 2
    """Factor by which pooling shrinks rows and columns."""
    pool_threshold: float = 0.5
    """A pooled cell is kept when at least this share of it are anchors (reference, literal)."""
    keep_rule: KeepRule = "quantile"
    """How distinct tokens are told. `quantile` is the reference: the same share of every frame.
    The extensions `plan` and `cost` are absolute, so that a static scene keeps few tokens and a
    busy one many: `cost` keeps a token whose cosine distance to the nearest anchor is above
    `keep_threshold`, `plan` one whose best anchor saves less than `keep_threshold` of its mean
    distance to the anchors, as the plan has it (`aot.temporal`)."""
    keep_threshold: float = 0.15
    """The threshold of the two extensions. A higher one keeps fewer tokens by `cost` and more by
    `plan`. In features whose tokens have a mean cosine of 0.8, a still token's nearest anchor is
    0.01 away and saves 0.6 of the mean distance, a new one's is 0.8 away and saves 0.05."""

    def __post_init__(self) -> None:
        if not isinstance(self.merge_frames, bool):
            raise InvalidConfig(f"merge_frames must be true or false, got {self.merge_frames!r}")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None or name != "anchors_per_frame":
                _check_number(name, value, low, high)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InvalidConfig(
                    f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        span = (2 + self.position_weight * math.sqrt(2)) / self.epsilon
        if span > LARGEST_COST_RANGE:
            raise InvalidConfig(
                f"costs span {span:.0f} epsilon with epsilon {self.epsilon} and position_weight "
                f"{self.position_weight}, expected at most {LARGEST_COST_RANGE:.0f}; raise epsilon"
            )

    @classmethod
    def for_retention(
        cls, retention: float, *, grid: Grid = (27, 27), clip_frames: int = 8, **constants
    ) -> "AOTConfig":
        """Constants that keep about `retention` of the pooled tokens of `clip_frames` frames.

        A clip of `t` frames keeps `2 n + (t - 1) ceil(q (n - 1))` tokens, where `n` is what a
        frame keeps and `q` the distinct fraction: `q` grows with the target, then `n` is solved
        for, then the number of anchors from what usually survives pooling (`aot.retention`).
        `anchors_per_frame` or `distinct_fraction`, where given among `constants`, stay, and the
        other follows. Nothing here knows the video: clips cut short keep relatively more, an
        absolute keep rule keeps what it finds; so retention is always measured. 1.0 is the
        identity.

        Raises:
            InvalidConfig: `retention` is not within (0, 1], or a constant cannot be.
        """
        if not 0 < retention <= 1:
            raise InvalidConfig(
                f"retention must be above 0 and at most 1, got {retention}; 0.1 keeps a tenth"
            )
        base = cls(clip_frames=clip_frames, **constants)
        if retention == 1:
            return replace(base, anchors_per_frame=None, merge_frames=False)
        model = PoolingModel(grid, base.pooling, base.pool_stride, base.pool_threshold)
        num_tokens, num_cells = grid[0] * grid[1], model.num_cells
        given = None
        if "anchors_per_frame" in constants:
            share = (base.anchors_per_frame or num_tokens) / num_tokens
            given = model.kept_share(min(share, 1.0)) * num_cells
        if "distinct_fraction" not in constants:
            fraction = distinct_fraction(retention, clip_frames, num_cells, given)
            base = replace(base, distinct_fraction=fraction)
        if given is not None:
            return base
        merged_frames = clip_frames if base.merge_frames else 1
        kept = tokens_per_frame(retention, merged_frames, base.distinct_fraction, num_cells)
        anchors = max(1, round(model.anchor_share(kept / num_cells) * num_tokens))
        return replace(base, anchors_per_frame=None if anchors >= num_tokens else anchors)


def _check_number(name: str, value: object, low: float | int, high: float | int) -> None:
    kinds, noun = (int, "a whole number") if name in _WHOLE else ((int, float), "a number")
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise InvalidConfig(f"{name} must be {noun} within [{low}, {high}], got {value!r}")


_RANGES: tuple[tuple[str, float | int, float | int], ...] = (
    ("anchors_per_frame", 1, 1_000_000),
    ("global_fraction", 0, 1),
    ("window", 1, 10_000),
    ("position_weight", 0, 100),
    ("nearest_blend", 0, 1),
    ("epsilon", 1e-3, 100),
    ("max_iterations", 1, 100_000),
    ("tolerance", 0, 1e6),
    ("spatial_scale", 0, 1e6),
    ("distinct_fraction", 0, 1),
    ("time_sigma", 1e-3, 1e6),
    ("temporal_scale", 0, 1e6),
    ("clip_frames", 1, 32_767),
    ("pool_stride", 1, 1_000),
    ("pool_threshold", 0.01, 1),
    ("keep_threshold", 0, 2),
)
_WHOLE = {"anchors_per_frame", "window", "max_iterations", "clip_frames", "pool_stride"}
_CHOICES = {
    "pooling": ("bilinear", "average", "none"),
    "keep_rule": ("quantile", "plan", "cost"),
}
