"""What the reduction is measured on: features that are made, not decoded.

Each token is the sum of a direction common to all, a part of its own that stays still, and noise of
0.4 that does not; attention is random, smoothed over 3x3 patches. On video-like features Sinkhorn
stops early, as it does on real ones.
"""

import torch
import torch.nn.functional as F

from aot import FrameFeatures

SIDE = 27
"""Rows and columns of patches of a frame."""


def make_features(frames: int, dim: int, device: str = "cpu") -> FrameFeatures:
    """Video-like features, see the module's docstring; float32."""
    generator = torch.Generator().manual_seed(0)
    num_tokens = SIDE * SIDE
    tokens = torch.empty(frames, num_tokens, dim)
    still = torch.randn(dim, generator=generator) + torch.randn(
        num_tokens, dim, generator=generator
    )
    for frame in tokens:  # one at a time: the peak of a fresh process must not be made here
        torch.randn(num_tokens, dim, generator=generator, out=frame)
        frame.mul_(0.4).add_(still)
    maps = torch.rand(2, frames, SIDE, SIDE, generator=generator)
    local, deep = F.avg_pool2d(maps, 3, 1, 1).flatten(2)
    return FrameFeatures(tokens.to(device), local.to(device), deep.to(device), (SIDE, SIDE))


def split_clips(features: FrameFeatures, size: int) -> list[FrameFeatures]:
    """A video in clips of `size` frames, as views."""
    columns = (features.tokens, features.local_attention, features.global_attention)
    parts = zip(*(column.split(size) for column in columns), strict=True)
    return [FrameFeatures(a, b, c, features.grid) for a, b, c in parts]
