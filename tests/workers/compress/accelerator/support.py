"""What the accelerator's tests share: an encoder of pixels alone, and a stand-in for capturing."""

from dataclasses import replace

import numpy as np
import torch

from aot import FrameFeatures
from tests.workers.session_support import INFO
from workers.types import PLAIN_LAYOUT, PixelFormat

GRID, DIM, CLIP_FRAMES = (6, 6), 16, 4


class PixelEncoder:
    """A random projection of each pixel of frames of 6 x 6; counts its calls."""

    pixel_format, grid, pooling, dim = PixelFormat(*GRID), GRID, "bilinear", DIM
    layout = PLAIN_LAYOUT

    def __init__(self, device: str = "cpu", dtype: str = "float32") -> None:
        self.identity = replace(INFO.identity, dtype=dtype)
        self._device = torch.device(device)
        generator = torch.Generator().manual_seed(0)
        self._weights = torch.randn(3, DIM, generator=generator).to(self._device)
        self.calls: list[int] = []
        self.fails = None

    def encode(self, pixels):
        self.calls.append(len(pixels))
        if self.fails is not None:
            raise self.fails
        if isinstance(pixels, np.ndarray):
            pixels = torch.from_numpy(pixels.copy())
        values = pixels.to(self._device).float().flatten(1, 2) / 255
        tokens = (values @ self._weights).to(getattr(torch, self.identity.dtype))
        broken = (pixels == 255).flatten(1).all(dim=1).to(self._device)
        tokens = tokens.masked_fill(broken[:, None, None], torch.nan)
        return FrameFeatures(tokens, values[..., 0], values[..., 1], GRID)


def make_pixels(frames: int, seed: int = 0) -> np.ndarray:
    """Frames that change a little from one to the next; read-only, as a store's are."""
    generator = np.random.default_rng(seed)
    still = generator.integers(20, 200, (1, *GRID, 3))
    pixels = (still + generator.integers(0, 40, (frames, *GRID, 3))).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


class Recorder:
    """A capture without a card: launches the function again; `fails` refuses."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.captures = self.replays = 0

    def __call__(self, function):
        self.captures += 1
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")

        def replay():
            self.replays += 1
            return function()

        return replay
