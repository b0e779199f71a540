"""The across-frames stage: a keyframe's anchors gather what is alike in the clip's later frames.

Frame by frame, each later frame's tokens are transported onto the current anchors; those the plan
spreads thinnest are distinct and come out as they are, the rest are merged into the anchors,
which are read out at the clip's end (method section 6; paper section 3.3). Many clips run side by
side, padded; the frames of one clip are a recurrence, hence the one loop. Knows nothing of grids
or of time in seconds: the clock of the time kernel is the position in the clip.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.clip_batch import (
    AnchorState,
    StepTokens,
    arrange_steps,
    open_anchors,
    pack_steps,
    pad_frames,
    take_step,
)
from aot.config import AOTConfig
from aot.errors import InvalidFeatures
from aot.packing import join_packed, unpack
from aot.spatial import PooledFrames
from aot.transport import exponentiate, scale_kernel, times
from aot.types import ClipTokens, FrameTokens, Grid, PackedTokens, TokenKind

#: The reference's guards against division by zero and against a cosine of exactly one.
_NORM_FLOOR, _SUM_FLOOR, _COSINE_LIMIT = 1e-12, 1e-9, 1 - 1e-6
#: Plan shares this close (relative) are ties: like the reference's strict comparison, but not left
#: to rounding, tokens tied at the quantile are all merged. Equal tokens are equally explained.
_TIE = 1e-5


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
    _, steps, rows, width = batch.tokens.shape
    num_cells = frames.grid[0] * frames.grid[1]
    room = max(num_cells, rows) if config.merge_frames else 0
    given = state or open_anchors(
        clips, room, frames.grid, width, batch.tokens.dtype, batch.tokens.device
    )
    now = given.widened(_rows_needed(given, rows))
    there = batch.present.new_ones(clips, steps) if active is None else active
    emitted, kinds = [], []
    for step in range(steps):
        # One frame after the other: each is matched to what the ones before it made of the anchors.
        current = take_step(batch, step)
        now, emit, mass, kind = _take_frame(
            now, current, there[:, step], num_cells, config, opens=state is None and step == 0
        )
        emitted.append(StepTokens(current.tokens, current.cell, mass, emit))
        kinds.append(kind)
    packed = pack_steps(emitted, kinds, given.position, frames.grid, dtype)
    return packed, now.widened(room)


def _rows_needed(state: AnchorState, rows: int) -> int:
    """Rows of anchors to work on: on a CPU, where asking is free, no more than there will be."""
    room = state.anchors.shape[1]
    if not room or state.count.device.type != "cpu":
        return room
    return min(room, max(rows, int(state.count.max())))


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


def concatenate(parts: Sequence[ClipTokens]) -> ClipTokens:
    """One clip's parts in the order they were emitted."""
    columns = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("tokens", "frame", "cell", "mass", "kind")
    }
    return ClipTokens(**columns, grid=parts[0].grid)


def _take_frame(
    clips: AnchorState,
    frame: StepTokens,
    active: Bool[Tensor, " b"],
    num_cells: int,
    config: AOTConfig,
    *,
    opens: bool,
) -> tuple[AnchorState, Bool[Tensor, "b k"], Float[Tensor, "b k"], Int[Tensor, " b"]]:
    """One frame of every active clip: its keyframe where it has none yet, else a later frame.

    Gives the new clips, which of the frame's tokens come out, with which mass, and their kind.
    `opens` says that no clip has a keyframe yet, so that there is nothing to transport.
    """
    filled, waiting = frame.present.any(dim=1) & active, clips.waiting
    starts, follows = filled & waiting, filled & ~waiting
    emit, mass = frame.present & filled[:, None], frame.mass
    if config.merge_frames:
        if not opens:
            keep, clips = _follow(clips, frame, follows, config)
            emit = emit & (keep | starts[:, None])
        clips = _start(clips, frame, starts)
        # Mass of frames that kept nothing: to the anchors, or to the keyframe that comes after.
        lost = (active & ~filled & ~waiting) * num_cells / clips.count.clamp(min=1)
        clips = replace(clips, mass=clips.mass + lost[:, None] * clips.present)
        mass = mass * torch.where(starts, clips.position + 1, 1)[:, None]
    clips = replace(
        clips,
        position=clips.position + active,
        keyframe=clips.keyframe + (active & ~filled & waiting),
    )
    kind = torch.where(starts, int(TokenKind.KEYFRAME), int(TokenKind.DISTINCT))
    return clips, emit, mass, kind


def _start(clips: AnchorState, frame: StepTokens, starts: Bool[Tensor, " b"]) -> AnchorState:
    """Make the frame the keyframe of the clips marked in `starts`."""
    room = clips.anchors.shape[1] - frame.tokens.shape[1]
    wide = [torch.nn.functional.pad(frame.tokens, (0, 0, 0, room))]
    wide += [torch.nn.functional.pad(column, (0, room)) for column in (frame.cell, frame.present)]
    here = starts[:, None]
    return replace(
        clips,
        anchors=torch.where(here[:, :, None], wide[0], clips.anchors),
        cell=torch.where(here, wide[1], clips.cell),
        count=torch.where(starts, wide[2].sum(dim=1), clips.count),
    )


def _follow(
    clips: AnchorState, frame: StepTokens, follows: Bool[Tensor, " b"], config: AOTConfig
) -> tuple[Bool[Tensor, "b k"], AnchorState]:
    """Transport a later frame onto the anchors: which tokens are distinct, and the new anchors."""
    sources = frame.present & follows[:, None]
    similarity = _cosine(frame.tokens, clips.anchors)
    distance = (clips.position - clips.keyframe).clamp(min=1).to(similarity.dtype)
    time_cost = 1 - torch.exp(-(distance**2) / (2 * config.time_sigma**2 + 1e-9))
    share = _shares(similarity, time_cost, sources, clips.present, config)
    if config.keep_rule == "quantile":
        keep = _thinnest(share, sources, config.distinct_fraction)
    else:
        keep = sources & _unexplained(share, similarity, time_cost, clips.present, config)
    given = share * (sources & ~keep)[:, :, None]
    scale = config.temporal_scale
    gathered = torch.bmm(given.mT, frame.tokens)
    load = given.sum(dim=1)[:, :, None]
    anchors = (clips.anchors + scale * gathered) / (1 + scale * load)
    mass = clips.mass + times(given.mT, frame.mass)
    return keep, replace(clips, anchors=anchors, mass=mass)


def _cosine(
    tokens: Float[Tensor, "b k d"], anchors: Float[Tensor, "b a d"]
) -> Float[Tensor, "b k a"]:
    left, right = (
        torch.linalg.vector_norm(values, dim=2).clamp(min=_NORM_FLOOR)
        for values in (tokens, anchors)
    )
    product = torch.bmm(tokens, anchors.mT).div_(left[:, :, None]).div_(right[:, None, :])
    return product.clamp_(-_COSINE_LIMIT, _COSINE_LIMIT)


def _shares(
    similarity: Float[Tensor, "b k a"],
    time_cost: Float[Tensor, " b"],
    sources: Bool[Tensor, "b k"],
    anchors: Bool[Tensor, "b a"],
    config: AOTConfig,
) -> Float[Tensor, "b k a"]:
    """What part of each source goes to each anchor: the plan with its rows scaled to one."""
    valid = sources[:, :, None] & anchors[:, None, :]
    # The cost is taken from its minimum over the whole frame (reference): the stop rule of the
    # scaling looks at absolute values.
    most_alike = similarity.masked_fill(~valid, -2.0).amax(dim=(1, 2), keepdim=True)
    score = (similarity - most_alike) * time_cost[:, None, None]
    kernel, shift = exponentiate(score.masked_fill(~anchors[:, None], -1e4), config.epsilon)
    scaling = scale_kernel(
        kernel.mul_(anchors[:, None]),
        shift,
        _uniform(sources, similarity.dtype),
        _uniform(anchors, similarity.dtype),
        max_iterations=config.max_iterations,
        tolerance=config.tolerance,
    )
    plan = scaling.source[:, :, None] * kernel * scaling.anchor[:, None, :]
    return plan / plan.sum(dim=2, keepdim=True).clamp(min=_SUM_FLOOR)


def _thinnest(
    share: Float[Tensor, "b k a"], sources: Bool[Tensor, "b k"], fraction: float
) -> Bool[Tensor, "b k"]:
    """The `fraction` of each frame's sources that the plan spreads thinnest (reference).

    The quantile is interpolated linearly in float64; tokens tied with it are not among them.
    """
    best = share.amax(dim=2)
    rising = best.masked_fill(~sources, math.inf).double().sort(dim=1).values
    rank = fraction * (sources.sum(dim=1) - 1).clamp(min=0).double()
    low, high = (
        rising.gather(1, edge.long()[:, None])[:, 0] for edge in (rank.floor(), rank.ceil())
    )
    quantile = torch.lerp(low, high, rank - rank.floor())
    return sources & (best < (quantile * (1 - _TIE))[:, None])


def _unexplained(
    share: Float[Tensor, "b k a"],
    similarity: Float[Tensor, "b k a"],
    time_cost: Float[Tensor, " b"],
    anchors: Bool[Tensor, "b a"],
    config: AOTConfig,
) -> Bool[Tensor, "b k"]:
    """Extension: which tokens no anchor explains, in absolute terms.

    `cost`: the cosine distance to the nearest anchor is above the threshold. `plan`: of a token's
    mean distance to the anchors, the plan's best anchor saves less than the threshold. The largest
    share alone would not do: among `M` anchors it starts at `1 / M`, and the time kernel sharpens
    it with every frame. `epsilon / time_cost * log(M share)` takes both out and leaves how much
    nearer the best anchor is than the anchors on the whole; relative to the mean distance it also
    holds for anchors that have blurred.
    """
    if config.keep_rule == "cost":
        nearest = similarity.masked_fill(~anchors[:, None], -1.0).amax(dim=2)
        return 1 - nearest > config.keep_threshold
    count = anchors.sum(dim=1)[:, None]
    gain = (share.amax(dim=2) * count).clamp(min=_SUM_FLOOR).log() * config.epsilon
    mean_distance = 1 - times(similarity, anchors.to(similarity.dtype)) / count.clamp(min=1)
    return gain / time_cost[:, None] < config.keep_threshold * mean_distance


def _uniform(present: Bool[Tensor, "b k"], dtype: torch.dtype) -> Float[Tensor, "b k"]:
    return present.to(dtype) / present.sum(dim=1, keepdim=True).clamp(min=1)
