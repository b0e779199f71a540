"""The vision half of Qwen-VL models: temporal patches of two frames, cells of two by two patches.

A token is a cell of a temporal patch: what the reducer takes for a frame is one of these, its grid
is that of the cells, and nothing is left to pool. There is no CLS: a cell's attention is the mean
of what its patches received. Patches of another time are never attended to, so that every
temporal patch is encoded by itself. Frames are brought to one size, which the product needs to be
the same for a whole stream; the models take any.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from aot import FrameFeatures, Grid, InvalidFeatures
from aot.types import Pooling
from workers.errors import InvalidCheckpoint
from workers.models.attention import ProbedLayers
from workers.models.base import ModelIdentity
from workers.models.catalog import TokenCost
from workers.models.checkpoint import Checkpoint
from workers.models.families.passes import encode_in_passes
from workers.models.pixels import PixelSettings, normalisation, read_processor
from workers.types import PixelFormat, TokenLayout

CELLS: Grid = (14, 25)
"""Rows and columns of a frame of 16:9, unless the checkpoint names another `frame_size`: 175 tokens
a frame, about what LLaVA models take."""


class PatchVision(ABC):
    """A `VisionEncoder` over a tower that takes flat patches and `grid_thw`."""

    pooling: Pooling = "none"

    def __init__(
        self,
        half: Any,
        identity: ModelIdentity,
        settings: PixelSettings,
        attention_layers: tuple[int, int],
        layout: TokenLayout,
    ) -> None:
        vision = half.config.vision_config
        self.identity = identity
        self.pixel_format: PixelFormat = settings.format
        self.layout = layout
        self.attention_layers = attention_layers
        """The layers whose received attention is read: local, global."""
        self._half, self._settings, self._vision = half, settings, vision
        unit = vision.patch_size * vision.spatial_merge_size
        self.grid: Grid = (settings.format.height // unit, settings.format.width // unit)
        self.dim: int = sum(layout.parts) or vision.out_hidden_size
        blocks = half.model.visual.blocks
        self._probed = ProbedLayers(*(blocks[i].attn for i in attention_layers))

    @abstractmethod
    def _tokens(self, output: Any) -> Float[Tensor, "n d"]:
        """All parts of the tokens of a pass, cells in raster order."""

    @abstractmethod
    def _in_raster_order(self, cells: Float[Tensor, "t n"]) -> Float[Tensor, "t n"]:
        """A value for each cell, from the order in which the layers have them."""

    def encode(
        self, pixels: UInt8[np.ndarray, "t h w 3"] | UInt8[Tensor, "t h w 3"]
    ) -> FrameFeatures:
        """See `VisionEncoder.encode`."""
        self._settings.check(tuple(pixels.shape))
        size = self.layout.frames
        if len(pixels) % size:
            raise InvalidFeatures(
                f"got {len(pixels)} frames, expected a multiple of {size}; repeat the last one"
            )
        return encode_in_passes(
            pixels, self._encode_pass, self.grid, self._half.device, patch_frames=size
        )

    @torch.no_grad()
    def _encode_pass(self, pixels: np.ndarray | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        steps, vision = len(pixels) // self.layout.frames, self._vision
        rows, columns = (side * vision.spatial_merge_size for side in self.grid)
        patches = patchify(  # which copies: the frames' own values are let go before the tower runs
            self._settings.normalise(pixels, self._half.device, self._half.dtype),
            self.layout.frames,
            vision.patch_size,
            vision.spatial_merge_size,
        )
        self._probed.clear()
        output = self._half.model.visual(
            patches, grid_thw=torch.tensor([[steps, rows, columns]], device=patches.device)
        )
        local_received, global_received = self._probed.take()
        return (
            self._tokens(output).unflatten(0, (steps, -1)),
            self._of_cells(local_received),
            self._of_cells(global_received),
        )

    def _of_cells(self, received: Float[Tensor, "t p"]) -> Float[Tensor, "t n"]:
        patches = self._vision.spatial_merge_size**2
        return self._in_raster_order(received.unflatten(1, (-1, patches)).mean(2))


def patchify(
    values: Float[Tensor, "t 3 h w"], frames: int, patch: int, merge: int
) -> Float[Tensor, "p e"]:
    """Flat patches of `frames` frames each, those of a cell behind each other, cells in raster
    order, as the models' processors cut them.
    """
    num_frames, channels, height, width = values.shape
    cut = values.reshape(
        num_frames // frames,
        frames,
        channels,
        height // patch // merge,
        merge,
        patch,
        width // patch // merge,
        merge,
        patch,
    )
    ordered = cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return ordered.reshape(-1, channels * frames * patch * patch)


def measure_patches(config: Any, settings: PixelSettings, layout: TokenLayout) -> TokenCost:
    """What frames of these settings cost."""
    vision, text = config.vision_config, config.get_text_config()
    unit = vision.patch_size * vision.spatial_merge_size
    cells = settings.format.height // unit * (settings.format.width // unit)
    width = sum(layout.parts) or vision.out_hidden_size
    return TokenCost(cells, width, text.max_position_embeddings, layout.frames)


def read_patch_settings(checkpoint: Checkpoint, vision: Any) -> PixelSettings:
    """Normalisation of the processor, for frames of the one size that the checkpoint names or the
    product's own.

    Raises:
        InvalidCheckpoint: no processor, one that cuts other patches than the tower takes, or a size
            that is not made of whole cells.
    """
    unit = vision.patch_size * vision.spatial_merge_size
    size = checkpoint.config.get("frame_size", [side * unit for side in CELLS])
    fits = isinstance(size, list) and len(size) == 2
    if not fits or not all(isinstance(s, int) and s > 0 and s % unit == 0 for s in size):
        raise InvalidCheckpoint(
            f"{checkpoint.model_id}: got frame_size {size}, expected [height, width] in multiples "
            f"of {unit}; mend config.json"
        )
    given = read_processor(checkpoint)
    expected = {
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
    }
    for name, value in expected.items():
        if given.get(name, value) != value:
            raise InvalidCheckpoint(
                f"{checkpoint.model_id}: the processor has {name} {given[name]}, the tower {value}"
                "; mend preprocessor_config.json"
            )
    return normalisation(checkpoint, given, PixelFormat(*size))
