"""The across-frames stage: a keyframe's anchors gather what is alike in the clip's later frames.

Frame by frame, each later frame's tokens are transported onto the current anchors; those the plan
spreads thinnest are distinct and come out as they are, the rest are merged into the anchors,
which are read out at the clip's end (method section 6; paper section 3.3). Many clips run side by
side, padded; the frames of one clip are a recurrence, hence the one loop. Knows nothing of grids
or of time in seconds: the clock of the time kernel is the position in the clip.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from aot.clip_batch import (
    AnchorState,
    Schedule,
    StepTokens,
    arrange_steps,
    open_anchors,
    pack_steps,
    pad_frames,
    schedule_steps,
)
from aot.config import AOTConfig
from aot.errors import InvalidFeatures
from aot.matching import match_frame, prepare_frames, prepare_targets
from aot.packing import join_packed, unpack
from aot.spatial import PooledFrames
from aot.transport import UNROLLED, multiply_vector
from aot.types import ClipTokens, FrameTokens, Grid, PackedTokens, TokenKind


def merge_across_frames(
    frames: list[FrameTokens], config: AOTConfig, *, grid: Grid | None = None
) -> ClipTokens:
    """The across-frames stage alone, on one clip's frames; see `push_frames` for the maths.

    `grid` is only passed on; without it the cells are taken as one row.

    Raises:
        InvalidFeatures: no frames, or frames of different widths.
    """
    if not frames:
        raise InvalidFeatures("got a clip of 0 frames, expected at least 1; leave it out")
    widths = sorted({frame.tokens.shape[1] for frame in frames})
    if len(widths) > 1:
        raise InvalidFeatures(
            f"got frames of token widths {widths}, expected one; encode a clip with one model"
        )
    num_cells = 1 + max((int(frame.cell.max()) for frame in frames if len(frame.cell)), default=0)
    padded = pad_frames(frames, grid or (1, num_cells))
    dtype = frames[0].tokens.dtype
    emitted, state = push_frames(padded, 1, None, None, config, dtype)
    [tokens] = unpack(join_packed(emitted, finish_clips(state, dtype)))
    return tokens


def push_frames(
    frames: PooledFrames,
    clips: int,
    active: Bool[Tensor, "c t"] | None,
    state: AnchorState | None,
    config: AOTConfig,
    dtype: torch.dtype,
    *,
    unrolled: int = UNROLLED,
) -> tuple[PackedTokens, AnchorState]:
    """Take the next frames of several clips; give the tokens they emit and the new state.

    `frames` holds the frames of the first clip, then as many of the second, and so on; `active`
    tells which are there, None that all are. No state opens all clips. For a later frame at
    distance `l` from the keyframe, with tokens `x_i` and anchors `y_j`::

        C_ij = (1 - cos(x_i, y_j) - min C) (1 - exp(-l^2 / (2 time_sigma^2)))
        P    = Sinkhorn(C), rows then scaled to one;  q_i = max_j P_ij
        kept = tokens with q strictly below the distinct_fraction quantile of q
        y_j := (y_j + s sum_{i not kept} P_ij x_i) / (1 + s sum_{i not kept} P_ij)

    A frame without tokens is passed over: its mass goes to the anchors in equal parts, and if it
    came before the keyframe, the keyframe's tokens carry it. With `merge_frames` off every frame
    stands for itself: all its tokens come out, and the state holds no anchors.
    """
    batch = arrange_steps(frames, clips, active)  # (clips, steps, ...)
    rows, width = batch.tokens.shape[2:]
    room = max(frames.grid[0] * frames.grid[1], rows) if config.merge_frames else 0
    given = state
    if given is None:
        # No anchor of a clip that opens has a place but those of a frame of these steps.
        dtypes = batch.tokens.dtype, batch.tokens.device
        given = open_anchors(clips, min(rows, room), frames.grid, width, *dtypes)
    steps = schedule_steps(batch.present, active, given)
    after = replace(given, position=steps.end, keyframe=steps.keyframe)
    emit = batch.present
    settled = [] if frames.settled is None else [frames.settled.view(clips, -1).all(dim=1)]
    if config.merge_frames:
        begun = _start(after.widened(_rows_needed(given, rows, room)), batch, steps)
        keep, after, flags = _gather(
            begun, batch, steps, config, first=int(state is None), unrolled=unrolled
        )
        settled += flags
        emit = emit & (keep | steps.starts[:, :, None])
        # Frames before the keyframe that kept nothing are carried by the keyframe's tokens.
        carried = torch.where(steps.starts, steps.position + 1, 1)
        batch = replace(batch, mass=batch.mass * carried[:, :, None])
    finite = frames.finite.view(clips, -1).all(dim=1)
    packed = pack_steps(replace(batch, present=emit), steps, finite, frames.grid, dtype)
    ended = torch.stack(settled).all(dim=0) if settled else None
    return replace(packed, settled=ended), after.widened(room)


def _rows_needed(state: AnchorState, rows: int, room: int) -> int:
    """Rows of anchors to work on: those of a frame's tokens and of the anchors there are.

    On a CPU, where asking is free, no more than the clips have.
    """
    there = state.anchors.shape[1]
    if there > rows and state.count.device.type == "cpu":
        there = int(state.count.max())
    return min(room, max(rows, there))


def finish_clips(state: AnchorState, dtype: torch.dtype) -> PackedTokens:
    """The merged anchors of clips; none of a clip where they gathered nothing.

    That is so when no frame followed the keyframe, or, by an absolute keep rule, when all tokens
    that followed were distinct.
    """
    if state.count.device.type == "cpu":
        state = state.widened(int(state.count.max()))
    gathered = ((state.mass > 0) & state.present).any(dim=1)
    return PackedTokens(
        tokens=state.anchors.to(dtype),
        frame=state.keyframe[:, None].expand_as(state.cell),
        cell=state.cell,
        mass=state.mass,
        kind=torch.full_like(state.cell, int(TokenKind.MERGED)).to(torch.uint8),
        count=state.count * gathered,
        finite=torch.ones_like(gathered),
        grid=state.grid,
    )


def _start(clips: AnchorState, batch: StepTokens, steps: Schedule) -> AnchorState:
    """Make the keyframe's tokens the anchors of every clip that has its keyframe in these steps."""
    here = steps.starts.any(dim=1)
    clip = torch.arange(len(here), device=here.device)
    step = steps.starts.to(torch.uint8).argmax(dim=1)
    room = clips.anchors.shape[1] - batch.tokens.shape[2]
    tokens = F.pad(batch.tokens[clip, step], (0, 0, 0, room))
    cell = F.pad(batch.cell[clip, step], (0, room))
    return replace(
        clips,
        anchors=torch.where(here[:, None, None], tokens, clips.anchors),
        cell=torch.where(here[:, None], cell, clips.cell),
        count=torch.where(here, batch.present[clip, step].sum(dim=1), clips.count),
    )


def _gather(
    clips: AnchorState,
    batch: StepTokens,
    steps: Schedule,
    config: AOTConfig,
    *,
    first: int,
    unrolled: int,
) -> tuple[Bool[Tensor, "c t k"], AnchorState, list[Bool[Tensor, " c"]]]:
    """Let the anchors gather the later frames, from step `first` on.

    Gives which tokens are distinct, the clips after the steps, and `Scaling.settled` of each.
    """
    frames, targets = prepare_frames(batch, steps, config), prepare_targets(clips)
    anchors, scale = clips.anchors, config.temporal_scale
    matches = []
    for step in range(first, batch.tokens.shape[1]):
        # One frame after the other: each is matched to what the ones before it made of the anchors.
        frame = frames.at(step)
        match = match_frame(frame, anchors, targets, config, unrolled=unrolled)
        gathered = torch.baddbmm(anchors, match.given.mT, frame.tokens, alpha=scale)
        load = match.given.sum(dim=1)
        anchors = gathered / torch.add(torch.ones_like(load), load, alpha=scale)[:, :, None]
        matches.append(match)
    distinct = [torch.zeros_like(batch.present[:, 0])] * first + [m.distinct for m in matches]
    flags = [match.settled for match in matches if match.settled is not None]
    mass = clips.mass + _lost_mass(clips, steps)
    if matches:
        given = torch.cat([match.given for match in matches], dim=1)
        mass = mass + multiply_vector(given.mT, batch.mass[:, first:].flatten(1))
    after = replace(clips, anchors=anchors, mass=mass)
    return torch.stack(distinct, dim=1), after, flags


def _lost_mass(clips: AnchorState, steps: Schedule) -> Float[Tensor, "c a"]:
    """That of frames after the keyframe that kept nothing, to the anchors in equal parts."""
    num_cells = clips.grid[0] * clips.grid[1]
    share = steps.passed * num_cells / clips.count.clamp(min=1)
    return (share[:, None] * clips.present).to(clips.mass.dtype)
