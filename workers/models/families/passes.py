"""Frames through a tower a few at a time, which bounds the memory, as one value."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from aot import FrameFeatures, Grid

FRAMES_PER_PASS_CPU = 1
"""Frames the tower takes at once: as fast as many on a CPU, and a frame's bytes then do not depend
on its company (a GEMM of another height rounds differently)."""
FRAMES_PER_PASS_ACCELERATOR = 32
"""As many as the reference of LLaVA-OneVision; bounds the memory."""

Pixels = UInt8[np.ndarray, "t h w 3"] | UInt8[Tensor, "t h w 3"]
EncodePass = Callable[[Pixels], tuple[Tensor, Tensor, Tensor]]
"""Tokens, attention received in the local and in the global layer."""


def encode_in_passes(
    pixels: Pixels,
    encode_pass: EncodePass,
    grid: Grid,
    device: torch.device,
    *,
    patch_frames: int = 1,
) -> FrameFeatures:
    """Features of frames whose order is that of the passes.

    What a pass gives is put where it belongs at once: tokens are never in memory twice.
    `patch_frames`: of a temporal patch, which no pass divides.
    """
    most = FRAMES_PER_PASS_CPU if device.type == "cpu" else FRAMES_PER_PASS_ACCELERATOR
    step = max(1, most // patch_frames) * patch_frames
    columns: list[Tensor] = []
    for start in range(0, len(pixels), step):
        first, num_rows = start // patch_frames, len(pixels) // patch_frames
        columns = _put(encode_pass(pixels[start : start + step]), columns, first, num_rows)
    tokens, local_attention, global_attention = columns
    return FrameFeatures(tokens, local_attention, global_attention, grid)


def _put(
    parts: tuple[Tensor, ...], columns: list[Tensor], first: int, num_rows: int
) -> list[Tensor]:
    """The columns, made at the first time, with what a pass gave from row `first` on."""
    columns = columns or [part.new_empty(num_rows, *part.shape[1:]) for part in parts]
    for column, part in zip(columns, parts, strict=True):
        column[first : first + len(part)] = part
    return columns
