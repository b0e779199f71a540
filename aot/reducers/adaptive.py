"""The project's own reducer: keyframe anchors that stay what they are, and a budget that follows.

The frame is AOT's: the cells of a clip's keyframe are anchors, later frames are transported onto
them, what no anchor explains comes out at once, the rest is merged, and merged anchors end the
clip. What differs: a mixture of signals decides what matters (`aot.reducers.saliency`), every token
is handed over whole to its cheapest anchor, an anchor only takes small steps towards tokens nearly
like it, and nothing is emitted twice. Causal and incremental; frames in, tokens out.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.config import AOTConfig
from aot.errors import InvalidConfig
from aot.packing import front_rows, take_rows
from aot.reducers.budget import Budget, KeepMode
from aot.reducers.cell_memory import (
    AdaptiveState,
    Frame,
    compare,
    count_slots,
    end_clips,
    learn,
    learn_first,
    open_memory,
)
from aot.reducers.cells import CellBatch, choose_unlike, leave_over, normalise, pool_batch
from aot.reducers.saliency import (
    check_powers,
    find_contrast,
    measure_distances,
    weigh_frames,
    weigh_novelty,
)
from aot.seam import CausalReducer
from aot.types import FeatureBatch, Grid, PackedTokens, TokenKind


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


@dataclass(frozen=True)
class Signals:
    """What is known of frames without those before them."""

    unit: Float[Tensor, "c t p d"]
    """Tokens of length one."""
    weights: Float[Tensor, "c t p"]
    """All signals but novelty."""
    contrast: Float[Tensor, "c t p"]
    left_over: Float[Tensor, "c t p p"]
    """What tokens of a frame leave of each other's scores."""


class AdaptiveReducer(CausalReducer[AdaptiveState]):
    """See the module. `push` gives the same tokens however a clip is cut into pushes."""

    def __init__(
        self, config: AOTConfig, retention: float, rule: AdaptiveRule | None = None
    ) -> None:
        self.config = config
        self.retention = retention
        self.rule = rule or AdaptiveRule()

    def describe(self) -> dict[str, Any]:
        """See `Reducer.describe`."""
        config = {name: getattr(self.config, name) for name in _DECIDING}
        rule = {**asdict(self.rule), "powers": dict(self.rule.powers)}
        return {"reducer": "adaptive", "version": 1, "retention": self.retention, **config, **rule}

    def open_state(
        self, clips: int, grid: Grid, width: int, dtype: torch.dtype, device: torch.device
    ) -> AdaptiveState:
        """See `CausalReducer.open_state`."""
        slots = min(self.rule.memory, self.config.clip_frames)
        return open_memory(clips, slots, grid, width, dtype, device)

    def push_batch(
        self, batch: FeatureBatch, state: AdaptiveState | None = None
    ) -> tuple[PackedTokens, AdaptiveState]:
        """See `CausalReducer.push_batch`."""
        cells = pool_batch(batch, self.config)
        clips, frames, _, width = cells.tokens.shape
        device, dtype = cells.tokens.device, cells.tokens.dtype
        if state is None:
            memory = self.open_state(clips, cells.grid, width, dtype, device)
        else:
            memory = state.map(torch.clone)  # a push writes to nothing it was given
        steps = torch.arange(frames, device=device)
        positions = memory.position[:, None] + steps
        kept, after = self._scan(cells, memory, positions, batch.active, opens=state is None)
        room = self._budget(cells.grid).room_to_emit(frames, opens=state is None)
        packed = _pack(cells, kept, positions, room, batch.tokens.dtype)
        pushed = frames if batch.active is None else batch.active.sum(dim=1)
        return packed, replace(after, position=memory.position + pushed)

    def finish_batch(
        self, state: AdaptiveState, dtype: torch.dtype = torch.float32
    ) -> PackedTokens:
        """Merged anchors, none of which came out before, with the mass of all that did not."""
        budget = self._budget(state.grid)
        left = budget.left(state.position, state.spent).clamp(min=self.rule.merged_tokens)
        memory = state.first(count_slots(state, state.slots))
        return end_clips(memory, left, budget.room_to_finish, dtype)

    def _scan(
        self,
        cells: CellBatch,
        memory: AdaptiveState,
        positions: Int[Tensor, "c t"],
        active: Bool[Tensor, "c t"] | None,
        *,
        opens: bool,
    ) -> tuple[Bool[Tensor, "c t p"], AdaptiveState]:
        """Which tokens come out, and the memory after all frames; `memory` is written to.

        One frame after the other: each is compared with what the ones before it left.
        """
        signals = self._find_signals(cells)
        limits = torch.stack(self._budget(cells.grid).limits(positions))
        distance = measure_distances(cells.grid, cells.tokens.device).to(cells.tokens.dtype)
        offset = 1 + self.rule.position_weight * distance
        kept = []
        for step in range(cells.tokens.shape[1]):
            begins = step == 0 and opens
            novelty, own = None, None
            if not begins:
                most = min(step, memory.slots) if opens else memory.slots
                known = memory.first(count_slots(memory, most))
                novelty, own = compare(known, signals.unit[:, step], offset)
            first = None if begins or step else positions[:, 0] == 0
            score = self._score(signals, step, novelty, first)
            worthy = score > self.rule.threshold
            there = None if active is None else active[:, step]
            count = _count(worthy, limits[:, :, step] - memory.spent, there)
            chosen = choose_unlike(score, signals.left_over[:, step], count, self.rule.spread)
            kept.append(chosen)
            frame = Frame(cells.tokens[:, step], positions[:, step], chosen, worthy, there)
            memory = replace(memory, spent=memory.spent + count)
            if own is None:
                memory = learn_first(memory, frame)
                continue
            memory = learn(
                memory,
                frame,
                own,
                merge_similarity=self.rule.merge_similarity,
                patience=self.rule.patience,
                drops=not opens or step >= memory.slots,
            )
        return torch.stack(kept, dim=1), memory

    def _find_signals(self, cells: CellBatch) -> Signals:
        unit = normalise(cells.tokens)
        contrast = find_contrast(unit)
        weights = weigh_frames(cells, contrast, self.rule.powers)
        return Signals(unit, weights, contrast, leave_over(unit, self.rule.spread))

    def _score(
        self,
        signals: Signals,
        step: int,
        novelty: Float[Tensor, "c p"] | None,
        first: Bool[Tensor, " c"] | None,
    ) -> Float[Tensor, "c p"]:
        """Scores of a frame. In a clip's first frame contrast, brought to the scale of costs,
        stands for novelty: where there is no `novelty`, in all clips, else in those of `first`.
        """
        rule = self.rule
        if novelty is None:
            novelty = rule.keyframe_weight * signals.contrast[:, step]
        elif first is not None:
            opening = rule.keyframe_weight * signals.contrast[:, step]
            novelty = opening.where(first[:, None], novelty)
        return signals.weights[:, step] * weigh_novelty(novelty, rule.novelty_floor, rule.powers)

    def _budget(self, grid: Grid) -> Budget:
        rule = self.rule
        return Budget(
            retention=self.retention,
            clip_frames=self.config.clip_frames,
            num_cells=grid[0] * grid[1],
            advance=rule.advance,
            arrears=rule.arrears,
            keep_mode=rule.keep_mode,
            merged_tokens=rule.merged_tokens,
        )


_DECIDING = ("pooling", "pool_stride", "clip_frames")
"""Fields of `AOTConfig` that decide the tokens of the reducers other than the method's."""


def _count(
    worthy: Bool[Tensor, "c p"], limits: Int[Tensor, "2 c"], active: Bool[Tensor, " c"] | None
) -> Int[Tensor, " c"]:
    """Tokens that a frame emits: those worth it, within the fewest and the most it may."""
    most = limits[1].clamp(min=0, max=worthy.shape[1])
    if active is not None:
        most = most * active
    return worthy.sum(dim=1).clamp(min=limits[0], max=most)


def _pack(
    cells: CellBatch,
    kept: Bool[Tensor, "c t p"],
    positions: Int[Tensor, "c t"],
    room: int,
    dtype: torch.dtype,
) -> PackedTokens:
    """The kept tokens as they are, in reading order."""
    num_cells = cells.tokens.shape[2]
    flat = kept.flatten(1)
    index = front_rows(flat, room)
    frame = positions.gather(1, index.div(num_cells, rounding_mode="floor"))
    finite = torch.isfinite(cells.attention) & torch.isfinite(cells.local_attention)
    finite = finite & torch.isfinite(cells.tokens.sum(dim=3))
    kind = torch.where(frame > 0, int(TokenKind.DISTINCT), int(TokenKind.KEYFRAME))
    return PackedTokens(
        tokens=take_rows(cells.tokens.flatten(1, 2), index).to(dtype),
        frame=frame,
        cell=index % num_cells,
        mass=torch.ones_like(index, dtype=torch.float32),
        kind=kind.to(torch.uint8),
        count=flat.sum(dim=1),
        finite=finite.flatten(1).all(dim=1),
        grid=cells.grid,
    )


def make_adaptive(
    retention: float, config: AOTConfig, seed: int = 0, **constants: Any
) -> AdaptiveReducer:
    """The reducer with `AdaptiveRule(**constants)`."""
    return AdaptiveReducer(config, retention, AdaptiveRule(**constants))
