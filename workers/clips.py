"""Frames in, clips out: cut by count, and early where the source breaks off.

A clip is `clip_frames` sampled frames in presentation order whose pixels lie in one array. It
ends early at a new epoch and before a frame marked `cut`; the last one may be short. Knows
nothing of how frames are decoded.
"""

import time
from collections.abc import Iterable, Iterator

import numpy as np

from workers.types import Clip, Frame


def cut_clips(
    frames: Iterable[Frame],
    stream_id: str,
    clip_frames: int,
    *,
    interval_s: float,
    first_index: int = 0,
) -> Iterator[Clip]:
    """Cut frames into clips of `clip_frames`, numbered from `first_index` on.

    `interval_s`: seconds a frame stands for; a clip ends that long after its last frame.
    `Clip.decode_s` is the CPU time this thread spent in pulling the clip's frames.
    """
    if clip_frames < 1:
        raise ValueError(f"clip_frames must be at least 1, got {clip_frames}; take 8")
    index, open_clip = first_index, _OpenClip()
    for frame, decode_s in _timed(frames):
        if open_clip.frames and (frame.cut or frame.epoch != open_clip.frames[-1].epoch):
            yield open_clip.close(stream_id, index, interval_s)
            index, open_clip = index + 1, _OpenClip()
        open_clip.append(frame, decode_s)
        if len(open_clip.frames) == clip_frames:
            yield open_clip.close(stream_id, index, interval_s)
            index, open_clip = index + 1, _OpenClip()
    if open_clip.frames:
        yield open_clip.close(stream_id, index, interval_s)


class _OpenClip:
    """Frames gathered so far."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.decode_s = 0.0

    def append(self, frame: Frame, decode_s: float) -> None:
        self.frames.append(frame)
        self.decode_s += decode_s

    def close(self, stream_id: str, index: int, interval_s: float) -> Clip:
        pts_s = np.array([frame.pts_s for frame in self.frames], dtype=np.float64)
        return Clip(
            stream_id=stream_id,
            epoch=self.frames[0].epoch,
            index=index,
            pixels=np.stack([frame.pixels for frame in self.frames]),
            pts_s=pts_s,
            end_s=float(pts_s[-1]) + interval_s,
            decode_s=self.decode_s,
            damaged=sum(frame.damaged for frame in self.frames),
        )


def _timed(frames: Iterable[Frame]) -> Iterator[tuple[Frame, float]]:
    """Each frame with the CPU seconds it took to get it."""
    started = time.thread_time()
    for frame in frames:
        yield frame, time.thread_time() - started
        started = time.thread_time()
