"""From decoded frames to what a vision tower takes: the part of preprocessing after the resize.

The decoder delivers RGB frames at the checkpoint's size already (`PixelFormat`), so what is left
of its image processor is x -> (x * rescale - mean) / std. The settings are the checkpoint's own:
those for video when it has them, else those for images.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from aot import InvalidFeatures
from workers.errors import InvalidCheckpoint, UnsupportedModel
from workers.models.checkpoint import Checkpoint
from workers.types import PixelFormat

RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers of the interpolations that the decoder has."""


@dataclass(frozen=True)
class PixelSettings:
    """What a checkpoint's processor does to a frame."""

    format: PixelFormat
    rescale: float
    mean: tuple[float, ...]
    """Of red, green, blue, after the rescaling."""
    std: tuple[float, ...]

    def digest(self) -> str:
        """16 hex digits."""
        return hashlib.blake2b(json.dumps(astuple(self)).encode(), digest_size=8).hexdigest()

    def normalise(
        self,
        pixels: UInt8[np.ndarray, "t h w 3"] | UInt8[Tensor, "t h w 3"],
        device: torch.device,
        dtype: torch.dtype,
    ) -> Float[Tensor, "t 3 h w"]:
        """Rescale and normalise in float32, channels first.

        The host waits for no accelerator: pixels go there by way of pinned memory.
        """
        if isinstance(pixels, np.ndarray):
            pixels = _copied(pixels, pinned=device.type == "cuda")
        mean, std = _channels(self.mean, self.std, device)
        values = pixels.to(device, non_blocking=True).float()  # a copy, ours to write to
        values.mul_(self.rescale).sub_(mean).div_(std)
        return values.permute(0, 3, 1, 2).to(dtype).contiguous()

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise InvalidFeatures unless frames of this shape are what the tower takes."""
        expected = (self.format.height, self.format.width, 3)
        if len(shape) != 4 or tuple(shape[1:]) != expected:
            raise InvalidFeatures(
                f"got frames of shape {tuple(shape)}, expected (t, {expected[0]}, {expected[1]}, 3)"
                "; resize them to the encoder's pixel_format"
            )
        if shape[0] == 0:
            raise InvalidFeatures("got an empty clip, expected at least one frame; skip it")


def _copied(pixels: UInt8[np.ndarray, "t h w 3"], *, pinned: bool) -> UInt8[Tensor, "t h w 3"]:
    """The pixels in memory of their own: what is shared is read-only, and what is pinned is copied
    to an accelerator while the host goes on.
    """
    copy = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=pinned)
    np.copyto(copy.numpy(), pixels)
    return copy


@lru_cache(maxsize=8)
def _channels(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
    """Mean and deviation on a device. Kept for the few models a process has; never written to."""
    with torch.inference_mode(False):
        return torch.tensor(mean, device=device), torch.tensor(std, device=device)


def read_pixel_settings(checkpoint: Checkpoint) -> PixelSettings:
    """Read the processor settings from whichever of its files the checkpoint has.

    Raises:
        InvalidCheckpoint: a setting is in none of them.
        UnsupportedModel: an interpolation or a way of resizing that the decoder has not.
    """
    given = read_processor(checkpoint)
    with _reading(checkpoint):
        size, resample = given["size"], given["resample"]
        rescale = float(given["rescale_factor"]) if given.get("do_rescale", True) else 1.0
    pixel_format = _pixel_format(checkpoint, size, resample)
    return normalisation(checkpoint, {**given, "rescale_factor": rescale}, pixel_format)


def normalisation(
    checkpoint: Checkpoint, given: Mapping[str, Any], pixel_format: PixelFormat
) -> PixelSettings:
    """What a processor does to frames of a size that is known, by the settings it was given.

    Raises:
        InvalidCheckpoint: mean or deviation are not among them.
    """
    with _reading(checkpoint):
        rescale = float(given.get("rescale_factor", 1 / 255))
        normalises = given.get("do_normalize", True)
        mean = tuple(float(x) for x in given["image_mean"]) if normalises else (0.0,) * 3
        std = tuple(float(x) for x in given["image_std"]) if normalises else (1.0,) * 3
    return PixelSettings(pixel_format, rescale, mean, std)


@contextmanager
def _reading(checkpoint: Checkpoint) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidCheckpoint(
            f"{checkpoint.model_id}: the processor settings lack or garble {error}, expected "
            "preprocessor_config.json with size, resample, rescale_factor, image_mean, image_std; "
            "fetch the checkpoint again"
        ) from error


def read_processor(checkpoint: Checkpoint) -> dict[str, Any]:
    """Settings for images, overlaid with those for video; either file layout."""
    processor = checkpoint.read_json("processor_config.json")
    return {
        **checkpoint.read_json("preprocessor_config.json"),
        **processor.get("image_processor", {}),
        **checkpoint.read_json("video_preprocessor_config.json"),
        **processor.get("video_processor", {}),
    }


def _pixel_format(checkpoint: Checkpoint, size: Any, resample: Any) -> PixelFormat:
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if not isinstance(size, dict) or not {"height", "width"} <= size.keys():
        raise UnsupportedModel(
            f"{checkpoint.model_id} resizes frames to {size}, expected a height and a width; "
            "its processor is not supported"
        )
    if resample not in RESAMPLE:
        raise UnsupportedModel(
            f"{checkpoint.model_id} resamples by PIL filter {resample}, expected one of "
            f"{RESAMPLE}; its processor is not supported"
        )
    return PixelFormat(int(size["height"]), int(size["width"]), RESAMPLE[resample])
