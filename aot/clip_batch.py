"""Clips side by side, as the across-frames stage works on them: padded frames, padded anchors.

Frames in, the columns of single steps out; states opened, narrowed and packed. Nothing here
decides which tokens are kept.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.packing import exact_dtype, front_rows, take_rows
from aot.spatial import PooledFrames
from aot.types import ClipState, FrameTokens, Grid, PackedTokens, TokenKind


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


@dataclass(frozen=True)
class Schedule:
    """What each step is to its clip; told by which tokens are there, before any is looked at."""

    starts: Bool[Tensor, "c t"]
    """The keyframe: the first frame of a clip that has a token."""
    follows: Bool[Tensor, "c t"]
    """A later frame that has a token."""
    position: Int[Tensor, "c t"]
    """Of the step's frame in its clip."""
    passed: Int[Tensor, " c"]
    """Frames without a token after the keyframe."""
    keyframe: Int[Tensor, " c"]
    """After the steps; see `AnchorState`."""
    end: Int[Tensor, " c"]
    """Frames pushed after the steps."""


def schedule_steps(
    present: Bool[Tensor, "c t k"], active: Bool[Tensor, "c t"] | None, clips: AnchorState
) -> Schedule:
    """The steps of clips whose state before them is `clips`; `active` as in `FeatureBatch`."""
    filled = present.any(dim=2)
    there = torch.ones_like(filled) if active is None else active
    filled_so_far = filled.cumsum(dim=1)
    begun = (filled_so_far - filled.long() > 0) | ~clips.waiting[:, None]
    empty = there & ~filled
    so_far = clips.position[:, None] + there.cumsum(dim=1)
    return Schedule(
        starts=filled & ~begun,
        follows=filled & begun,
        position=so_far - there.long(),
        passed=(empty & begun).sum(dim=1),
        keyframe=clips.keyframe + (empty & ~begun).sum(dim=1),
        end=so_far[:, -1],
    )


def pack_steps(
    batch: StepTokens,
    steps: Schedule,
    finite: Bool[Tensor, " c"],
    grid: Grid,
    dtype: torch.dtype,
) -> PackedTokens:
    """The present tokens of the steps, in the order of frames, then of rows."""
    rows = batch.cell.shape[2]
    emit = batch.present.flatten(1)
    index = front_rows(emit, emit.shape[1])
    step = index // rows
    kind = torch.where(steps.starts, int(TokenKind.KEYFRAME), int(TokenKind.DISTINCT))
    return PackedTokens(
        tokens=take_rows(batch.tokens.flatten(1, 2), index).to(dtype),
        frame=steps.position.gather(1, step),
        cell=take_rows(batch.cell.flatten(1), index),
        mass=take_rows(batch.mass.flatten(1), index),
        kind=kind.to(torch.uint8).gather(1, step),
        count=emit.sum(dim=1),
        finite=finite,
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

    tokens = pad([frame.tokens.to(exact) for frame in frames])
    return PooledFrames(
        tokens=tokens,
        cell=pad([frame.cell.long() for frame in frames]),
        mass=pad([frame.mass.to(exact) for frame in frames]),
        count=count,
        grid=grid,
        finite=torch.isfinite(tokens).flatten(1).all(dim=1),
    )
