"""Clips of a range removed, a page in a transaction: rows, values, totals and the gap that tells.

Beside a live writer: both change the stream's facts under a watch, so that one of the two tries
again, and the writer keeps its lease and its position.
"""

import logging
import time
from dataclasses import dataclass, replace
from typing import Any

from redis.client import Pipeline

from pipeline.store import rows
from pipeline.store.checks import require_range
from pipeline.store.expiry import GapChange, Removal, change_gaps, reach_of
from pipeline.store.redis.clips import Facts
from pipeline.store.redis.cooling import RedisCooling
from pipeline.values.errors import CorruptValue, StoreFull
from pipeline.values.types import EXPIRED, ClipSpan, DeletedCounts, Gap, StreamTotals

logger = logging.getLogger(__name__)

PAGE = 256
"""Clips of one transaction: the server is held up for less than a millisecond."""
ATTEMPTS = 500
"""A writer that puts without a pause comes first: its transactions are the shorter ones."""
ROOM_S = 5.0
"""How long a full server may take to free what was removed."""


@dataclass(frozen=True)
class _Page:
    """Rows that were read, and those of them that go."""

    removal: Removal
    members: tuple[bytes, ...]
    """Also rows that do not read, and lie in the range by their score."""
    num_kept: int

    @property
    def places(self) -> set[tuple[int, int]]:
        return {place for member in self.members if (place := rows.place_in(member))}


class RedisExpiry(RedisCooling):
    """The rows and values of a range, removed."""

    def _delete_range(
        self, stream_id: str, start_s: float | None, end_s: float | None, *, epoch: int | None
    ) -> tuple[DeletedCounts, list[ClipSpan]]:
        """As `base.ClipWriter.delete_range`, and those that were in the cold tier."""
        start_s, end_s = require_range(start_s, end_s)
        whole = Removal(start_s, end_s, epoch, (), is_last=False)
        counts, passed, untold = DeletedCounts(0, 0, 0), 0, ()
        cold: list[ClipSpan] = []
        while True:
            try:
                page, done = self._delete_page(stream_id, whole, passed, untold)
                untold = ()
            except StoreFull:
                page, done = self._free_page(stream_id, whole, passed)
                untold += page.removal.spans
                if page.removal.is_last:
                    done = done + self._tell(stream_id, whole, untold)
            counts = counts + done
            passed += page.num_kept
            cold += [span for span in page.removal.spans if span.cold is not None]
            if page.removal.is_last:
                return counts, cold

    def _delete_page(
        self, stream_id: str, whole: Removal, passed: int, untold: tuple[ClipSpan, ...]
    ) -> tuple[_Page, DeletedCounts]:
        keys = self._keys
        info, clips, gaps = keys.info(stream_id), keys.clips(stream_id), keys.gaps(stream_id)

        def delete(pipe: Pipeline) -> tuple[_Page, DeletedCounts]:
            facts = self._read_facts(pipe, stream_id)
            page = self._read_page(pipe, stream_id, whole, facts, passed)
            told = replace(page.removal, spans=untold + page.removal.spans)
            members, change = self._changed_gaps(pipe, stream_id, told)
            if not (page.members or change.put or change.drop):
                return page, DeletedCounts(0, 0, 0)
            totals = self._totals_without(pipe, stream_id, facts, page, change)
            pipe.multi()
            self._queue_removal(pipe, stream_id, page)
            if change.drop:
                pipe.zrem(gaps, *(members[gap] for gap in change.drop))
            for gap in change.put:
                pipe.zadd(gaps, {rows.gap_to_text(gap): gap.start_s})
            fields = {rows.TOTALS: rows.totals_to_text(totals)}
            last = max((span.index for span in told.spans), default=-1)
            if last > facts.expired_to:
                fields[rows.EXPIRED_TO] = str(last)
            pipe.hset(info, mapping={**fields})
            pipe.execute()
            return page, _counts(page, change)

        return self._transact(stream_id, [info, clips], delete, attempts=ATTEMPTS)

    def _free_page(
        self, stream_id: str, whole: Removal, passed: int
    ) -> tuple[_Page, DeletedCounts]:
        """Remove a page on a server that takes no more: with commands that need no memory.

        Totals are counted anew by whoever asks; the gap is told as soon as there is room.
        """
        info, clips = self._keys.info(stream_id), self._keys.clips(stream_id)

        def free(pipe: Pipeline) -> tuple[_Page, DeletedCounts]:
            facts = self._read_facts(pipe, stream_id)
            page = self._read_page(pipe, stream_id, whole, facts, passed)
            pipe.multi()
            self._queue_removal(pipe, stream_id, page)
            pipe.hdel(info, rows.TOTALS)
            pipe.execute()
            return page, _counts(page, GapChange((), ()))

        return self._transact(stream_id, [info, clips], free, attempts=ATTEMPTS)

    def _tell(self, stream_id: str, whole: Removal, untold: tuple[ClipSpan, ...]) -> DeletedCounts:
        """The gap of what was removed already, once the server has freed it."""
        until_s = time.monotonic() + ROOM_S
        while True:
            try:
                return self._delete_page(stream_id, whole, 0, untold)[1]
            except StoreFull as error:
                if time.monotonic() > until_s:
                    logger.warning(
                        "%s: %d clips were removed, which no gap tells: %s",
                        stream_id,
                        len(untold),
                        error,
                    )
                    return DeletedCounts(0, 0, 0)
            time.sleep(0.05)

    def _queue_removal(self, pipe: Pipeline, stream_id: str, page: _Page) -> None:
        if page.members:
            pipe.zrem(self._keys.clips(stream_id), *page.members)
        if page.places:
            pipe.unlink(*(self._keys.clip(stream_id, *place) for place in page.places))
            pipe.unlink(*self._levels_over(stream_id, page.places))

    def _read_page(
        self, pipe: Pipeline, stream_id: str, whole: Removal, facts: Facts, passed: int
    ) -> _Page:
        start_s, end_s = whole.start_s, whole.end_s
        lowest = "-inf" if start_s is None else start_s - facts.longest_s
        highest = "+inf" if end_s is None else f"({end_s!r}"
        clips = self._keys.clips(stream_id)
        found: Any = pipe.zrangebyscore(
            clips, lowest, highest, start=passed, num=PAGE, withscores=True
        )
        spans, members = [], []
        for member, score in found:
            try:
                span = rows.span_from_text(stream_id, member)
            except CorruptValue as error:
                if start_s is None or score >= start_s:
                    logger.warning("removed as well: %s", error)
                    members.append(member)
                continue
            if whole.takes(span):
                spans.append(span)
                members.append(member)
        removal = replace(whole, spans=tuple(spans), is_last=len(found) < PAGE)
        return _Page(removal, tuple(members), len(found) - len(members))

    def _changed_gaps(
        self, pipe: Pipeline, stream_id: str, removal: Removal
    ) -> tuple[dict[Gap, bytes], GapChange]:
        found: Any = pipe.zrangebyscore(self._keys.gaps(stream_id), "-inf", reach_of(removal))
        members: dict[Gap, bytes] = {}
        for member in found:
            try:
                members[rows.gap_from_text(stream_id, member)] = member
            except CorruptValue as error:
                logger.warning("left as it is: %s", error)
        return members, change_gaps(removal, list(members))

    def _totals_without(
        self, pipe: Pipeline, stream_id: str, facts: Facts, page: _Page, change: GapChange
    ) -> StreamTotals:
        spans, totals = page.removal.spans, facts.totals
        if totals is None:
            counted = self._count(stream_id, without=page.members)
            return counted.with_gaps(change.put, change.drop)
        num_clips = totals.clips - len(spans)
        if num_clips <= 0:
            none_left = StreamTotals(held=totals.held, held_s=totals.held_s)
            return none_left.with_gaps(change.put, change.drop)
        gone = set(page.members)
        end_s = totals.end_s
        if any(span.end_s >= end_s for span in spans):
            end_s = self._latest_end(pipe, stream_id, gone, facts.longest_s)
        return replace(
            totals,
            clips=num_clips,
            tokens=totals.tokens - sum(span.num_tokens for span in spans),
            size_bytes=totals.size_bytes - sum(span.size_bytes for span in spans),
            footage_s=totals.footage_s - sum(span.end_s - span.start_s for span in spans),
            start_s=self._earliest_start(pipe, stream_id, gone, totals.start_s),
            end_s=end_s,
        ).with_gaps(change.put, change.drop)

    def _earliest_start(
        self, pipe: Pipeline, stream_id: str, gone: set[bytes], default_s: float
    ) -> float:
        """Where the first row begins that stays: at most as many go before it as `gone` has."""
        clips = self._keys.clips(stream_id)
        first: Any = pipe.zrange(clips, 0, len(gone), withscores=True)
        return next((score for member, score in first if member not in gone), default_s)

    def _latest_end(
        self, pipe: Pipeline, stream_id: str, gone: set[bytes], longest_s: float
    ) -> float:
        """Where the last clip that stays ends: it begins at most the longest clip before."""
        clips = self._keys.clips(stream_id)
        tail: Any = pipe.zrevrange(clips, 0, len(gone), withscores=True)
        last_s = next((score for member, score in tail if member not in gone), float("-inf"))
        members: Any = pipe.zrangebyscore(clips, last_s - longest_s, "+inf")
        ends_s = [0.0]
        for member in members:
            if member not in gone:
                try:
                    ends_s.append(rows.span_from_text(stream_id, member).end_s)
                except CorruptValue as error:
                    logger.warning("not counted: %s", error)
        return max(ends_s)


def _counts(page: _Page, change: GapChange) -> DeletedCounts:
    spans = page.removal.spans
    num_gaps = sum(gap.reason != EXPIRED for gap in change.drop)
    return DeletedCounts(len(page.members), num_gaps, sum(span.size_bytes for span in spans))
