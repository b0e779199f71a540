"""How long footage is kept: rules of age and size, applied to streams while they are written.

A rule removes the oldest clips of a stream, whole ones, until it holds; the store tells the stretch
as `expired`. A turn is bounded, so that a session that applies it is never held up for long: what
is left over goes with the next turn. Older footage fades (`fading`) beside that, in its own thread.
Knows of no session and no terminal.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.store.ages import age_from, is_older, seen_at
from pipeline.store.base import ClipStore
from pipeline.store.cold.moving import cool_turn
from pipeline.store.fading import FadeRule, Fading, require_fading
from pipeline.store.upkeep import Upkeep
from pipeline.values.errors import InvalidSettings, LeaseHeld, PipelineError, UnknownStream
from pipeline.values.types import ClipSpan, DeletedCounts, FadedCounts, StreamInfo, StreamOverview

logger = logging.getLogger(__name__)

EVERY_S = 60.0
"""A session applies the rules at most so often."""
TURN_CLIPS = 2048
"""Most clips of a stream that one turn removes: an hour's worth of many, a fraction of a second."""
ROOM_CLIPS = 64
"""Clips removed of a stream before it is asked again whose footage is the oldest."""
SHARED = ".retention"
"""The lease of whoever makes room in the store as a whole: two at once would remove too much."""
SHARED_LEASE_S = 60.0
NONE_REMOVED = DeletedCounts(0, 0, 0)


@dataclass(frozen=True)
class RetentionRules:
    """What may stay; None leaves it without a limit."""

    max_age_s: float | None = None
    """Of footage: since it was seen where its wall clock is known, else since its stream was last
    written."""
    max_bytes_per_stream: int | None = None
    """Of records."""
    max_bytes: int | None = None
    """Of the records of all streams; the oldest footage goes first, whichever stream it is of."""
    cool_after_s: float | None = None
    """What is older is kept in the cold tier, and counts as before for the other rules."""
    fade: tuple[FadeRule, ...] = ()
    """What stays of older footage, from the youngest on."""
    levels: bool = False
    """Whether records of several clips together are kept beside them."""

    def __post_init__(self) -> None:
        require_fading(self.fade)
        for name in ("max_age_s", "max_bytes_per_stream", "max_bytes", "cool_after_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidSettings(f"retention: got {name} {value}, expected more than 0")

    @property
    def remove(self) -> bool:
        """Whether there is one by which clips go."""
        return replace(self, fade=(), levels=False) != RetentionRules()


class Retention:
    """The rules as a session applies them beside its writing: now and then, and never failing."""

    def __init__(
        self,
        store: ClipStore,
        stream_id: str,
        rules: RetentionRules,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._stream_id, self._rules, self._clock = store, stream_id, rules, clock
        self._next_s = float("-inf")
        self._upkeep = Upkeep(store, stream_id, rules.fade, levels=rules.levels)

    def after_write(self) -> DeletedCounts:
        """Apply the rules when it is time again; a store that cannot is tried the next time.

        What fades does so beside the writing, which does not wait for it.
        """
        if self._rules == RetentionRules() or self._clock() < self._next_s:
            return NONE_REMOVED
        self._next_s = self._clock() + EVERY_S
        self._upkeep.begin()
        try:
            removed = prune_stream(self._store, self._stream_id, self._rules)
            removed = removed + make_room(self._store, self._rules)
            if self._rules.cool_after_s is not None:
                cool_turn(self._store, self._stream_id, self._rules.cool_after_s)
            return removed
        except PipelineError as error:
            logger.warning("%s: retention is put off: %s", self._stream_id, error)
            return NONE_REMOVED

    def close(self) -> None:
        """Let what fades end with its page."""
        self._upkeep.close()


def prune(
    store: ClipStore, rules: RetentionRules, stream_id: str | None = None
) -> Iterator[tuple[str, DeletedCounts]]:
    """Apply the rules to one stream, or to all and to the store, until they hold.

    Yields what was removed of each stream, those without any left out.

    Raises:
        UnknownStream: there is no stream of that id.
        LeaseHeld: somebody else makes room in the store just now.
        StoreError: what failed.
    """
    now_s = time.time()
    for name in store.list_streams() if stream_id is None else [stream_id]:
        removed = NONE_REMOVED
        try:
            while (part := prune_stream(store, name, rules, now_s=now_s)) != NONE_REMOVED:
                removed = removed + part
        except UnknownStream:
            if stream_id is not None:
                raise
            continue  # removed meanwhile
        if removed != NONE_REMOVED:
            yield name, removed
    if stream_id is None and rules.max_bytes is not None:
        yield from _remove_excess(store, rules.max_bytes, most_clips=None)


def fade(
    store: ClipStore, rules: Sequence[FadeRule], stream_id: str | None = None
) -> Iterator[tuple[str, FadedCounts]]:
    """Fade what is due of one stream, or of all; yields what that changed of each.

    Raises:
        UnknownStream: there is no stream of that id.
        StoreError: what failed.
    """
    for name in store.list_streams() if stream_id is None else [stream_id]:
        try:
            counts = Fading(store, name, rules).turn(time.time())
        except UnknownStream:
            if stream_id is not None:
                raise
            continue  # removed meanwhile
        if counts.clips:
            yield name, counts


def prune_stream(
    store: ClipStore, stream_id: str, rules: RetentionRules, *, now_s: float | None = None
) -> DeletedCounts:
    """One turn: remove what is too old, and what is too much, of a stream."""
    overview, now_s = store.get_overview(stream_id), time.time() if now_s is None else now_s
    cuts_s: list[float] = []
    if rules.max_age_s is not None:
        cuts_s += _cut_by_age(store, overview, now_s - rules.max_age_s)
    if rules.max_bytes_per_stream is not None:
        cuts_s += _cut_by_size(store, overview, rules.max_bytes_per_stream)
    if not cuts_s:
        return NONE_REMOVED
    removed = store.delete_range(stream_id, None, max(cuts_s))
    _log(stream_id, removed)
    return removed


def make_room(store: ClipStore, rules: RetentionRules) -> DeletedCounts:
    """One turn: remove the oldest clips of all streams while their records are too many bytes.

    Nothing where somebody else is at it.
    """
    removed = NONE_REMOVED
    if rules.max_bytes is not None:
        try:
            for _, part in _remove_excess(store, rules.max_bytes, most_clips=TURN_CLIPS):
                removed = removed + part
        except LeaseHeld:
            logger.debug("somebody else makes room in the store")
    return removed


def oldest_wall_s(store: ClipStore, stream_id: str) -> float | None:
    """Unix time of a stream's oldest clip; None without clips, or where it is not known."""
    first = next(_spans_of(store, stream_id), None)
    return None if first is None else seen_at(first, store.get_info(stream_id))


def _cut_by_age(store: ClipStore, overview: StreamOverview, oldest_s: float) -> list[float]:
    """Where a stream begins once what was seen before Unix time `oldest_s` is gone.

    By the clips, and for stretches without any by the stream's own wall clock.
    """
    info, cut_s, gone = overview.info, float("-inf"), 0
    if info.wall_start_s is not None:
        cut_s = oldest_s - info.wall_start_s
    for span in store.iter_spans(info.stream_id):
        is_old = is_older(span, info, oldest_s)
        if not is_old or gone == TURN_CLIPS:
            cut_s = span.start_s if gone == TURN_CLIPS else min(cut_s, span.start_s)
            break
        gone, cut_s = gone + 1, max(cut_s, span.end_s)
    return [cut_s] if cut_s > float("-inf") else []


def _cut_by_size(store: ClipStore, overview: StreamOverview, most_bytes: int) -> list[float]:
    """Where a stream begins once its records are no more than so many bytes."""
    excess = overview.totals.size_bytes - most_bytes
    return _cut_after(store, overview.info.stream_id, excess, TURN_CLIPS)


def _cut_after(store: ClipStore, stream_id: str, excess: int, most_clips: int) -> list[float]:
    """Where a stream begins once its oldest `excess` bytes are gone; nothing where none are."""
    if excess <= 0:
        return []
    end_s, freed, gone = float("-inf"), 0, 0
    for span in store.iter_spans(stream_id):
        if freed >= excess or gone == most_clips:
            return [min(end_s, span.start_s)] if end_s > span.start_s else [end_s]
        end_s, freed, gone = max(end_s, span.end_s), freed + span.size_bytes, gone + 1
    return [end_s] if gone else []


def _remove_excess(
    store: ClipStore, most_bytes: int, most_clips: int | None
) -> Iterator[tuple[str, DeletedCounts]]:
    """Remove the oldest clips of all streams, a few at a time, under the lease that all share."""
    overviews = [o for o in store.iter_overviews() if isinstance(o, StreamOverview)]
    excess = sum(overview.totals.size_bytes for overview in overviews) - most_bytes
    if excess <= 0:
        return
    lease = store.acquire_lease(SHARED, "retention", ttl_s=SHARED_LEASE_S)
    try:
        gone = 0
        infos = {overview.info.stream_id: overview.info for overview in overviews}
        found = {name: _find_oldest(store, info) for name, info in infos.items()}
        oldest = {name: wall_s for name, wall_s in found.items() if wall_s is not None}
        while excess > 0 and oldest and (most_clips is None or gone < most_clips):
            stream_id = min(oldest, key=lambda name: oldest[name])
            removed = _remove_oldest(store, stream_id, excess)
            _log(stream_id, removed)
            yield stream_id, removed
            excess, gone = excess - removed.size_bytes, gone + removed.clips
            oldest_s = _find_oldest(store, infos[stream_id]) if removed.clips else None
            if oldest_s is None:
                del oldest[stream_id]
            else:
                oldest[stream_id] = oldest_s
            store.renew_lease(lease)
    finally:
        store.release_lease(lease)


def _remove_oldest(store: ClipStore, stream_id: str, excess: int) -> DeletedCounts:
    try:
        cuts_s = _cut_after(store, stream_id, excess, ROOM_CLIPS)
        return store.delete_range(stream_id, None, cuts_s[0]) if cuts_s else NONE_REMOVED
    except UnknownStream:
        return NONE_REMOVED


def _find_oldest(store: ClipStore, info: StreamInfo) -> float | None:
    """Unix time from which the age of a stream's first clip counts; None without clips."""
    first = next(_spans_of(store, info.stream_id), None)
    return None if first is None else age_from(first, info)


def _spans_of(store: ClipStore, stream_id: str) -> Iterator[ClipSpan]:
    try:
        yield from store.iter_spans(stream_id)
    except UnknownStream:
        return  # removed meanwhile


def _log(stream_id: str, removed: DeletedCounts) -> None:
    if removed != NONE_REMOVED:
        logger.info("%s: %d clips expired, %d bytes", stream_id, removed.clips, removed.size_bytes)
