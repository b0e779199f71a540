"""Files of one camera as one stream: in what order, and where each lies on the stream's time.

A stream that is joined is known by the list of its files, which the store keeps. Files that are new
come behind those that are known; where each begins is told by the first of these that is to be had
and believed:

1. the time in its name (`begun`), or the creation time in its header;
2. its container's clock, where that goes on from the file before it (`ffmpeg -f segment`);
3. the file before it, at whose end it begins.

A time is not believed where the file would begin before the middle of the one before it: names may
be of the download, headers of the conversion. What remains of an overlap is read once. Differences
below two seconds are the rounding of names, and no gap. Knows of no store and no session.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo

from pipeline.ingest.begun import begun_times, natural_order
from pipeline.ingest.identity import Change, compare_file, identify_file
from pipeline.values.errors import Conflict
from pipeline.values.types import FileIdentity, StreamSegment
from workers.decode.joined import SegmentFacts
from workers.errors import NoVideoStream, SourceError
from workers.types import MIN_GAP_S, Segment

logger = logging.getLogger(__name__)

Probe = Callable[[str], SegmentFacts]

MAX_CLOCK_STEP_S = 24 * 3600.0
"""A container's clock that runs ahead by more is another recording's."""


@dataclass(frozen=True)
class Layout:
    """The files of a joined stream, in order."""

    segments: tuple[StreamSegment, ...]
    """All of them, those that are known and those that are new."""
    fresh: tuple[StreamSegment, ...]
    """Those of which the store does not know yet what they are now."""

    @property
    def wall_start_s(self) -> float | None:
        """Unix time of stream second 0, as the first file with a time tells it."""
        told = (one.wall_s - one.at_s for one in self.segments if one.wall_s is not None)
        return next(told, None)

    def parts(self) -> tuple[Segment, ...]:
        """The files as a reader takes them."""
        return tuple(Segment(one.path, one.at_s, one.start_s, one.end_s) for one in self.segments)


def lay_out(
    paths: Sequence[str],
    known: Sequence[StreamSegment],
    probe: Probe,
    *,
    zone: tzinfo | None = None,
    moved: bool = False,
) -> Layout:
    """Find out which files are known, and put those that are new behind them.

    Args:
        paths: the files there are now; those that were read may be gone.
        probe: looks at a file; one that raises a `SourceError` is left out with a warning.
        zone: of the times in names; None is this machine's.
        moved: accept files that lie elsewhere than the known ones, and go on behind those.

    Raises:
        Conflict: a file is no longer what was read, comes before what was read, or has nothing to
            do with it.
        SourceError: no file can be read.
    """
    there = {one.path: one for one in known}
    ordered = _in_order([os.path.abspath(path) for path in paths], zone)
    if moved:
        ordered = [path for path in ordered if path in there or not _is_one_of(path, known)]
    segments = [*known]
    changed = list(_changed(ordered, there, probe))
    for one in changed:
        segments[segments.index(there[one.path])] = one
    new = [path for path in ordered if path not in there]
    _require_behind(ordered, new, there)
    is_tied = moved or not known or any(path in there for path in ordered)
    placed = list(_place_all(new, segments, probe, zone, is_tied=is_tied))
    return Layout((*segments, *placed), (*changed, *placed))


def _in_order(paths: Iterable[str], zone: tzinfo | None) -> list[str]:
    """By the times in their names where all have one, else by their names."""
    told = {path: begun_times(path, zone) for path in dict.fromkeys(paths)}
    if all(told.values()):
        return sorted(told, key=lambda path: (told[path][0], natural_order(path)))
    return sorted(told, key=natural_order)


def _is_one_of(path: str, known: Sequence[StreamSegment]) -> bool:
    """Whether a file that lies elsewhere is one that is known."""
    now = identify_file(path)
    return now is not None and any(replace(one.file, mtime_s=now.mtime_s) == now for one in known)


def _changed(
    paths: Iterable[str], there: dict[str, StreamSegment], probe: Probe
) -> Iterator[StreamSegment]:
    """Known files that went on since they were read."""
    for path in paths:
        one = there.get(path)
        if one is None:
            continue
        now, change = _what_became_of(path, one.file)
        if change == "other":
            raise Conflict(
                f"{path} is another recording than the one that was read; give it another name, or "
                "--restart to read all anew"
            )
        if change == "grown" and now is not None:
            facts = probe(path)
            end_s = max(one.end_s, one.at_s + facts.length_s)
            clock_end_s = facts.clock_s + facts.length_s
            yield replace(one, end_s=end_s, clock_end_s=clock_end_s, file=now)


def _what_became_of(path: str, was: FileIdentity) -> tuple[FileIdentity | None, Change]:
    """Size and age alone say that a file is the same, so that thousands need no reading."""
    try:
        facts = os.stat(path)
    except OSError:
        return None, "same"  # it is gone; what was read of it stays
    if (facts.st_size, facts.st_mtime) == (was.size_bytes, was.mtime_s):
        return was, "same"
    now = identify_file(path)
    return (None, "same") if now is None else (now, compare_file(path, was, now))


def _require_behind(ordered: list[str], new: list[str], there: dict[str, StreamSegment]) -> None:
    """A stream goes on at its end: nothing can be put between what was read."""
    known = [number for number, path in enumerate(ordered) if path in there]
    fresh = set(new)
    before = [path for path in ordered[: known[-1] if known else 0] if path in fresh]
    if before:
        raise Conflict(
            f"{before[0]} is new and comes before files that were read; leave it out, or --restart "
            "to read all anew"
        )


def _place_all(
    paths: Sequence[str],
    known: Sequence[StreamSegment],
    probe: Probe,
    zone: tzinfo | None,
    *,
    is_tied: bool,
) -> Iterator[StreamSegment]:
    """New files, each behind the one before it."""
    before = known[-1] if known else None
    timed = next((one for one in known if one.wall_s is not None), None)
    error: SourceError | None = None
    for path in paths:
        try:
            facts = probe(path)
        except SourceError as refused:
            logger.warning("a segment is left out: %s", refused)
            error = refused
            continue
        file = identify_file(path)
        if file is None:
            logger.warning("a segment is left out: %s went while it was looked at", path)
            continue
        walls = begun_times(path, zone) or [wall for wall in (facts.created_s,) if wall is not None]
        one = _place(path, facts, file, walls, before, timed)
        if before is not None and not is_tied and one.wall_s is None:
            raise Conflict(
                f"{path} has no time that says where it lies behind {before.path}; give the files "
                "that were read too, or --resume to have it go on where they end"
            )
        before, is_tied = one, True
        timed = timed or (one if one.wall_s is not None else None)
        yield one
    if before is None:
        raise error or NoVideoStream("none of the files holds a video; name some that do")


def _place(
    path: str,
    facts: SegmentFacts,
    file: FileIdentity,
    walls: Sequence[float],
    before: StreamSegment | None,
    timed: StreamSegment | None,
) -> StreamSegment:
    clock_end_s = facts.clock_s + facts.length_s
    if before is None:
        wall_s = walls[0] if walls else None
        return StreamSegment(path, 0.0, 0.0, facts.length_s, clock_end_s, wall_s, file)
    at_s, wall_s = _by_wall(walls, before, timed)
    if at_s is None:
        at_s = before.end_s + _clock_step_s(facts, before)
    if abs(at_s - before.end_s) < MIN_GAP_S:
        at_s = before.end_s
    start_s = max(at_s, before.end_s)
    end_s = max(start_s, at_s + facts.length_s)
    return StreamSegment(path, at_s, start_s, end_s, clock_end_s, wall_s, file)


def _by_wall(
    walls: Sequence[float], before: StreamSegment, timed: StreamSegment | None
) -> tuple[float | None, float | None]:
    """(stream time, Unix time) of a file's start by the first of its times that is believed.

    The first file of a stream that has a time gives the clock of all others.
    """
    if timed is None or timed.wall_s is None:
        return None, None
    for wall_s in walls:
        at_s = timed.at_s + wall_s - timed.wall_s
        if at_s >= (before.start_s + before.end_s) / 2:
            return at_s, wall_s
    return None, None


def _clock_step_s(facts: SegmentFacts, before: StreamSegment) -> float:
    """How much later a file begins than the one before it ends, by the clock both may share."""
    step_s = facts.clock_s - before.clock_end_s
    return step_s if -MIN_GAP_S < step_s < MAX_CLOCK_STEP_S and facts.clock_s > 0 else 0.0
