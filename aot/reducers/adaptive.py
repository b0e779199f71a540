"""The project's own reducer: keyframe anchors that stay what they are, and a budget that follows.

The frame is AOT's: the cells of a clip's keyframe are anchors, later frames are transported onto
them, what no anchor explains comes out at once, the rest is merged, and merged anchors end the
clip. What differs: a mixture of signals decides what matters (`aot.reducers.saliency`), every token
is handed over whole to its cheapest anchor, an anchor only takes small steps towards tokens nearly
like it, and nothing is emitted twice. Causal and incremental; frames in, tokens out.
"""

from dataclasses import asdict, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.config import AOTConfig
from aot.packing import front_rows, take_rows
from aot.reducers.budget import Budget
from aot.reducers.cell_memory import AdaptiveState, copy_memory, count_slots, end_clips, open_memory
from aot.reducers.cells import CellBatch, count_up, pool_batch
from aot.reducers.frames import describe_pooling
from aot.reducers.fused_scan import fits_kernels, scan_fused
from aot.reducers.rule import AdaptiveRule
from aot.reducers.scan import find_frames, scan_frames
from aot.seam import CausalReducer
from aot.types import FeatureBatch, Grid, PackedTokens, TokenKind


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
        rule = {**asdict(self.rule), "powers": dict(self.rule.powers)}
        pooling = describe_pooling(self.config)
        return {"reducer": "adaptive", "version": 1, "retention": self.retention, **pooling, **rule}

    def open_state(
        self, clips: int, grid: Grid, width: int, dtype: torch.dtype, device: torch.device
    ) -> AdaptiveState:
        """See `CausalReducer.open_state`."""
        return self._open(clips, grid, width, dtype, device, blank=True)

    def push_batch(
        self, batch: FeatureBatch, state: AdaptiveState | None = None
    ) -> tuple[PackedTokens, AdaptiveState]:
        """See `CausalReducer.push_batch`."""
        cells = pool_batch(batch, self.config)
        clips, frames, _, width = cells.tokens.shape
        device, dtype = cells.tokens.device, cells.tokens.dtype
        budget, opens = self._budget(cells.grid), state is None
        if state is None:
            position, limits = budget.limits_of_opening(clips, frames, device)
        else:
            position = state.position[:, None] + count_up(frames, device)
            limits = torch.stack(budget.limits(position))
        given = find_frames(cells, limits, position, batch.active, self.rule, opens=opens)
        fused = fits_kernels(given)  # which make all anchors anew, and write to none
        if state is None:
            memory = self._open(clips, cells.grid, width, dtype, device, blank=not fused)
        else:  # a push writes to nothing it was given
            memory = copy_memory(state, anchors=not fused)
        scan = scan_fused if fused else scan_frames
        kept, after = scan(given, memory, self.rule)
        room = budget.room_to_emit(frames, opens=opens)
        packed = _pack(cells, kept, given.length, position, room, batch.tokens.dtype)
        pushed = frames if batch.active is None else batch.active.sum(dim=1)
        return packed, replace(after, position=position[:, 0] + pushed)

    def finish_batch(
        self, state: AdaptiveState, dtype: torch.dtype = torch.float32
    ) -> PackedTokens:
        """Merged anchors, none of which came out before, with the mass of all that did not."""
        budget = self._budget(state.grid)
        left = budget.left(state.position, state.spent).clamp(min=self.rule.merged_tokens)
        memory = state.first(count_slots(state, state.slots))
        return end_clips(memory, left, budget.room_to_finish, dtype)

    def _open(
        self,
        clips: int,
        grid: Grid,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        blank: bool,
    ) -> AdaptiveState:
        slots = min(self.rule.memory, self.config.clip_frames)
        return open_memory(clips, slots, grid, width, dtype, device, blank=blank)

    def _budget(self, grid: Grid) -> Budget:
        return self.rule.budget(self.retention, self.config.clip_frames, grid[0] * grid[1])


def _pack(
    cells: CellBatch,
    kept: Bool[Tensor, "c t p"],
    length: Float[Tensor, "c t p"],
    position: Int[Tensor, "c t"],
    room: int,
    dtype: torch.dtype,
) -> PackedTokens:
    """The kept tokens as they are, in reading order."""
    num_cells = cells.tokens.shape[2]
    flat = kept.flatten(1)
    index = front_rows(flat, room)
    frame = position.gather(1, index.div(num_cells, rounding_mode="floor"))
    total = length + cells.attention + cells.local_attention
    kind = torch.where(frame > 0, int(TokenKind.DISTINCT), int(TokenKind.KEYFRAME))
    return PackedTokens(
        tokens=take_rows(cells.tokens.flatten(1, 2), index).to(dtype),
        frame=frame,
        cell=index % num_cells,
        mass=torch.ones_like(index, dtype=torch.float32),
        kind=kind.to(torch.uint8),
        count=flat.sum(dim=1),
        finite=torch.isfinite(total.flatten(1)).all(dim=1),
        grid=cells.grid,
    )


def make_adaptive(
    retention: float, config: AOTConfig, seed: int = 0, **constants: Any
) -> AdaptiveReducer:
    """The reducer with `AdaptiveRule(**constants)`."""
    return AdaptiveReducer(config, retention, AdaptiveRule(**constants))
