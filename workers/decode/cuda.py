"""Decoding on a card: NVDEC behind the same plan, pictures handed to torch where they lie.

Which packets are sent stays the plan's matter: what is not sent is not decoded, here as on a CPU.
Pictures stay on the card (DLPack) until they have the model's size. Whatever a card cannot do, the
CPU does, and the log says why: no card, a codec or a pixel format that its decoder does not know.
"""

import logging

import numpy as np
import torch
from av import VideoFrame
from av.codec import Codec
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.error import FFmpegError
from av.video.stream import VideoStream
from jaxtyping import UInt8

from workers.decode.colour import FULL_RANGE, planes_to_pixels
from workers.decode.frame import FrameConverter, read_orientation

logger = logging.getLogger(__name__)

SURFACES = 16
"""Pictures that may be held beside those the decoder itself needs; a plan drains a whole GOP's
reordering at once."""


def why_no_card() -> str | None:
    """Why pictures cannot be decoded on a card here; None where they can."""
    if "cuda" not in hwdevices_available():
        return "this build of PyAV has no CUDA"
    if not torch.cuda.is_available():
        return "torch finds no card"
    try:
        open_card().create(Codec("h264", "r"))
    except (FFmpegError, NotImplementedError) as error:
        return f"FFmpeg cannot open the card: {error}"
    return None


def open_card() -> HWAccel:
    """What a container is opened with, its pictures to stay where they are decoded."""
    return HWAccel("cuda", is_hw_owned=True)


def prepare_card(stream: VideoStream, shown: str) -> None:
    """Ready a track of a container that was opened with a card; before its first packet."""
    context = stream.codec_context
    if context.is_hwaccel:
        context.options = {**context.options, "extra_hw_frames": str(SURFACES)}
    else:
        logger.warning(
            "%s: is decoded on the CPU: the decoder %s has no form for a card",
            shown,
            context.codec.name,
        )


class CardConverter(FrameConverter):
    """The same for pictures that lie on a card; of others it does what its base does."""

    _is_told = False

    def convert(self, frame: VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels of `frame`: upright, RGB, resized; a fresh array on the host."""
        if frame.format.name == "cuda":
            return self.convert_planes(frame)
        if not self._is_told:
            self._is_told = True
            logger.info("pictures of %s come from the CPU", frame.format.name)
        return super().convert(frame)

    def convert_planes(self, frame: VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        """The same of a picture whose planes torch can see: NV12, P010, P016, on any device."""
        # As capsules: PyAV takes no stream, and torch asks for one. Both work on the default one.
        luma, chroma = (torch.from_dlpack(plane.__dlpack__()) for plane in frame.planes)
        return planes_to_pixels(
            luma,
            chroma,
            self.pixel_format,
            matrix=int(frame.colorspace),
            is_full_range=int(frame.color_range) == FULL_RANGE,
            orientation=read_orientation(frame),
        )
