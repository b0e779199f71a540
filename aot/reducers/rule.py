"""The constants of the project's own reducer; see `aot.reducers.adaptive`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from aot.errors import InvalidConfig
from aot.reducers.budget import Budget, KeepMode
from aot.reducers.saliency import check_powers


@dataclass(frozen=True)
class AdaptiveRule:
    """The constants of the reducer; chosen on scenes apart from those reported on."""

    powers: Mapping[str, float] = field(default_factory=lambda: {"attention": 0.25, "novelty": 1.0})
    """Power of each signal in the score of a token."""
    position_weight: float = 0.25
    """Weight of the distance in the frame in the cost of transport."""
    novelty_floor: float = 0.1
    """How much a token counts that is not new at all; above 0, attended things are kept again."""
    keyframe_weight: float = 0.7
    """Weight of contrast in a clip's first frame, where nothing came before to be new against."""
    threshold: float = 0.35
    """Score from which on a token is worth keeping."""
    advance: float = 0.2
    """Share of a clip's budget that may be spent before its time."""
    arrears: float = 0.05
    """Share of a clip's budget that a quiet stretch may leave unspent for later frames. Much of it
    leaves frames with hardly a token and the last ones nearly whole, which costs answers."""
    keep_mode: KeepMode = "budget"
    """`budget` keeps the number of tokens asked for; `absolute` no more than are worth it."""
    merge_similarity: float = 0.75
    """Cosine from which on a token is merged into an anchor of its cell; below, it becomes one."""
    spread: float = 0.3
    """How much of the score of the others in its frame a kept token takes away, as far as they are
    like it: where the budget is short, every thing is told before one is told by all its tokens."""
    memory: int = 8
    """States of a cell that are remembered through a clip, each an anchor: what a cell has shown
    before is not new when it comes back, as background does behind whatever passes."""
    patience: float = 8.0
    """Tokens after which an anchor stops growing heavier: its smallest step is one over this."""
    merged_tokens: int = 1
    """Merged anchors that end a clip, at least; they carry the mass of all that was not kept."""

    def __post_init__(self) -> None:
        check_powers(self.powers)
        for name, low, high in _RANGES:
            value = getattr(self, name)
            kinds, noun = (int, "a whole number") if name in _WHOLE else ((int, float), "a number")
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
                raise InvalidConfig(f"{name} must be {noun} within [{low}, {high}], got {value!r}")
        if self.keep_mode not in ("budget", "absolute"):
            raise InvalidConfig(f"keep_mode must be budget or absolute, got {self.keep_mode!r}")

    def budget(self, retention: float, clip_frames: int, num_cells: int) -> Budget:
        """Of clips of so many frames, whose cells are to be kept to `retention`."""
        return Budget(
            retention=retention,
            clip_frames=clip_frames,
            num_cells=num_cells,
            advance=self.advance,
            arrears=self.arrears,
            keep_mode=self.keep_mode,
            merged_tokens=self.merged_tokens,
        )


_RANGES = (
    ("position_weight", 0, 100),
    ("novelty_floor", 0, 100),
    ("keyframe_weight", 0, 100),
    ("threshold", 0, math.inf),
    ("advance", 0, 1),
    ("arrears", 0, 1),
    ("merge_similarity", -1, 1),
    ("spread", 0, 1),
    ("memory", 1, 1_000_000),
    ("patience", 1, 1e6),
    ("merged_tokens", 1, 1_000_000),
)
_WHOLE = {"memory", "merged_tokens"}
