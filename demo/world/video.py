"""Writes a scene as a real H.264 file; the only place in `demo` that knows PyAV."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from demo.world.render import render
from demo.world.scenes import Scene

FRAMES_PER_CHUNK = 32


def write_video(
    scene: Scene, path: Path, *, size: int = 448, fps: int = 10, gop_frames: int = 50
) -> None:
    """Encode the whole scene to an mp4 at `path`; memory does not grow with its length.

    Raises:
        ValueError: `size` is odd, which 4:2:0 cannot hold.
    """
    if size % 2:
        raise ValueError(f"size is {size}, expected an even number; H.264 4:2:0 needs one")
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast", "g": str(gop_frames), "threads": "1"}
        for image in iter_frames(scene, size=size, fps=fps):
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def iter_frames(scene: Scene, *, size: int, fps: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Frames of the scene in order, at `k / fps` seconds."""
    count = round(scene.duration_s * fps)
    for start in range(0, count, FRAMES_PER_CHUNK):
        index = np.arange(start, min(start + FRAMES_PER_CHUNK, count))
        yield from render(scene, index / fps, size).pixels
