"""Many files in, the frames of one stream out: segments of one camera, read one after the other.

    with JoinedReader(source, pixel_format) as reader:      # source.segments says what lies where
        for frame in reader:
            ...

Frames are those of the undivided recording: one grid of times runs through all files, and a clip
may span from one file to the next. Where the next file begins later than the last one ended, or
shows pictures of another size, its first frame says so (`Frame.cut`, `Frame.gap`). A file that
cannot be read is left out with a warning, and what it held is a gap. All frames are of epoch 0:
what the clocks of the files do is theirs.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from workers.decode.backend import Backend
from workers.decode.packets import PacketReader
from workers.decode.reader import VideoReader, frame_end_s
from workers.decode.sampling import TOLERANCE_S
from workers.decode.track import OpenTrack, open_track
from workers.errors import NoFrames, SourceError, SourceUnreachable
from workers.types import (
    Cursor,
    Frame,
    GapReason,
    PixelFormat,
    Segment,
    SourceEnd,
    VideoSource,
    is_gap,
)

logger = logging.getLogger(__name__)

_SAME_S = 1e-6


@dataclass(frozen=True)
class SegmentFacts:
    """What a file says of its time."""

    clock_s: float
    """What its container's clock shows at its start; nothing where each file counts anew."""
    length_s: float
    created_s: float | None
    """Unix time at which its header says that it was begun."""


def probe_segment(path: str, *, roots: Sequence[Path] = ()) -> SegmentFacts:
    """Look at a file; one that does not say how long it is is read to its end, undecoded.

    Raises a `SourceError` as `open_track` does.
    """
    with open_track(path, roots=roots) as track:
        length_s = track.declared_end_s
        if length_s is None or length_s <= 0:
            length_s = _read_length_s(track)
        created = track.container.metadata.get("creation_time")
        clock_s = float(track.origin * track.time_base)
        return SegmentFacts(clock_s, max(0.0, length_s), _parse_time(created))


def _read_length_s(track: OpenTrack) -> float:
    ends = [
        packet.pts + (packet.duration or track.interval)
        for packet in PacketReader(track)
        if packet.pts is not None
    ]
    return float((max(ends, default=track.origin) - track.origin) * track.time_base)


def _parse_time(text: str | None) -> float | None:
    """Recorders that have no clock write 1904 or 1970."""
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text or "")
        if moment.tzinfo is not None and moment.year > 1980:
            return moment.timestamp()
    return None


class JoinedReader:
    """Reads the segments of a source; a context manager to be iterated once, as `VideoReader`.

    Raises a `SourceError` on opening and while iterating where no segment can be read.
    """

    def __init__(
        self,
        source: VideoSource,
        pixel_format: PixelFormat,
        *,
        after: Cursor | None = None,
        roots: Sequence[Path] = (),
        backend: Backend = "cpu",
    ) -> None:
        self._source, self._after = source, after
        self._format, self._roots = pixel_format, tuple(roots)
        self._backend: Backend = backend
        self._stack = ExitStack()
        self._left: list[Segment] = []
        """What is still to be opened."""
        self._reader: VideoReader | None = None
        self._segment: Segment | None = None
        self._error: SourceError | None = None
        """Why the last segment that was left out could not be read."""
        self._frames = self._damaged = 0
        self._last: Frame | None = None
        """The last frame that was given, in stream time."""
        self._size: tuple[int, int] | None = None
        self._cut_short = False
        """Whether the last segment that was read ended before its end."""
        self._interval_s = 0.0

    def __enter__(self) -> "JoinedReader":
        after, segments = self._after, self._source.segments
        begun = 0
        if after is not None:
            starts = [segment.start_s <= after.last_pts_s + _SAME_S for segment in segments]
            begun = max(0, sum(starts) - 1)
        self._left = list(segments[begun:])
        self._open_next()
        if self._reader is None:
            raise self._error or NoFrames("no segment is left to be read; name some")
        self._interval_s = self._reader.interval_s
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def stop_waiting(self) -> None:
        """Its files are finished: there is nothing to wait for."""

    @property
    def interval_s(self) -> float:
        """Seconds of stream a sampled frame stands for."""
        return self._interval_s

    @property
    def total_s(self) -> float | None:
        """Where the last segment says that it ends."""
        return self._source.segments[-1].end_s

    @property
    def end(self) -> SourceEnd:
        """How the last segment ended; known once the frames are exhausted."""
        if self._frames and self._damaged == self._frames:
            return "damaged"
        return "truncated" if self._cut_short else "complete"

    def __iter__(self) -> Iterator[Frame]:
        while self._reader is not None and self._segment is not None:
            try:
                for frame in self._place(self._reader, self._segment):
                    self._frames += 1
                    self._damaged += frame.damaged
                    self._last = frame
                    yield frame
                self._cut_short = self._reader.end == "truncated"
            except SourceUnreachable:
                raise
            except SourceError as error:
                self._leave_out(error)
            self._open_next()
        if self._error is not None and not self._frames and self._after is None:
            raise self._error

    def _open_next(self) -> None:
        """Open the next segment that can be read."""
        self._reader = None
        while self._left and self._reader is None:
            self._stack.close()
            self._segment = segment = self._left.pop(0)
            part, after = self._part_of(segment), self._cursor_in(segment)
            reader = VideoReader(
                part, self._format, after=after, roots=self._roots, backend=self._backend
            )
            try:
                self._reader = self._stack.enter_context(reader)
            except SourceError as error:
                self._leave_out(error)

    def _leave_out(self, error: SourceError) -> None:
        logger.warning("stream %s: a segment is left out: %s", self._source.stream_id, error)
        self._error = error

    def _part_of(self, segment: Segment) -> VideoSource:
        """The file as a source of its own, whose grid of times is that of the stream."""
        source, end_s = self._source, self._source.end_s
        return replace(
            source,
            url=segment.path,
            segments=(),
            start_s=self._grid_start_s(segment) - segment.at_s,
            end_s=None if end_s is None else end_s - segment.at_s,
        )

    def _grid_start_s(self, segment: Segment) -> float:
        """The target of the first slot that a picture of the segment may fill."""
        source, after = self._source, self._after
        begin_s = max(segment.start_s, source.start_s)
        if source.fps is None:
            return begin_s
        slack_s = float(TOLERANCE_S)
        passed = (begin_s - source.start_s) * source.fps
        is_begun = segment.start_s > segment.at_s + _SAME_S  # its slot was filled before
        slot = math.ceil(passed - slack_s) if is_begun else math.floor(passed + slack_s)
        last_s = self._last.pts_s if self._last is not None else after and after.last_pts_s
        if last_s is not None:
            filled = math.floor((last_s - source.start_s + slack_s) * source.fps)
            slot = max(slot, filled + 1)
        return source.start_s + slot / source.fps

    def _cursor_in(self, segment: Segment) -> Cursor | None:
        after = self._after
        if after is None or segment.start_s > after.last_pts_s + _SAME_S:
            return None
        return replace(
            after,
            epoch=0,
            last_pts_s=after.last_pts_s - segment.at_s,
            end_s=after.end_s - segment.at_s,
        )

    def _place(self, reader: VideoReader, segment: Segment) -> Iterator[Frame]:
        """A segment's frames in stream time; the first says what lies before it."""
        follower = self._left[0] if self._left else None
        size = reader.info.width, reader.info.height
        is_first, epoch = True, 0
        for own in reader:
            frame = _move(own, segment.at_s, follower)
            after = self._after
            if after is not None and frame.pts_s <= after.last_pts_s + _SAME_S:
                continue  # of a later epoch of the file, which no cursor leads into
            if is_first:
                gap = self._gap_before(frame)
                resized = self._size not in (None, size)
                frame = replace(frame, gap=gap, cut=gap is not None or resized)
            elif own.epoch != epoch:
                frame = replace(frame, cut=True)
            is_first, epoch, self._size = False, own.epoch, size
            yield frame

    def _gap_before(self, frame: Frame) -> GapReason | None:
        """Why there is nothing before a segment's first frame, where something is missing."""
        covered_s = self._covered_s()
        if not is_gap(frame.pts_s - covered_s + self.interval_s, self.interval_s):
            return None
        return frame.gap or ("truncated" if self._cut_short else "gap")

    def _covered_s(self) -> float:
        if self._last is not None:
            return frame_end_s(self._last, self.interval_s)
        return self._source.start_s if self._after is None else self._after.end_s


def _move(frame: Frame, by_s: float, follower: Segment | None) -> Frame:
    """A frame in stream time; the last of a file speaks for no time of the file behind it."""
    ends_s = None if frame.epoch_end_s is None else frame.epoch_end_s + by_s
    if ends_s is not None and follower is not None:
        ends_s = None if follower.start_s <= ends_s + _SAME_S else ends_s
    return replace(
        frame,
        pts_s=frame.pts_s + by_s,
        epoch=0,
        end_s=None if frame.end_s is None else frame.end_s + by_s,
        epoch_end_s=ends_s,
    )
