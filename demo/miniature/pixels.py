"""Pictures as the miniature's vision tower reads them."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from demo.miniature.model import IMAGE_SIZE


def shrink(pixels: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t h2 w2 3"]:
    """Bicubic with antialiasing to the model's size, as the ingest path does."""
    if pixels.shape[1] == IMAGE_SIZE:
        return pixels
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    small = F.interpolate(planes, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True)
    return small.permute(0, 2, 3, 1).contiguous().numpy()


def normalise(pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """uint8 to what SigLIP reads: -1 to 1."""
    return (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()
