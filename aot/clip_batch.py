"""Clips side by side: what the across-frames stage works on, padded, and back to single clips.

Frames and states of several clips in, tensors with a batch axis out; and the other way round.
Nothing here decides which tokens are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.spatial import PooledFrames
from aot.types import ClipState, ClipTokens, FrameTokens, Grid


@dataclass(frozen=True)
class OpenClips:
    """The states of a batch of clips, padded to the one with most anchors."""

    anchors: Float[Tensor, "b a d"]
    cell: Int[Tensor, "b a"]
    mass: Float[Tensor, "b a"]
    count: Int[Tensor, " b"]
    keyframe: Int[Tensor, " b"]
    position: Int[Tensor, " b"]

    @property
    def present(self) -> Bool[Tensor, "b a"]:
        """False in the padding."""
        steps = torch.arange(self.anchors.shape[1], device=self.count.device)
        return steps < self.count[:, None]

    @property
    def waiting(self) -> Bool[Tensor, " b"]:
        """True where no frame had a token yet, so that the next one with tokens is the keyframe."""
        return self.keyframe == self.position


@dataclass(frozen=True)
class StepTokens:
    """One frame of every clip, or a number of steps of them, padded."""

    tokens: Float[Tensor, "*b k d"]
    cell: Int[Tensor, "*b k"]
    mass: Float[Tensor, "*b k"]
    present: Bool[Tensor, "*b k"]


def mark_steps(lengths: Sequence[int], device: torch.device) -> Bool[Tensor, "b s"]:
    """True at the steps that a clip has a frame for."""
    counts = torch.tensor(lengths, device=device)
    return torch.arange(max(lengths, default=0), device=device) < counts[:, None]


def arrange_steps(frames: PooledFrames, lengths: Sequence[int]) -> StepTokens:
    """The frames as (clips, steps, ...); steps past a clip's last frame repeat it, not present."""
    steps = max(lengths, default=0)
    device = frames.count.device
    first = torch.tensor([0, *lengths[:-1]], device=device).cumsum(dim=0)
    last = first + torch.tensor(lengths, device=device).clamp(min=1) - 1
    index = torch.minimum(first[:, None] + torch.arange(steps, device=device), last[:, None])
    present = frames.present[index] & mark_steps(lengths, device)[:, :, None]
    shape = (len(lengths), steps)
    if all(length == steps for length in lengths):  # the common case needs no copy
        return StepTokens(
            frames.tokens.view(*shape, *frames.tokens.shape[1:]),
            frames.cell.view(*shape, -1),
            frames.mass.view(*shape, -1),
            present,
        )
    return StepTokens(frames.tokens[index], frames.cell[index], frames.mass[index], present)


def take_step(batch: StepTokens, step: int) -> StepTokens:
    """One frame of every clip."""
    return StepTokens(
        batch.tokens[:, step], batch.cell[:, step], batch.mass[:, step], batch.present[:, step]
    )


def open_clips(states: Sequence[ClipState | None], batch: StepTokens) -> OpenClips:
    """The states padded, with room for the widest frame of the batch; empty where there is none."""
    tokens = batch.tokens
    width = max([tokens.shape[2], *(len(state.cell) for state in states if state)])
    number, like = len(states), tokens
    anchors = like.new_zeros(number, width, tokens.shape[3])
    cell = torch.zeros(number, width, dtype=torch.int64, device=like.device)
    mass = like.new_zeros(number, width)
    numbers = torch.zeros(3, number, dtype=torch.int64, device=like.device)
    for row, state in enumerate(states):
        if state is not None:
            count = len(state.cell)
            anchors[row, :count], cell[row, :count] = state.anchors, state.cell
            mass[row, :count] = state.mass
            numbers[:, row] = torch.tensor([count, state.keyframe, state.position])
    return OpenClips(anchors, cell, mass, *numbers)


def cut_apart(
    emitted: list[StepTokens],
    kinds: list[Tensor],
    clips: OpenClips,
    states: Sequence[ClipState | None],
    grid: Grid,
    dtype: torch.dtype,
) -> list[tuple[ClipTokens, ClipState]]:
    """Cut the batch into clips again, tokens in the order of frames, then of cells."""
    emit = torch.stack([step.present for step in emitted], dim=1)
    clip, step, _ = emit.nonzero(as_tuple=True)
    begun = torch.tensor([state.position if state else 0 for state in states], device=clip.device)
    flat = {
        "tokens": _select(emitted, "tokens", emit).to(dtype),
        "frame": step + begun[clip],
        "cell": _select(emitted, "cell", emit),
        "mass": _select(emitted, "mass", emit),
        "kind": torch.stack(kinds, dim=1)[clip, step].to(torch.uint8),
    }
    sizes = torch.bincount(clip, minlength=len(states)).tolist()
    columns = {name: column.split(sizes) for name, column in flat.items()}
    counts, keyframes, positions = (
        values.tolist() for values in (clips.count, clips.keyframe, clips.position)
    )
    result = []
    for row, count in enumerate(counts):
        tokens = ClipTokens(**{name: parts[row] for name, parts in columns.items()}, grid=grid)
        state = ClipState(
            clips.anchors[row, :count].clone(),
            clips.cell[row, :count].clone(),
            clips.mass[row, :count].clone(),
            keyframes[row],
            positions[row],
            grid,
        )
        result.append((tokens, state))
    return result


def _select(emitted: list[StepTokens], name: str, emit: Bool[Tensor, "b s k"]) -> Tensor:
    return torch.stack([getattr(step, name) for step in emitted], dim=1)[emit]


def pad_frames(frames: list[FrameTokens], grid: Grid) -> PooledFrames:
    """Frames of one clip as one tensor, in float32 or better."""
    exact = torch.float64 if frames[0].tokens.dtype == torch.float64 else torch.float32
    count = torch.tensor([len(frame.cell) for frame in frames], device=frames[0].tokens.device)

    def pad(columns: list[Tensor]) -> Tensor:
        padded = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True)
        missing = 0 if padded.shape[1] else 1  # no later step may meet an empty axis
        return torch.nn.functional.pad(padded, (0, 0) * (padded.dim() - 2) + (0, missing))

    return PooledFrames(
        pad([frame.tokens.to(exact) for frame in frames]),
        pad([frame.cell.long() for frame in frames]),
        pad([frame.mass.to(exact) for frame in frames]),
        count,
        grid,
    )
