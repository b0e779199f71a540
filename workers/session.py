"""One stream's way from its source to its sink: read, compress, commit in order.

`run_session` is a plain generator: it yields a `Progress` after every commit and ends with the
stream. What is committed is the only memory it has. Started again after any kind of death it asks
the sink where the stream stands and goes on behind that, with the same clips as if nothing had
happened. It knows neither Ray nor a store.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from workers.errors import ClipsFailed, InvalidSettings, NoFrames, SinkWentBack
from workers.seams import (
    ClipSink,
    SessionReport,
    SessionState,
    StopSignal,
    WorkerGroup,
    WorkerInfo,
)
from workers.types import (
    Clip,
    CompressedClip,
    Cursor,
    FailedClip,
    GapReason,
    SourceEnd,
    StreamGap,
    VideoSource,
    is_gap,
)

logger = logging.getLogger(__name__)


MAX_RETURNS = 10
"""How often a session goes back because its sink lost what it had acknowledged."""
RECALLED_CLIPS = 4096
"""Of whose counts a session knows how they were, should it have to go back."""


@dataclass(frozen=True)
class SessionSettings:
    """What a session decides by itself; the tokens are decided by `CompressSettings`."""

    max_failed_in_row: int = 3
    """Clips that may fail one after the other before the session ends with an error."""

    def __post_init__(self) -> None:
        if self.max_failed_in_row < 1:
            raise InvalidSettings(
                f"max_failed_in_row must be at least 1, got {self.max_failed_in_row}"
            )


@dataclass(frozen=True)
class Progress:
    """How far a session has come; counts are of this run, times are of the stream."""

    stream_id: str
    state: SessionState = "starting"
    frames: int = 0
    clips: int = 0
    failed_clips: int = 0
    gaps: int = 0
    damaged: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    stored_bytes: int = 0
    footage_s: float = 0.0
    """Stream seconds covered by the clips of this run."""
    resumed_s: float | None = None
    """End of the last clip of an earlier run; None when there was none."""
    position_s: float = 0.0
    """Stream time up to which everything is committed."""
    total_s: float | None = None
    """Stream time at which the source says it ends; None when it does not say."""
    elapsed_s: float = 0.0
    """Wall seconds since this run began."""
    error: Exception | None = None
    truncated: bool = False
    """The source ended before the end it declares."""

    @property
    def x_realtime(self) -> float:
        """Stream seconds per wall second."""
        return self.footage_s / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def retention(self) -> float:
        """Tokens kept over tokens before reduction, measured."""
        return self.tokens_out / self.tokens_in if self.tokens_in else 0.0

    @property
    def done(self) -> bool:
        """Whether the session has ended, in whichever way."""
        return self.state in ("complete", "stopped", "failed")


@runtime_checkable
class ClipReader(Protocol):
    """Clips of one source, read lazily, with what is known once they are read."""

    @property
    def interval_s(self) -> float:
        """Seconds between two samples."""
        ...

    @property
    def total_s(self) -> float | None:
        """Stream time at which the source says it ends."""
        ...

    @property
    def end(self) -> SourceEnd:
        """How the source ended; known when the last clip was taken."""
        ...

    def why_gap(self, index: int) -> GapReason:
        """Why there is nothing before a clip, where something is missing; asked once."""
        ...

    def __iter__(self) -> Iterator[Clip]: ...


OpenClips = Callable[[VideoSource, WorkerInfo, Cursor | None], AbstractContextManager[ClipReader]]
"""Opens a source behind a cursor, as clips of the length and pixel format the workers take."""


CheckSource = Callable[[VideoSource], Any]
"""Raises a `SourceError` where `OpenClips` would; asked before a model is loaded."""


def run_session(
    source: VideoSource,
    settings: SessionSettings,
    workers: WorkerGroup,
    sink: ClipSink,
    *,
    open_clips: OpenClips,
    stop: StopSignal | None = None,
) -> Iterator[Progress]:
    """Bring `source` into `sink` from where it stands, and yield the progress of every commit.

    The last value has the state `complete` or `stopped`. A stop drops the open clip, which the
    next run reads again, so that clips are cut at the same frames however often a run is stopped.

    Raises:
        SourceError: the source cannot be read; what came before is committed.
        ClipsFailed: `max_failed_in_row` clips could not be compressed.
        WorkerLost: the workers are gone.
        Whatever the sink raises when it cannot store.
    """
    cursor = sink.position()
    commits = _Commits(source, sink, cursor)
    if cursor is not None and cursor.complete:
        yield commits.progress("complete")
        return
    try:
        yield commits.progress("running")
        while True:
            try:
                end = yield from _read_on(source, settings, workers, commits, open_clips, stop)
                break
            except SinkWentBack as error:
                commits.go_back(error)
    except Exception as error:
        commits.finish("failed", error=error)
        raise
    commits.finish(end.state, truncated=end.truncated)
    yield replace(commits.progress(end.state, total_s=end.total_s), truncated=end.truncated)


@dataclass(frozen=True)
class _End:
    state: SessionState
    truncated: bool
    total_s: float | None


def _read_on(
    source: VideoSource,
    settings: SessionSettings,
    workers: WorkerGroup,
    commits: "_Commits",
    open_clips: OpenClips,
    stop: StopSignal | None,
) -> Generator[Progress, None, _End]:
    """Read from behind what is committed to the end, and commit."""
    with open_clips(source, workers.info, commits.cursor) as reader:
        for result in workers.compress_stream(reader, stop=stop):
            commits.add(result, reader)
            if commits.failed_in_row >= settings.max_failed_in_row:
                raise ClipsFailed(_too_many_failed(source, result, commits.failed_in_row))
            yield commits.progress("running", total_s=reader.total_s)
        state = "stopped" if stop is not None and stop.is_set() else "complete"
        if state == "complete" and reader.end == "damaged":
            raise NoFrames(_all_damaged(source))
        truncated = state == "complete" and reader.end == "truncated"
        if truncated:
            commits.add_truncation(reader.total_s)
        return _End(state, truncated, reader.total_s)


class _Commits:
    """What one run has committed so far: the sink's only writer, and its counters."""

    def __init__(self, source: VideoSource, sink: ClipSink, cursor: Cursor | None) -> None:
        self._source = source
        self._sink = sink
        self.cursor = cursor
        """Behind which the source is read."""
        self._lost: StreamGap | None = None
        self._returns = 0
        self._kept: deque[tuple[tuple[int, int], Progress]] = deque(maxlen=RECALLED_CLIPS)
        self._last = (0, source.start_s) if cursor is None else (cursor.epoch, cursor.end_s)
        self._started_s = time.monotonic()
        self._progress = Progress(
            stream_id=source.stream_id,
            resumed_s=None if cursor is None else cursor.end_s,
            position_s=source.start_s if cursor is None else cursor.end_s,
        )
        self._begun = self._progress
        self.failed_in_row = 0

    def progress(self, state: SessionState, *, total_s: float | None = None) -> Progress:
        elapsed_s = time.monotonic() - self._started_s
        return replace(self._progress, state=state, elapsed_s=elapsed_s, total_s=total_s)

    def go_back(self, error: SinkWentBack) -> None:
        """Go on from where the sink stands now: what it lost is read and stored again.

        Raises:
            SinkWentBack: it loses again and again.
        """
        self._returns += 1
        if self._returns > MAX_RETURNS:
            raise error
        lost_epoch, lost_end_s = self._last
        self.cursor = cursor = self._sink.position()
        self._last = (0, self._source.start_s) if cursor is None else (cursor.epoch, cursor.end_s)
        self._lost = StreamGap(
            self._source.stream_id, lost_epoch, min(self._last[1], lost_end_s), lost_end_s, "store"
        )
        here = (-1, -1) if cursor is None else (cursor.epoch, cursor.index)
        while self._kept and self._kept[-1][0] > here:
            self._kept.pop()
        self._progress = self._kept[-1][1] if self._kept else self._begun

    def add(self, result: CompressedClip | FailedClip, reader: ClipReader) -> None:
        reason = reader.why_gap(result.index)
        self._add_gap_before(result, reader.interval_s, reason)
        if isinstance(result, FailedClip):
            self._add_failed(result)
        else:
            self._add_clip(result)
        self._last = (result.epoch, result.end_s)

    def _add_clip(self, clip: CompressedClip) -> None:
        wall_start_s = self._source.wall_start_s
        if wall_start_s is not None and clip.wall_start_s is None:
            clip = replace(clip, wall_start_s=wall_start_s + clip.start_s)
        stored_bytes = self._sink.put(clip)
        self.failed_in_row = 0
        before = self._progress
        if self._lost is not None and (clip.epoch, clip.end_s) >= (
            self._lost.epoch,
            self._lost.end_s,
        ):
            self._lost = None
        self._progress = replace(
            before,
            frames=before.frames + clip.stats.frames_in,
            clips=before.clips + 1,
            damaged=before.damaged + clip.stats.damaged,
            tokens_in=before.tokens_in + clip.stats.tokens_in,
            tokens_out=before.tokens_out + clip.stats.tokens_out,
            stored_bytes=before.stored_bytes + stored_bytes,
            footage_s=before.footage_s + clip.end_s - clip.start_s,
            position_s=clip.end_s,
        )
        self._kept.append(((clip.epoch, clip.index), self._progress))

    def _add_failed(self, clip: FailedClip) -> None:
        logger.warning("stream %s clip %d failed: %s", clip.stream_id, clip.index, clip.detail)
        self._put_gap(StreamGap(clip.stream_id, clip.epoch, clip.start_s, clip.end_s, "failed"))
        self.failed_in_row += 1
        self._progress = replace(
            self._progress,
            failed_clips=self._progress.failed_clips + 1,
            position_s=clip.end_s,
        )

    def _add_gap_before(
        self, clip: CompressedClip | FailedClip, interval_s: float, reason: GapReason
    ) -> None:
        """Record that nothing came before a clip."""
        _, covered_s = self._last
        if is_gap(clip.start_s - covered_s + interval_s, interval_s):
            self._put_gap(StreamGap(clip.stream_id, clip.epoch, covered_s, clip.start_s, reason))

    def add_truncation(self, total_s: float | None) -> None:
        """Record the stretch that the source declares and does not hold."""
        epoch, end_s = self._last
        limits_s = [limit for limit in (total_s, self._source.end_s) if limit is not None]
        missing_to_s = min(limits_s, default=end_s)
        gap = StreamGap(self._source.stream_id, epoch, end_s, max(end_s, missing_to_s), "truncated")
        self._put_gap(gap)

    def _put_gap(self, gap: StreamGap) -> None:
        self._sink.put_gap(gap)
        self._progress = replace(self._progress, gaps=self._progress.gaps + 1)

    def finish(
        self, state: SessionState, *, truncated: bool = False, error: Exception | None = None
    ) -> None:
        """Tell the sink how the run ended; a failing sink must not hide why the run failed."""
        report = SessionReport(
            state=state,
            truncated=truncated,
            damaged=self._progress.damaged,
            error_code=None if error is None else getattr(error, "code", type(error).__name__),
            error=None if error is None else str(error),
        )
        try:
            if state == "failed" and self._lost is not None:  # what was lost cannot be had again
                self._sink.put_gap(self._lost_for_good(self._lost))
            self._sink.finish(report)
        except Exception as finish_error:
            if error is None:
                raise
            error.add_note(f"the sink could not record the end: {finish_error}")

    def _lost_for_good(self, lost: StreamGap) -> StreamGap:
        """The part of what the sink lost that was not stored again."""
        return replace(lost, start_s=max(lost.start_s, self._last[1]))


def _all_damaged(source: VideoSource) -> str:
    return (
        f"stream {source.stream_id}: every one of its pictures came out damaged; look at "
        "the source (a broken or encrypted file); what came is kept"
    )


def _too_many_failed(
    source: VideoSource, result: CompressedClip | FailedClip, failed_in_row: int
) -> str:
    detail = result.detail if isinstance(result, FailedClip) else "unknown"
    return (
        f"stream {source.stream_id}: {failed_in_row} clips in a row could not be compressed, the "
        f"last because of: {detail}; use a smaller model or clip, or a device with more memory"
    )
