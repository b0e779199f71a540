"""Where pictures are decoded and brought to the model's size: on the CPU, or on a card.

    pictures = open_pictures("auto", pixel_format)
    open_track(url, card=pictures.card)         # then pictures.prepare(track.stream, ...)
    pictures.converter.convert(picture)

Whatever a card cannot do the CPU does, and the log says why. The plan does not change: what is not
sent is not decoded, by either.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from av.codec.hwaccel import HWAccel
from av.video.stream import VideoStream

from workers.decode.frame import FrameConverter
from workers.types import PixelFormat

logger = logging.getLogger(__name__)

Backend = Literal["auto", "cpu", "cuda"]
"""`auto` takes a card where there is one; `cuda` warns where there is none."""


def _as_it_is(stream: VideoStream, shown: str) -> None:
    """Nothing is to be readied for the CPU."""


@dataclass(frozen=True)
class Pictures:
    """What decodes, and what converts."""

    converter: FrameConverter
    card: HWAccel | None = None
    """What a container is opened with; None for the CPU."""
    prepare: Callable[[VideoStream, str], None] = _as_it_is
    """Readies an opened track, before its first packet is decoded."""


def open_pictures(backend: Backend, pixel_format: PixelFormat) -> Pictures:
    """The card, where it is asked for and there; else the CPU."""
    if backend == "cpu":
        return Pictures(FrameConverter(pixel_format))
    from workers.decode import cuda  # with torch, which a reader on the CPU may do without

    reason = cuda.why_no_card()
    if reason is None:
        return Pictures(cuda.CardConverter(pixel_format), cuda.open_card(), cuda.prepare_card)
    level = logging.WARNING if backend == "cuda" else logging.INFO
    logger.log(level, "pictures are decoded on the CPU: %s", reason)
    return Pictures(FrameConverter(pixel_format))
