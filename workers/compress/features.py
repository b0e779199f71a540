"""Features of consecutive clips cut apart, and tokens brought to the host."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from aot import ClipTokens, FrameFeatures


def split_features(features: FrameFeatures, frames: Sequence[int]) -> list[FrameFeatures]:
    """Cut the features of consecutive clips apart; `frames` says how many belong to each."""
    if len(frames) == 1:
        return [features]
    columns = zip(
        features.tokens.split(list(frames)),
        features.local_attention.split(list(frames)),
        features.global_attention.split(list(frames)),
        strict=True,
    )
    return [FrameFeatures(*column, grid=features.grid) for column in columns]


def to_host(kept: ClipTokens, dtype: torch.dtype) -> ClipTokens:
    """The same tokens in host memory and in the model's dtype, owning no more than themselves."""
    return replace(
        kept,
        tokens=kept.tokens.to(device="cpu", dtype=dtype).contiguous(),
        **{
            name: getattr(kept, name).to("cpu").contiguous()
            for name in ("frame", "cell", "mass", "kind")
        },
    )
