"""Planes of a decoded picture in, the pixels a model would see out: colour and size in torch.

What `FrameConverter` does with swscale on a CPU, for pictures that lie on a card, and on any other
device: YCbCr with half the chroma in both directions (NV12, P010, P016) to RGB by the picture's own
matrix and range (ITU-R BT.601-7, BT.709-6, BT.2020-2), in 8 bits, turned upright, resized with
antialiasing. RGB of 8-bit pictures of even size is swscale's, but for a step where its fixed-point
factors round otherwise; resized, values differ by one step here and there. Knows of no decoder.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from workers.types import PixelFormat

Orientation = tuple[int, bool]
"""As `frame.Orientation`."""

BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)
"""The shares of red and blue in luma."""
LUMA_SHARES = {1: BT709, 4: (0.30, 0.11), 7: (0.212, 0.087), 9: BT2020, 10: BT2020}
"""By H.273's number of the matrix (MatrixCoefficients); any other is taken for BT.601, as swscale
does."""
FULL_RANGE = 2
"""FFmpeg's number of the range 0 to 255."""


def planes_to_pixels(
    luma: Tensor,
    chroma: Tensor,
    pixel_format: PixelFormat,
    *,
    matrix: int = 2,
    is_full_range: bool = False,
    orientation: Orientation = (0, False),
) -> UInt8[np.ndarray, "h w 3"]:
    """Pixels for a model, on the host.

    `luma` is u8[rows cols], or u16 whose upper bits count; `chroma` [rows/2 cols/2 2], Cb before
    Cr. `matrix` is H.273's number, 2 for one that is not said.
    """
    rgb = to_rgb(_in_eights(luma), _in_eights(chroma), matrix=matrix, is_full_range=is_full_range)
    upright = _turn(rgb, orientation)
    return resize_planes(upright, pixel_format).permute(1, 2, 0).contiguous().cpu().numpy()


def _in_eights(plane: Tensor) -> Tensor:
    """In units of 8 bits; of 16-bit planes the upper byte holds them."""
    values = plane.to(torch.float32)
    return values / 256 if plane.dtype == torch.uint16 else values


def to_rgb(
    luma: Float[Tensor, "rows cols"],
    chroma: Float[Tensor, "half_rows half_cols 2"],
    *,
    matrix: int,
    is_full_range: bool,
) -> Float[Tensor, "3 rows cols"]:
    """RGB in whole numbers of 0 to 255; every chroma sample stands for the four pixels it covers.

    R = Y' + 2 (1 - Kr) Cr', B = Y' + 2 (1 - Kb) Cb', G from Y' = Kr R + Kg G + Kb B, where Y' has
    the range 0 to 255 and Cb', Cr' -127.5 to 127.5 (BT.601-7, section 2.5). Every term is rounded
    down, as swscale does: rounded to the nearest, a picture would be one step brighter than there.
    """
    red, blue = LUMA_SHARES.get(matrix, BT601)
    green = 1 - red - blue
    rows, cols = luma.shape
    y = luma if is_full_range else (luma - 16) * (255 / 219)
    centred = (chroma - 128) * (1.0 if is_full_range else 255 / 224)
    cb, cr = _spread(centred, rows, cols).unbind(-1)
    r = (2 * (1 - red) * cr).floor()
    b = (2 * (1 - blue) * cb).floor()
    g = (-2 * red * (1 - red) / green * cr).floor() + (-2 * blue * (1 - blue) / green * cb).floor()
    return (torch.stack([r, g, b]) + y.floor()).clamp_(0, 255)


def _spread(
    chroma: Float[Tensor, "half_rows half_cols 2"], rows: int, cols: int
) -> Float[Tensor, "rows cols 2"]:
    """To the size of the luma; a last odd row or column takes what its neighbour has."""
    down = (torch.arange(rows, device=chroma.device) // 2).clamp(max=chroma.shape[0] - 1)
    across = (torch.arange(cols, device=chroma.device) // 2).clamp(max=chroma.shape[1] - 1)
    return chroma.index_select(0, down).index_select(1, across)


def _turn(
    rgb: Float[Tensor, "3 rows cols"], orientation: Orientation
) -> Float[Tensor, "3 rows2 cols2"]:
    quarter_turns, mirrored = orientation
    turned = torch.rot90(rgb, quarter_turns, dims=(1, 2))
    return turned.flip(2) if mirrored else turned


def resize_planes(
    rgb: Float[Tensor, "3 rows cols"], pixel_format: PixelFormat
) -> UInt8[Tensor, "3 h w"]:
    """Resize with antialiasing; in float32, as cards have no uint8 form of it."""
    size = (pixel_format.height, pixel_format.width)
    if rgb.shape[1:] != size:
        [rgb] = torch.nn.functional.interpolate(
            rgb[None], size=size, mode=pixel_format.resample, antialias=True
        )
    return rgb.round().clamp(0, 255).to(torch.uint8)
