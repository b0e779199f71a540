"""The constants of the method, each with its default and where it comes from.

"Reference" is the published code (arXiv 2603.01400, TyroneLi/AOT at 88455ee), which decides where
it differs from the paper. One dial, `AOTConfig.for_retention`, derives what most users need.
"""

from dataclasses import dataclass, replace
from typing import Literal

from aot.errors import InvalidConfig
from aot.types import Grid

Pooling = Literal["bilinear", "average", "none"]
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
    """How distinct tokens are told: `quantile` is the reference. Extensions: `plan` keeps a token
    whose largest plan share is below `keep_threshold`, `cost` one whose cosine distance to every
    anchor is above it; then a static scene keeps few tokens and a busy one many."""
    keep_threshold: float = 0.3
    """The absolute threshold of the two extensions."""

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InvalidConfig(f"{name} must be within [{low}, {high}], got {value}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InvalidConfig(
                    f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )

    @classmethod
    def for_retention(
        cls, retention: float, *, grid: Grid = (27, 27), clip_frames: int = 8, **constants
    ) -> "AOTConfig":
        """Constants that keep about `retention` of the pooled tokens of `clip_frames` frames.

        A clip keeps `n (2 + q (t - 1))` tokens, where `n` is what a frame keeps and `q` the
        distinct fraction, so both follow from the target: `q` grows with it, then `n` is solved
        for. Clips cut short keep relatively more. What is really kept is always measured.
        1.0 is the identity.

        Raises:
            InvalidConfig: `retention` is not within (0, 1].
        """
        if not 0 < retention <= 1:
            raise InvalidConfig(f"retention must be above 0 and at most 1, got {retention}")
        base = cls(clip_frames=clip_frames, **constants)
        if retention == 1:
            return replace(base, anchors_per_frame=None, merge_frames=False)
        later = clip_frames - 1
        if "distinct_fraction" not in constants:
            fraction = max(min(0.1 + retention, 1.0), (retention * clip_frames - 2) / max(later, 1))
            base = replace(base, distinct_fraction=min(fraction, 1.0))
        copies = 2 if later else 1
        kept_share = retention * clip_frames / (copies + base.distinct_fraction * later)
        num_tokens = grid[0] * grid[1]
        share = min(kept_share / _SURVIVING, 1.0) if base.pooling != "none" else min(kept_share, 1)
        anchors = max(1, min(num_tokens, round(share * num_tokens)))
        return replace(base, anchors_per_frame=None if anchors == num_tokens else anchors)


#: Share of a frame's anchors that is still there after pooling: an isolated anchor disappears.
#: Between unsmoothed (0.83) and smoothed (0.97) attention at 126 of 729 anchors.
_SURVIVING = 0.9

_RANGES: tuple[tuple[str, float, float], ...] = (
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
    ("pool_threshold", 0, 1),
    ("keep_threshold", 0, 2),
)
_CHOICES = {
    "pooling": ("bilinear", "average", "none"),
    "keep_rule": ("quantile", "plan", "cost"),
}
