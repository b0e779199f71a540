"""Frames of clips brought together for an encoder, their features cut apart, tokens on the host."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import UInt8

from aot import ClipTokens, FrameFeatures
from workers.types import TokenLayout


def fill_patches(
    clips: Sequence[UInt8[np.ndarray, "_ h w 3"]], layout: TokenLayout
) -> list[UInt8[np.ndarray, "_ h w 3"]]:
    """Frames of clips, one behind the other, so that no temporal patch reaches over two clips.

    A clip that does not fill its last patch shows its last frame again, as processors do.
    """
    filled = []
    for pixels in clips:
        filled.append(pixels)
        missing = layout.steps(len(pixels)) * layout.frames - len(pixels)
        if missing:
            filled.append(np.repeat(pixels[-1:], missing, axis=0))
    return filled


def split_features(features: FrameFeatures, steps: Sequence[int]) -> list[FrameFeatures]:
    """Cut the features of consecutive clips apart; `steps` says how many belong to each."""
    if len(steps) == 1:
        return [features]
    columns = zip(
        features.tokens.split(list(steps)),
        features.local_attention.split(list(steps)),
        features.global_attention.split(list(steps)),
        strict=True,
    )
    return [FrameFeatures(*column, grid=features.grid) for column in columns]


def to_host(kept: ClipTokens, dtype: torch.dtype) -> ClipTokens:
    """The same tokens in host memory and in the model's dtype, owning no more than themselves."""
    return replace(
        kept,
        tokens=kept.tokens.to(device="cpu", dtype=dtype).contiguous(),
        frame=kept.frame.cpu().contiguous(),
        cell=kept.cell.cpu().contiguous(),
        mass=kept.mass.cpu().contiguous(),
        kind=kept.kind.cpu().contiguous(),
    )
