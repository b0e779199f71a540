"""Frames in, clips out: cut by count, and early where the source breaks off.

A clip is `clip_frames` sampled frames in presentation order whose pixels lie in one array. It
ends early at a new epoch and before a frame marked `cut`; the last one may be short.
`open_clips` reads a file that way for a session, `check_source` tells beforehand whether it could;
`cut_clips` takes frames from anywhere.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from workers.decode.backend import Backend
from workers.decode.joined import JoinedReader
from workers.decode.reader import VideoReader, frame_end_s
from workers.decode.track import open_track
from workers.seams import WorkerInfo
from workers.types import Clip, Cursor, Frame, GapReason, SourceEnd, VideoSource

logger = logging.getLogger(__name__)

CLOSE_S = 30.0
"""How long the clip that is being read is waited for before its file is closed."""


@runtime_checkable
class FrameReader(Protocol):
    """Frames of one source, with what is known of it: `VideoReader` and `JoinedReader`."""

    @property
    def interval_s(self) -> float:
        """Seconds of stream a sampled frame stands for."""
        ...

    @property
    def total_s(self) -> float | None:
        """Where the source says that it ends."""
        ...

    @property
    def end(self) -> SourceEnd:
        """How it ended; known once the frames are exhausted."""
        ...

    def stop_waiting(self) -> None:
        """Wait no longer for what is not written yet; for another thread than the reader's."""
        ...

    def __iter__(self) -> Iterator[Frame]: ...


def check_source(source: VideoSource, *, roots: Sequence[Path] = ()) -> None:
    """Open a file as `open_clips` does and close it again; no clip is decoded.

    Raises what `VideoReader` raises on opening; what only shows while reading, it does not see.
    Segments were looked at when they were put in order.
    """
    if source.segments:
        return
    with open_track(source.url, roots=roots, follow_s=source.follow_s):
        pass


@contextmanager
def open_clips(
    source: VideoSource,
    info: WorkerInfo,
    cursor: Cursor | None,
    *,
    roots: Sequence[Path] = (),
    backend: Backend = "cpu",
) -> Iterator["FileClips"]:
    """A file's clips of the length and pixel format the workers take, from behind a cursor.

    The clips behind a cursor are those of an undisturbed run: same frames, same index, same
    pixels. Raises what `VideoReader` raises.
    """
    with ExitStack() as stack:
        kind = JoinedReader if source.segments else VideoReader
        reader = kind(source, info.pixel_format, after=cursor, roots=roots, backend=backend)
        stack.enter_context(reader)
        clips = FileClips(reader, source.stream_id, info.clip_frames, cursor)
        try:
            yield clips
        finally:
            if not clips.stop_reading(CLOSE_S):
                stack.pop_all()  # closing a file that is being read would end the process
                logger.error("stream %s: its file does not answer; left open", source.stream_id)


class FileClips:
    """Clips of an open file, to be iterated once (a session's `ClipReader`)."""

    def __init__(
        self, reader: FrameReader, stream_id: str, clip_frames: int, cursor: Cursor | None
    ) -> None:
        self.reader = reader
        """The frames' source."""
        self.interval_s = reader.interval_s
        self._gaps: dict[int, GapReason] = {}
        self._clips = cut_clips(
            reader,
            stream_id,
            clip_frames,
            interval_s=self.interval_s,
            first_index=0 if cursor is None else cursor.index + 1,
            gaps=self._gaps,
        )
        self._reading = threading.Lock()
        self._stopped = False

    def __iter__(self) -> Iterator[Clip]:
        """May be pulled by another thread than the one that closes the file."""
        while True:
            with self._reading:
                clip = None if self._stopped else next(self._clips, None)
            if clip is None:
                return
            yield clip

    def stop_reading(self, timeout_s: float) -> bool:
        """Give no clip after the one that is being read; False when that does not come."""
        self._stopped = True
        self.reader.stop_waiting()
        if not self._reading.acquire(timeout=timeout_s):
            return False
        self._reading.release()
        return True

    @property
    def total_s(self) -> float | None:
        """Where the source says that it ends; files of several epochs do not know."""
        return self.reader.total_s

    @property
    def end(self) -> SourceEnd:
        """How the file ended; known once the clips are exhausted."""
        return self.reader.end

    def why_gap(self, index: int) -> GapReason:
        """Why there is nothing before a clip, asked where something is missing."""
        return self._gaps.pop(index, "gap")


def cut_clips(
    frames: Iterable[Frame],
    stream_id: str,
    clip_frames: int,
    *,
    interval_s: float,
    first_index: int = 0,
    gaps: dict[int, GapReason] | None = None,
) -> Iterator[Clip]:
    """Cut frames into clips of `clip_frames`, numbered from `first_index` on.

    `interval_s`: seconds a frame stands for; a clip ends that long after its last frame, or later
    where that is shown longer. `gaps`: takes, by index, why something is missing before a clip.
    `Clip.decode_s` is the CPU time this thread spent in pulling the clip's frames.
    """
    if clip_frames < 1:
        raise ValueError(f"clip_frames must be at least 1, got {clip_frames}; take 8")
    index, open_clip = first_index, _OpenClip()
    for frame, decode_s in _timed(frames):
        if open_clip.frames and (frame.cut or frame.epoch != open_clip.frames[-1].epoch):
            yield open_clip.close(stream_id, index, interval_s)
            index, open_clip = index + 1, _OpenClip()
        if gaps is not None and frame.gap is not None:
            gaps[index] = frame.gap
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
            end_s=frame_end_s(self.frames[-1], interval_s),
            decode_s=self.decode_s,
            damaged=sum(frame.damaged for frame in self.frames),
        )


def _timed(frames: Iterable[Frame]) -> Iterator[tuple[Frame, float]]:
    """Each frame with the CPU seconds it took to get it."""
    started = time.thread_time()
    for frame in frames:
        yield frame, time.thread_time() - started
        started = time.thread_time()
