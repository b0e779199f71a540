"""One endless stream: pictures in as they come, clips committed in order, every second accounted.

Each second of the stream's line is in a clip, in a held stretch, or in a gap with its reason. A
frame is compressed the moment it comes, onto the open clip's state; the open clip can be read from
the sink before it closes. When frames wait too long the session gives up more and more, and says
so. It has no end of its own: `stop` closes the open clip, commits it and returns. Knows neither Ray
nor a store, and no clock but the one it is given.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from aot import InvalidFeatures
from workers.decode.frame import resize
from workers.decode.live import Picture
from workers.errors import SinkFull, SinkWentBack
from workers.live.clip import ClipGrid, OpenClip
from workers.live.overload import OverloadLadder, Rung
from workers.live.settings import LiveSettings
from workers.live.source import LiveEvents, Outage, SourceTally
from workers.live.stillness import StillnessGate
from workers.live.timeline import Place, Timeline, wall_time
from workers.names import ClockSource
from workers.seams import (
    ClipSink,
    Push,
    Pusher,
    SessionReport,
    SessionState,
    WorkerInfo,
)
from workers.types import (
    CompressedClip,
    Cursor,
    GapReason,
    StopSignal,
    StreamGap,
    VideoSource,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

STORE_OUTAGE_S = 5.0
"""A store that takes longer for a clip was away: pictures were dropped meanwhile."""
SLACK, BEGIN_SLACK = 1.5, 0.1
"""In sampling intervals: less than this between a picture and what came before is no gap. Pictures
do not fall on the sampling grid; where a new epoch begins, something did lie between."""


@runtime_checkable
class LiveSink(ClipSink, Protocol):
    """A sink whose open clip can be read."""

    def put_open(self, clip: CompressedClip) -> int:
        """Show the open clip as it is so far; `put` of the same index takes its place."""
        ...

    def recover_open(self) -> Cursor | None:
        """Commit what an earlier run left open; where the stream stands then.

        It stands behind its gaps too: what was held after the last clip is accounted for.
        """
        ...

    def covered_s(self) -> float:
        """Stream time up to which what is stored accounts for the stream, by clips or gaps."""
        ...

    def fix_wall_start(self, wall_start_s: float) -> float:
        """Unix time of stream second 0: `wall_start_s` where the stream has none yet."""
        ...

    def tell_clock(self, epoch: int, clock: ClockSource) -> None:
        """Whose wall clock placed the epoch that begins, and those behind it until another one is
        told; never waits for a store that is away."""
        ...


@dataclass(frozen=True)
class LiveProgress:
    """Where a live session stands; counts are of this run."""

    stream_id: str
    state: SessionState = "starting"
    frames: int = 0
    """Pictures that came."""
    encoded: int = 0
    held: int = 0
    clips: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    stored_bytes: int = 0
    failed: int = 0
    """Frames whose features could not be used."""
    gaps: dict[str, int] = field(default_factory=dict)
    """Gaps by reason."""
    source: SourceTally = field(default_factory=SourceTally)
    rung: str = "full"
    """How much of the stream is read, see `overload.LADDER`."""
    position_s: float = 0.0
    """Stream time up to which everything is accounted for."""
    freshness_s: float | None = None
    """From the last encoded picture's arrival to its tokens being readable."""
    outage: str | None = None
    """What keeps the source away just now."""


def run_live_session(
    source: VideoSource,
    settings: LiveSettings,
    info: WorkerInfo,
    pusher: Pusher,
    sink: LiveSink,
    live: LiveEvents,
    *,
    stop: StopSignal | None = None,
    clock: Callable[[], float] = time.time,
) -> Iterator[LiveProgress]:
    """Bring an endless source into `sink`, from where that stands, until `stop` is set.

    Yields the progress after every frame and every outage.

    Raises:
        SourceError: what trying again cannot mend.
        WorkerLost: the workers are gone. Whatever the sink raises when it cannot store.
    """
    session = _Session(source, settings, info, pusher, sink, live, clock)
    yield session.progress
    try:
        for event in live.events():
            if isinstance(event, Outage):
                session.take_outage(event)
            else:
                session.take_picture(*event)
            yield session.progress
            if stop is not None and stop.is_set():
                break
        session.close("stopped")
    except Exception as error:
        session.fail(error)
        raise
    yield session.progress


@dataclass
class _Held:
    """A stretch in which nothing changed, as far as it reaches now."""

    first: Place
    end_s: float = 0.0
    is_told: bool = False


class _Session:
    """The open clip, the held stretch and the counters of one run."""

    def __init__(
        self,
        source: VideoSource,
        settings: LiveSettings,
        info: WorkerInfo,
        pusher: Pusher,
        sink: LiveSink,
        live: LiveEvents,
        clock: Callable[[], float],
    ) -> None:
        self._source, self._settings, self._info = source, settings, info
        self._pusher, self._sink, self._live, self._clock = pusher, sink, live, clock
        self._cursor = cursor = sink.recover_open()
        self._index = cursor.index + 1 if cursor else 0
        self._accounted_s = cursor.end_s if cursor else 0.0
        self._timeline: Timeline | None = None
        self._interval_s = 1.0 / source.fps if source.fps else 0.04
        self._gate = None if settings.stillness is None else StillnessGate(settings.stillness)
        self._ladder = OverloadLadder(settings.overload)
        self._grid = ClipGrid(info.clip_frames)
        self._open: OpenClip | None = None
        self._held: _Held | None = None
        self._shown = np.empty(0, np.uint8)
        """The last picture that was new; still ones are taken to look like it."""
        self._still: list[Place] = []
        """Still pictures of this stretch of the grid, in which nothing new has come yet."""
        self._rests = False
        """Whether the last clip shows nothing but that picture."""
        self._told_s = self._accounted_s
        self._missing: GapReason = "restart" if cursor else "gap"
        self._lost: tuple[int, float] | None = None
        """Epoch and second since when the sink could keep nothing."""
        self._begins = False
        self._skipped = 0
        self._away_s = 0.0
        """For which no worker was there, since a frame was observed."""
        self._taken_s = float("-inf")
        self.progress = LiveProgress(
            source.stream_id, state="running", position_s=self._accounted_s
        )

    @property
    def _step_s(self) -> float:
        """Seconds from one picture that is read to the next."""
        return self._interval_s / self._ladder.rung.fps_share

    # What happens

    def take_picture(self, connection: int, picture: Picture) -> None:
        """A picture came: hold it, or compress it onto the open clip."""
        self._timeline = self._timeline or self._begin_line(picture)
        place = self._timeline.place(connection, picture, interval_s=self._interval_s)
        self._count(frames=1, outage=None)
        if place is None:
            return
        if place.starts_epoch:
            self._begin_epoch(place)
        if self._skips(self._ladder.rung, place) or self._is_accounted(place):
            return
        pixels = resize(picture.rgb, self._info.pixel_format)
        is_still = self._gate is not None and self._gate.is_still(pixels)
        self._account_until(place)
        if is_still:
            self._hold(place)
            self._step(self._clock() - picture.arrived_s)
        elif self._show(pixels, place, damaged=picture.damaged):
            self._observe(picture.arrived_s)

    def _begin_epoch(self, place: Place) -> None:
        """What follows is of another clock, or another connection: nothing goes on over that."""
        self._sink.tell_clock(place.epoch, place.clock)
        self._cut()
        self._begins = True
        if self._gate is not None:
            self._gate.restart()

    def _begin_line(self, picture: Picture) -> Timeline:
        given_s = self._source.wall_start_s
        wall_start_s = self._sink.fix_wall_start(
            wall_time(picture)[0] if given_s is None else given_s
        )
        epoch = self._cursor.epoch if self._cursor else -1
        return Timeline(wall_start_s, epoch=epoch, end_s=self._accounted_s)

    def take_outage(self, outage: Outage) -> None:
        """The source went away: what is open ends here."""
        logger.warning("stream %s: %s: %s", self._source.stream_id, outage.reason, outage.text)
        self._cut()
        if outage.failures == 0 or self._missing in ("gap", "restart"):
            self._missing = outage.reason
        self._count(source=self._live.tally, outage=outage.text)

    def close(self, state: SessionState) -> None:
        """Commit what is open and tell the sink how the run ended."""
        self._cut()
        self._tell_lost(self._accounted_s)
        self._sink.finish(SessionReport(state))
        self.progress = replace(self.progress, state=state)

    def fail(self, error: Exception) -> None:
        """Tell the sink why the run ended; a failing sink must not hide it."""
        code = getattr(error, "code", type(error).__name__)
        self.progress = replace(self.progress, state="failed")
        try:
            self._sink.finish(SessionReport("failed", error_code=code, error=str(error)))
        except Exception as finish_error:
            error.add_note(f"the sink could not record the end: {finish_error}")

    # Frames

    def _show(self, pixels: np.ndarray, place: Place, *, damaged: bool) -> bool:
        """Something is new: a frame of the open clip, or of one that begins with the still
        pictures of its stretch of the grid. Whether its tokens can be read."""
        still, self._still = self._still, []
        clip, rests = self._open, self._open is None and not still
        if clip is None:
            clip = self._begin_clip([*still, place][0], still)
        # Apart: what is wrong with this frame costs it alone. What cannot be pushed is a gap.
        if still and clip.fills_patch and not self._push(clip, last=False):
            self._grid.pictures -= 1
            self._account_until(place)
            clip, rests = self._begin_clip(place, ()), True
        self._shown, self._rests = pixels, rests
        return self._add(clip, pixels, place, damaged=damaged)

    def _hold(self, place: Place) -> None:
        """Nothing is new: the open clip shows its last picture again; where none is open, none is
        made unless something comes."""
        self._count(held=1)
        if self._open is not None:
            self._add(self._open, self._shown, place, damaged=False)
            return
        self._still.append(place)
        self._accounted_s = place.pts_s + self._step_s
        if self._grid.is_full:
            self._end_still()

    def _end_still(self) -> None:
        """A stretch of the grid in which nothing was new.

        The first one is a clip, so that the place at rest can be read by itself; those that follow
        are a held stretch.
        """
        still, self._still = self._still, []
        if not still:
            return
        if not self._rests:
            self._rests = True
            clip = self._begin_clip(still[0], still)
            if self._push(clip, last=True):
                self._commit(clip)
            return
        self._held = self._held or _Held(still[0])
        self._held.end_s = self._accounted_s
        if self._accounted_s - self._told_s >= self._settings.tell_held_s:
            self._told_s = self._accounted_s
            self._put_held(self._held)

    def _begin_clip(self, first: Place, still: Sequence[Place]) -> OpenClip:
        self._end_held()
        clip = OpenClip(
            self._source.stream_id,
            self._index,
            first,
            layout=self._info.layout,
            end_s=min(self._accounted_s, first.pts_s),  # where none of its frames can be used
        )
        for place in still:
            clip.wait(self._shown, place, interval_s=self._step_s)
        return clip

    def _add(self, clip: OpenClip, pixels: np.ndarray, place: Place, *, damaged: bool) -> bool:
        """A frame of a clip, pushed with those that wait; whether its tokens can be read."""
        clip.wait(pixels, place, interval_s=self._step_s, damaged=damaged)
        self._open, self._accounted_s = clip, clip.end_s
        last = self._grid.is_full
        if not last and not clip.fills_patch:  # the next frame comes with it
            return False
        if not self._push(clip, last=last):
            return False
        if last:
            self._commit(clip)
        else:
            self._sink.put_open(clip.to_compressed())
        return True

    def _push(self, clip: OpenClip, *, last: bool) -> bool:
        """Compress the frames that wait; False where they cannot be, and are dropped."""
        pixels = np.stack([frame.pixels for frame in clip.waiting])
        recurring = None if self._gate is None else self._source.stream_id
        push = Push(pixels, clip.state, last=last, recurring=recurring)
        try:
            pushed = self._pusher.push(push, timeout_s=self._settings.push_timeout_s)
        except InvalidFeatures as error:
            logger.warning("stream %s: a frame was dropped: %s", self._source.stream_id, error)
            self._drop_waiting(clip)
            return False
        encoded = clip.add(pushed) - pushed.recalled
        self._away_s += pushed.away_s
        self._open, self._accounted_s = clip, clip.end_s
        self._count(encoded=encoded, tokens_in=pushed.tokens_in, tokens_out=len(pushed.tokens))
        return True

    def _drop_waiting(self, clip: OpenClip) -> None:
        """As if its frames that wait had not come: the next picture is new whatever it shows."""
        dropped = clip.drop_waiting()
        self._grid.pictures -= dropped
        self._accounted_s = clip.end_s
        self._open = clip if clip.pts_s else None
        if self._gate is not None:
            self._gate.restart()
        self._count(failed=dropped)

    def _skips(self, rung: Rung, place: Place) -> bool:
        """Whether overload leaves this picture out; what is missing is then its gap.

        Keyframes come as the camera makes them, which may be seldom enough.
        """
        self._skipped += 1
        if not rung.takes_clips:
            self._cut()
            self._missing = "overload"
            self._step(0.0)
            return True
        if rung.pace == "keyframes":
            due_s = self._taken_s + self._step_s - 0.5 * self._interval_s
            is_due = place.pts_s >= due_s
        else:
            is_due = self._skipped % round(1 / rung.fps_share) == 0
        if is_due:
            self._taken_s = place.pts_s
        return not is_due

    def _is_accounted(self, place: Place) -> bool:
        """Whether what ended before this picture reaches beyond it: read at a slower pace, each
        picture stood for more time than there was until the next."""
        return self._open is None and self._accounted_s - place.pts_s > 0.5 * self._interval_s

    def _observe(self, arrived_s: float) -> None:
        fresh_s = self._clock() - arrived_s
        self.progress = replace(self.progress, freshness_s=fresh_s)
        self._step(fresh_s)

    def _step(self, waited_s: float) -> None:
        away_s, self._away_s = self._away_s, 0.0
        if self._ladder.observe(waited_s, self._clock(), away_s=away_s):
            rung = self._ladder.rung
            logger.warning("stream %s reads at %r from now on", self._source.stream_id, rung.name)
            self._live.set_pace(rung.pace)
            self.progress = replace(self.progress, rung=rung.name)

    # What is committed

    def _cut(self) -> None:
        """What follows is behind something that is no footage: its clips are counted anew."""
        self._end_still()
        self._end_clip()
        self._end_held()
        self._rests = False
        self._grid.pictures = 0

    def _end_clip(self) -> None:
        """Close the open clip where it is; a short one is a clip as well."""
        clip = self._open
        if clip is not None and clip.waiting and self._push(clip, last=True):
            self._commit(clip)
            return
        clip, self._open = self._open, None
        if clip is not None:
            rest = self._pusher.finish(clip.state, clip.parts[0].tokens.dtype)
            clip.end(rest)
            self._count(tokens_out=len(rest))
            self._commit(clip)

    def _commit(self, clip: OpenClip) -> None:
        began_s = self._clock()
        compressed = clip.to_compressed()
        self._open = None
        try:
            stored_bytes = self._store(compressed, lambda: self._sink.put(compressed))
        except SinkFull as error:
            self._lose(clip.first.epoch, compressed.start_s, error)
            return
        self._tell_lost(compressed.start_s)
        if self._clock() - began_s > STORE_OUTAGE_S:
            self._missing = "store"  # what came meanwhile was not taken
        self._index = clip.index + 1
        self._count(clips=1, stored_bytes=stored_bytes)

    def _store(self, part: CompressedClip | StreamGap, put: Callable[[], T]) -> T:
        """Store a clip or a gap; what the store lost before it is a gap: a camera shows nothing
        twice."""
        try:
            return put()
        except SinkWentBack as error:
            logger.warning("stream %s: %s", part.stream_id, error)
        lost_from_s = self._sink.covered_s()
        if part.start_s > lost_from_s:
            self._put_gap(part.epoch, lost_from_s, part.start_s, "store")
        return put()

    def _end_held(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._put_held(held)

    def _put_held(self, held: _Held) -> None:
        """One row for the whole stretch: told again, it has another end."""
        counted, held.is_told = held.is_told, True
        first = held.first
        self._put_gap(first.epoch, first.pts_s, held.end_s, "held", counted=counted)

    def _account_until(self, place: Place) -> None:
        """What lies between what was accounted for and this picture, which counts, is a gap."""
        missing, self._missing = self._missing, "gap"
        if missing == "gap" and self._ladder.rung.name != "full":
            missing = "overload"  # less is read, and what is read lies further apart
        slack, self._begins = (BEGIN_SLACK if self._begins else SLACK), False
        if place.pts_s - self._accounted_s > slack * self._step_s:
            self._cut()
            self._put_gap(place.epoch, self._accounted_s, place.pts_s, missing)
            self._accounted_s = place.pts_s
        self._grid.pictures += 1

    def _lose(self, epoch: int, start_s: float, error: SinkFull) -> None:
        """The sink can keep no more: from here on nothing is kept until it can."""
        if self._lost is None:
            logger.warning("stream %s: footage is lost: %s", self._source.stream_id, error)
            self._lost = epoch, start_s

    def _tell_lost(self, until_s: float) -> None:
        """What the sink could not keep is one gap; told when it keeps something again."""
        lost, self._lost = self._lost, None
        if lost is not None and until_s > lost[1]:
            self._put_gap(*lost, until_s, "store")

    def _put_gap(
        self,
        epoch: int,
        start_s: float,
        end_s: float,
        reason: GapReason,
        *,
        counted: bool = False,
    ) -> None:
        gap = StreamGap(self._source.stream_id, epoch, start_s, end_s, reason)
        try:
            self._store(gap, lambda: self._sink.put_gap(gap))
        except SinkFull as error:
            self._lose(epoch, start_s, error)
            return
        if reason != "store":
            self._tell_lost(start_s)
        gaps = self.progress.gaps
        count = gaps.get(reason, 0) + (not counted)
        self.progress = replace(self.progress, gaps={**gaps, reason: count}, position_s=end_s)

    def _count(self, **changes: object) -> None:
        """Add numbers, replace the rest."""
        before = self.progress
        values = {
            name: getattr(before, name) + value if type(value) is int else value
            for name, value in changes.items()
        }
        self.progress = replace(before, position_s=self._accounted_s, **values)  # type: ignore[arg-type]
