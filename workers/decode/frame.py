"""One decoded picture in, the pixels the model's image processor would see out.

In: a `VideoFrame` of any size and pixel format. Out: u8[h w 3] RGB in the `PixelFormat`'s size,
not yet normalised. Knows nothing of time, of files or of which frames are wanted.

What is done, once and always in the same way:

- To RGB by swscale as `VideoFrame.to_ndarray(format="rgb24")` does it, with the matrix and range
  the picture is tagged with (BT.601, limited range, where it is not tagged). More than 8 bits are
  rounded to 8; PQ and HLG are *not* tone-mapped; gray becomes three equal channels; alpha is
  dropped; interlaced pictures are left woven, both fields in one frame.
- The display matrix is applied (quarter turns and mirrors) before the resize.
- Resize straight to height x width with antialiasing. The aspect is not kept, as SigLIP's
  processor does not keep it, so the sample aspect ratio cannot change the result: stretching the
  samples to square ones first and then to the model's square is the same map of the plane.
"""

import struct

import numpy as np
from av import VideoFrame
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from workers.types import PixelFormat

Orientation = tuple[int, bool]
"""(quarter turns counter-clockwise, mirrored left to right afterwards)."""

UPRIGHT: Orientation = (0, False)


class FrameConverter:
    """Turns decoded pictures into model-sized RGB; keeps swscale's tables between frames."""

    def __init__(self, pixel_format: PixelFormat) -> None:
        self.pixel_format = pixel_format
        self._reformatter = VideoReformatter()

    def convert(self, frame: VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels of `frame`: upright, RGB, resized; a fresh array."""
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return resize(turn(rgb, read_orientation(frame)), self.pixel_format)


def resize(
    pixels: UInt8[np.ndarray, "rows cols 3"], pixel_format: PixelFormat
) -> UInt8[np.ndarray, "h w 3"]:
    """Resize with antialiasing in uint8, horizontally then vertically.

    This is the very call torchvision's image processors make, so the result equals theirs bit for
    bit. Pillow's (what transformers uses without torchvision) has the same filter but rounds its
    weights otherwise: one value in 300 differs by 1 when shrinking (mean 0.003 of 255, at most 2
    when enlarging noise). Pillow takes five times as long.
    """
    import torch  # only here: a reader that is asked what a file says needs none

    height, width = pixel_format.height, pixel_format.width
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        planes, size=(height, width), mode=pixel_format.resample, antialias=True
    )
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def turn(
    pixels: UInt8[np.ndarray, "rows cols 3"], orientation: Orientation
) -> UInt8[np.ndarray, "h w 3"]:
    """Apply quarter turns and a mirror; a view."""
    quarter_turns, mirrored = orientation
    turned = np.rot90(pixels, quarter_turns) if quarter_turns else pixels
    return turned[:, ::-1] if mirrored else turned


def read_orientation(frame: VideoFrame) -> Orientation:
    """How the picture must be turned to stand upright; `UPRIGHT` when nothing (sane) is said.

    The display matrix maps a sample (x, y) to (a x + c y, b x + d y), y pointing down; only its
    eight axis-parallel forms are honoured, others (skewed, all zero) count as not given.
    """
    try:
        # Not `frame.side_data`, which frame and container keep: a cycle, and so the picture stays
        # until the collector comes, a hundred pictures later.
        side_data = SideDataContainer(frame)  # pyright: ignore[reportCallIssue]: its stub is bare
        if SideDataType.DISPLAYMATRIX not in side_data:
            return UPRIGHT
        values = struct.unpack("=9i", bytes(side_data[SideDataType.DISPLAYMATRIX])[:36])
    except (ValueError, LookupError, struct.error):
        # PyAV looks at all side data at once and stumbles over kinds that it has no name for
        # (views of spatial video, EXIF); the angle it finds without them.
        return orientation_of_angle(frame.rotation)
    a, b, c, d = (np.sign(values[i]) for i in (0, 1, 3, 4))
    return _ORIENTATIONS.get((int(a), int(b), int(c), int(d)), UPRIGHT)


def orientation_of_angle(degrees: int) -> Orientation:
    """The nearest quarter turns, counter-clockwise."""
    return round(degrees / 90) % 4, False


_ORIENTATIONS: dict[tuple[int, int, int, int], Orientation] = {
    (1, 0, 0, 1): (0, False),
    (0, 1, -1, 0): (3, False),
    (-1, 0, 0, -1): (2, False),
    (0, -1, 1, 0): (1, False),
    (-1, 0, 0, 1): (0, True),
    (1, 0, 0, -1): (2, True),
    (0, 1, 1, 0): (3, True),
    (0, -1, -1, 0): (1, True),
}
