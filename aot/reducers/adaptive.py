"""The project's own reducer: keyframe anchors that stay what they are, and a budget that follows.

The frame is AOT's: the cells of a clip's keyframe are anchors, later frames are transported onto
them, what no anchor explains comes out at once, the rest is merged, and merged anchors end the
clip. What differs: a mixture of signals decides what matters (`aot.reducers.saliency`), every token
is handed over whole to its cheapest anchor, an anchor only takes small steps towards tokens nearly
like it, and nothing is emitted twice. Causal and incremental; frames in, tokens out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aot.config import AOTConfig
from aot.errors import InvalidConfig, InvalidFeatures
from aot.reducers.cell_memory import (
    Anchors,
    choose_merged,
    find_known,
    hand_over,
    learn_frame,
    read_state,
    write_state,
)
from aot.reducers.cells import CellFeatures, OneClip, highest_unlike, normalise, pool_features
from aot.reducers.saliency import FrameView, check_powers, measure_distances, mix_signals
from aot.temporal import concatenate
from aot.types import ClipTokens, FrameFeatures, TokenKind

KeepMode = Literal["budget", "absolute"]


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
            if not low <= value <= high:
                raise InvalidConfig(f"{name} must be within [{low}, {high}], got {value}")
        if self.keep_mode not in ("budget", "absolute"):
            raise InvalidConfig(f"keep_mode must be budget or absolute, got {self.keep_mode!r}")


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


class AdaptiveReducer:
    """See the module. `push` gives the same tokens however a clip is cut into pushes."""

    def __init__(
        self, config: AOTConfig, retention: float, rule: AdaptiveRule | None = None
    ) -> None:
        self.config = config
        self.retention = retention
        self.rule = rule or AdaptiveRule()

    def describe(self) -> dict[str, Any]:
        """See `Reducer.describe`."""
        return {"reducer": "adaptive", "version": 1}

    def push_many(
        self, features: Sequence[FrameFeatures], states: Sequence[OneClip | None]
    ) -> list[tuple[ClipTokens, OneClip]]:
        """Take the next frames of several clips, each with its own state (None opens one).

        Raises:
            InvalidFeatures: no frames, NaN or infinity, or a state of another grid or width.
        """
        return [self._push(clip, state) for clip, state in zip(features, states, strict=True)]

    def finish(self, state: OneClip, dtype: torch.dtype = torch.float32) -> ClipTokens:
        """Merged anchors, none of which came out before, with the mass of all that did not."""
        anchors = read_state(state)
        waiting = bool((anchors.mass > 0).any())
        count = max(self._left(anchors), self.rule.merged_tokens) if waiting else 0
        chosen = choose_merged(anchors, count)
        mass = hand_over(anchors, chosen)
        return ClipTokens(
            tokens=anchors.tokens[chosen].to(dtype),
            frame=torch.full_like(chosen, state.keyframe),
            cell=anchors.cell[chosen],
            mass=mass,
            kind=torch.full_like(chosen, int(TokenKind.MERGED)).to(torch.uint8),
            grid=state.pooled_grid,
        )

    def compress_clips(self, features: Sequence[FrameFeatures]) -> list[ClipTokens]:
        """Whole clips in reading order."""
        pushed = self.push_many(features, [None] * len(features))
        return [
            concatenate([emitted, self.finish(state, emitted.tokens.dtype)])
            for emitted, state in pushed
        ]

    def _push(self, clip: FrameFeatures, state: OneClip | None) -> tuple[ClipTokens, OneClip]:
        cells = pool_features(clip, self.config)
        anchors = None if state is None else read_state(state)
        _check_state(anchors, cells)
        parts = []
        for step in range(len(cells.tokens)):
            # One frame after the other: each is compared with what the ones before it left.
            score = self._score(cells, step, anchors)
            kept = self._keep(score, cells.tokens[step], anchors)
            parts.append(_emit(cells, step, kept, anchors))
            anchors = learn_frame(
                cells.tokens[step], kept, score > self.rule.threshold, anchors, cells.grid,
                merge_similarity=self.rule.merge_similarity, patience=self.rule.patience,
                memory=self.rule.memory,
            )  # fmt: skip
        assert anchors is not None  # there is at least one frame
        return concatenate(parts), write_state(anchors)

    def _score(self, cells: CellFeatures, step: int, anchors: Anchors | None) -> Tensor:
        known, away = None, None
        if anchors is not None:
            rows = find_known(anchors)
            known = normalise(anchors.tokens[rows].to(cells.tokens.dtype))
            distance = measure_distances(cells.grid, cells.tokens.device)
            away = distance[:, anchors.cell[rows]].to(cells.tokens.dtype)
        view = FrameView(
            normalise(cells.tokens[step]),
            cells.attention[step],
            cells.local_attention[step],
            known,
            away,
            self.rule.position_weight,
            self.rule.novelty_floor,
            self.rule.keyframe_weight,
        )
        return mix_signals(view, self.rule.powers)

    def _keep(
        self, score: Float[Tensor, " p"], tokens: Float[Tensor, "p d"], anchors: Anchors | None
    ) -> Int[Tensor, " k"]:
        """Cells to emit of the next frame, rising."""
        position, spent = (anchors.position, anchors.spent) if anchors else (0, 0)
        low, high = self._limits(position, len(score), spent)
        worthy = int((score > self.rule.threshold).sum())
        return highest_unlike(score, tokens, min(max(worthy, low), high), self.rule.spread)

    def _limits(self, position: int, num_cells: int, spent: int) -> tuple[int, int]:
        """Fewest and most tokens the frame at `position` may emit, given those spent before.

        A clip's budget comes in evenly, frame by frame. `advance` of the whole may be spent early,
        and up to `arrears` of it may be left for frames that need it more, as long as the frames to
        come have room for it. The tokens that end the clip are set aside.
        """
        if self.retention >= 1:
            return num_cells, num_cells
        rule, clip = self.rule, self.config.clip_frames
        per_frame = self.retention * num_cells
        so_far = position + 1
        early = max(so_far, rule.advance * clip + (1 - rule.advance) * so_far)
        budget = round(per_frame * max(so_far, clip)) - rule.merged_tokens
        high = min(math.floor(per_frame * early), budget) - spent
        high = min(max(high, 0), num_cells)
        if rule.keep_mode == "absolute":
            return 0, high
        late = round(per_frame * (so_far - (rule.arrears * clip if so_far < clip else 0)))
        unspendable = budget - max(clip - so_far, 0) * num_cells
        low = min(max(late, unspendable), budget) - spent
        return min(max(low, 0), high), high

    def _left(self, anchors: Anchors) -> int:
        """Tokens of the budget that the frames have left over."""
        if self.rule.keep_mode == "absolute":
            return 0
        return round(self.retention * anchors.position * anchors.num_cells) - anchors.spent


def _emit(cells: CellFeatures, step: int, kept: Tensor, anchors: Anchors | None) -> ClipTokens:
    position = anchors.position if anchors else 0
    kind = TokenKind.DISTINCT if position else TokenKind.KEYFRAME
    tokens = cells.tokens[step][kept]
    return ClipTokens(
        tokens=tokens.to(cells.dtype),
        frame=torch.full_like(kept, position),
        cell=kept,
        mass=torch.ones_like(tokens[:, 0]).float(),
        kind=torch.full_like(kept, int(kind)).to(torch.uint8),
        grid=cells.grid,
    )


def _check_state(anchors: Anchors | None, cells: CellFeatures) -> None:
    if anchors is None:
        return
    got = (anchors.grid, anchors.tokens.shape[1])
    expected = (cells.grid, cells.tokens.shape[2])
    if got != expected:
        raise InvalidFeatures(
            f"state is of grid and width {got}, expected {expected} as the frames have; "
            "a clip stays with one model"
        )


def make_adaptive(
    retention: float, config: AOTConfig, seed: int = 0, **constants
) -> AdaptiveReducer:
    """The reducer with `AdaptiveRule(**constants)`."""
    return AdaptiveReducer(config, retention, AdaptiveRule(**constants))
