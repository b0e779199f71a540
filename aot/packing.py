"""Between single clips and clips side by side: batches in, packed tokens, single clips out.

Nothing here decides which tokens are kept. Rows are brought together by stable sorts, in shapes
that do not depend on values; `unpack` alone reads from the device, once for a whole batch.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aot.errors import InvalidFeatures, NotSettled
from aot.types import (
    TOKEN_COLUMNS,
    ClipTokens,
    FeatureBatch,
    FrameFeatures,
    Grid,
    PackedTokens,
)


def stack_clips(clips: Sequence[FrameFeatures]) -> FeatureBatch:
    """Clips of one model side by side; those shorter than the longest are padded with zeros."""
    names = ("tokens", "local_attention", "global_attention")
    if len(clips) == 1:
        return FeatureBatch(*(getattr(clips[0], name)[None] for name in names), grid=clips[0].grid)
    lengths = [clip.tokens.shape[0] for clip in clips]
    if len(set(lengths)) == 1:
        columns = (torch.stack([getattr(clip, name) for clip in clips]) for name in names)
        return FeatureBatch(*columns, grid=clips[0].grid)
    columns = (pad_sequence([getattr(clip, name) for clip in clips], True) for name in names)
    active = mark_frames(lengths, clips[0].tokens.device)
    return FeatureBatch(*columns, grid=clips[0].grid, active=active)


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums and products of tokens are taken in: float32 or better."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def mark_frames(lengths: Sequence[int], device: torch.device) -> Bool[Tensor, "c t"]:
    """True at the frames that a clip has."""
    counts = upload(lengths, device)
    return torch.arange(max(lengths, default=0), device=device) < counts[:, None]


def upload(values: Sequence[int], device: torch.device) -> Int[Tensor, " n"]:
    """Numbers of the host on a device, without a wait: they go by way of pinned memory."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=torch.int64, device=device)
    return torch.tensor(values, dtype=torch.int64).pin_memory().to(device, non_blocking=True)


def front_rows(kept: Bool[Tensor, "c r"], room: int) -> Int[Tensor, "c k"]:
    """Indices of the kept rows of every clip, rising, then of others up to `room`.

    On a CPU, where asking is free, up to the most that a clip kept.
    """
    if kept.device.type == "cpu":
        room = int(kept.sum(dim=1).max())
    return (~kept).to(torch.uint8).sort(dim=1, stable=True).indices[:, :room]


def take_rows(values: Tensor, index: Int[Tensor, "c k"]) -> Tensor:
    """Rows of every clip; `values` is `[c r]` or `[c r d]`."""
    if values.dim() == 2:
        return values.gather(1, index)
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))


def no_tokens(
    clips: int, grid: Grid, width: int, dtype: torch.dtype, device: torch.device
) -> PackedTokens:
    """What a clip gives that has nothing to give."""
    empty = torch.empty(clips, 0, dtype=torch.int64, device=device)
    return PackedTokens(
        tokens=torch.empty(clips, 0, width, dtype=dtype, device=device),
        frame=empty,
        cell=empty,
        mass=empty.float(),
        kind=empty.to(torch.uint8),
        count=torch.zeros(clips, dtype=torch.int64, device=device),
        finite=torch.ones(clips, dtype=torch.bool, device=device),
        grid=grid,
    )


def join_packed(first: PackedTokens, then: PackedTokens) -> PackedTokens:
    """Each clip's rows of `first`, followed by those of `then`."""
    room, more = first.tokens.shape[1], then.tokens.shape[1]
    if not more:
        return first
    place = torch.arange(room + more, device=first.count.device)
    begins = first.count[:, None]
    index = torch.where(place < begins, place, (place - begins + room).clamp(max=room + more - 1))
    columns = {
        name: take_rows(torch.cat([getattr(first, name), getattr(then, name)], dim=1), index)
        for name in TOKEN_COLUMNS
    }
    return replace(
        first,
        **columns,
        count=first.count + then.count,
        finite=first.finite & then.finite,
    )


def unpack(packed: PackedTokens) -> list[ClipTokens]:
    """Each clip's tokens, owning no more than themselves; the host waits for their number.

    Raises:
        InvalidFeatures: the features of a clip held NaN or infinity.
        NotSettled: the transport of a clip was left too early.
    """
    settled = packed.finite if packed.settled is None else packed.settled
    flags = [flag.to(packed.count.dtype) for flag in (packed.finite, settled)]
    counts, finite, settled = torch.stack([packed.count, *flags]).tolist()
    if not all(finite):
        raise InvalidFeatures(
            f"features of clip {finite.index(0)} of {len(packed)} hold NaN or infinity, expected "
            "finite values; check the vision tower's output"
        )
    if not all(settled):
        raise NotSettled(
            f"transport of clip {settled.index(0)} of {len(packed)} was left before its stop rule "
            "was met; push again with unrolled=config.max_iterations, or install Triton"
        )
    return [
        ClipTokens(
            **{name: getattr(packed, name)[clip, :count].clone() for name in TOKEN_COLUMNS},
            grid=packed.grid,
        )
        for clip, count in enumerate(counts)
    ]


def concatenate(parts: Sequence[ClipTokens]) -> ClipTokens:
    """One clip's parts in the order they were emitted."""
    columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in TOKEN_COLUMNS}
    return ClipTokens(**columns, grid=parts[0].grid)


def check_finite_features(clips: Sequence[FrameFeatures]) -> None:
    """Name the first value of the clips that is not finite; the host waits for it.

    Raises:
        InvalidFeatures: there is one.
    """
    names = {
        "tokens": "token",
        "local_attention": "attention of token",
        "global_attention": "attention of token",
    }
    for clip in clips:
        for name, what in names.items():
            wrong = ~torch.isfinite(getattr(clip, name))
            wrong = wrong.any(dim=2) if wrong.dim() == 3 else wrong
            if bool(wrong.any()):
                frame, token = wrong.nonzero()[0].tolist()
                raise InvalidFeatures(
                    f"{what} {token} of frame {frame} holds NaN or infinity, expected finite "
                    "values; check the vision tower's output"
                )
