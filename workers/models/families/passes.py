"""Frames through a tower a few at a time, which bounds the memory, as one value."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from aot import FrameFeatures, Grid

Pixels = UInt8[np.ndarray, "t h w 3"] | UInt8[Tensor, "t h w 3"]
EncodePass = Callable[[Pixels], tuple[Tensor, Tensor, Tensor]]
"""Tokens, attention received in the local and in the global layer."""


def encode_in_passes(
    pixels: Pixels, encode_pass: EncodePass, grid: Grid, frames_per_pass: int
) -> FrameFeatures:
    """Features of frames whose order is that of the passes."""
    passes = [
        encode_pass(pixels[start : start + frames_per_pass])
        for start in range(0, len(pixels), frames_per_pass)
    ]
    tokens, local_attention, global_attention = (torch.cat(x) for x in zip(*passes, strict=True))
    return FrameFeatures(tokens, local_attention, global_attention, grid)
