"""Clips side by side, as the across-frames stage works on them: padded frames, padded anchors.

Frames in, the columns of single steps out; states opened, narrowed and packed. Nothing here
decides which tokens are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.packing import exact_dtype, front_rows, take_rows
from aot.spatial import PooledFrames
from aot.types import ClipState, FrameTokens, Grid, PackedTokens


@dataclass(frozen=True, repr=False)
class AnchorState(ClipState):
    """Open clips of the method: the keyframe's anchors with all that was merged into them so far.

    A clip's anchors lie at the front of as many rows as a frame has cells (of none where
    `AOTConfig.merge_frames` is off).
    """

    anchors: Float[Tensor, "c a d"]
    """float32, or float64 where the features are."""
    cell: Int[Tensor, "c a"]
    mass: Float[Tensor, "c a"]
    """What each anchor gathered from the frames after the keyframe."""
    count: Int[Tensor, " c"]
    """Anchors of each clip."""
    keyframe: Int[Tensor, " c"]
    """Position of the keyframe; the number of frames so far when none had a token."""

    @property
    def present(self) -> Bool[Tensor, "c a"]:
        """False in the padding."""
        return torch.arange(self.anchors.shape[1], device=self.count.device) < self.count[:, None]

    @property
    def waiting(self) -> Bool[Tensor, " c"]:
        """True where no frame had a token yet, so that the next one with tokens is the keyframe."""
        return self.keyframe == self.position

    def widened(self, rows: int) -> "AnchorState":
        """With padding up to that many rows, or without what is beyond them."""
        more = rows - self.anchors.shape[1]
        if more == 0:
            return self
        return replace(
            self,
            anchors=F.pad(self.anchors, (0, 0, 0, more)),
            cell=F.pad(self.cell, (0, more)),
            mass=F.pad(self.mass, (0, more)),
        )


@dataclass(frozen=True)
class StepTokens:
    """One frame of every clip, or a number of steps of them, padded."""

    tokens: Float[Tensor, "*c k d"]
    cell: Int[Tensor, "*c k"]
    mass: Float[Tensor, "*c k"]
    present: Bool[Tensor, "*c k"]


def open_anchors(
    clips: int, rows: int, grid: Grid, width: int, dtype: torch.dtype, device: torch.device
) -> AnchorState:
    """Clips that have had no frame, with room for `rows` anchors each."""
    numbers = torch.zeros(3, clips, dtype=torch.int64, device=device)
    return AnchorState(
        grid=grid,
        width=width,
        position=numbers[0],
        anchors=torch.zeros(clips, rows, width, dtype=dtype, device=device),
        cell=torch.zeros(clips, rows, dtype=torch.int64, device=device),
        mass=torch.zeros(clips, rows, dtype=dtype, device=device),
        count=numbers[1],
        keyframe=numbers[2],
    )


def arrange_steps(
    frames: PooledFrames, clips: int, active: Bool[Tensor, "c t"] | None
) -> StepTokens:
    """The frames of `clips` clips, one clip after the other, as (clips, steps, ...)."""
    shape = (clips, frames.count.shape[0] // clips)
    present = frames.present.view(*shape, -1)
    return StepTokens(
        frames.tokens.view(*shape, *frames.tokens.shape[1:]),
        frames.cell.reshape(*shape, -1),
        frames.mass.view(*shape, -1),
        present if active is None else present & active[:, :, None],
    )


def take_step(batch: StepTokens, step: int) -> StepTokens:
    """One frame of every clip."""
    return StepTokens(
        batch.tokens[:, step], batch.cell[:, step], batch.mass[:, step], batch.present[:, step]
    )


def pack_steps(
    emitted: Sequence[StepTokens],
    kinds: Sequence[Int[Tensor, " c"]],
    begun: Int[Tensor, " c"],
    grid: Grid,
    dtype: torch.dtype,
) -> PackedTokens:
    """The present tokens of some steps, in the order of frames, then of rows.

    `begun` is the position of the first of the steps, `kinds` the kind of every step's tokens.
    """
    clips, rows = emitted[0].cell.shape
    steps = len(emitted)
    emit = torch.stack([step.present for step in emitted], dim=1).flatten(1)
    index = front_rows(emit, steps * rows)

    def take(columns: Sequence[Tensor]) -> Tensor:
        return take_rows(torch.stack(list(columns), dim=1).flatten(1, 2), index)

    step = index // rows
    tokens = take([step.tokens for step in emitted])
    return PackedTokens(
        tokens=tokens.to(dtype),
        frame=step + begun[:, None],
        cell=take([step.cell for step in emitted]),
        mass=take([step.mass for step in emitted]),
        kind=torch.stack(list(kinds), dim=1).gather(1, step).to(torch.uint8),
        count=emit.sum(dim=1),
        finite=torch.ones(clips, dtype=torch.bool, device=index.device),
        grid=grid,
    )


def pad_frames(frames: list[FrameTokens], grid: Grid) -> PooledFrames:
    """Frames of one clip as one tensor, in float32 or better."""
    exact = exact_dtype(frames[0].tokens.dtype)
    count = torch.tensor([len(frame.cell) for frame in frames], device=frames[0].tokens.device)

    def pad(columns: list[Tensor]) -> Tensor:
        padded = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True)
        missing = 0 if padded.shape[1] else 1  # no later step may meet an empty axis
        return F.pad(padded, (0, 0) * (padded.dim() - 2) + (0, missing))

    return PooledFrames(
        pad([frame.tokens.to(exact) for frame in frames]),
        pad([frame.cell.long() for frame in frames]),
        pad([frame.mass.to(exact) for frame in frames]),
        count,
        grid,
    )
