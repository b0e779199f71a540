"""Clips written and read: value, index row, totals and position change together or not at all."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from redis.client import Pipeline

from pipeline.store import rows
from pipeline.store.checks import (
    Place,
    require_fingerprint,
    require_not_behind,
    require_own,
    unknown_stream_error,
)
from pipeline.store.cold.tier import require_cold
from pipeline.store.expiry import holds_clip
from pipeline.store.redis.index import read_gap
from pipeline.store.redis.streams import RedisStreams
from pipeline.store.writes import REFILLED, NewRecord, RecordWrites
from pipeline.values.errors import CorruptValue
from pipeline.values.types import ClipSpan, Gap, Lease, Position, StreamTotals

_FACTS = (
    "fingerprint",
    rows.LAYOUT_FIELD,
    rows.POSITION,
    rows.LONGEST,
    rows.TOTALS,
    rows.RETRIABLE,
    rows.EXPIRED_TO,
)


@dataclass(frozen=True)
class Facts:
    """What of a stream's facts a write needs, as it was read under the watch."""

    fingerprint: str
    position: Position | None
    longest_s: float
    totals: StreamTotals | None
    has_retriable: bool
    expired_to: int
    """Clips behind this index were never removed; -1 where none was."""

    @classmethod
    def read(cls, stream_id: str, known: list[bytes | None]) -> "Facts":
        """From the values of the stream's fields, in this order.

        Raises:
            UnknownStream: there is no such stream.
            CorruptValue, SchemaMismatch: what is known of it does not read.
        """
        fingerprint, layout, position, longest, totals, retriable, expired = known
        if fingerprint is None:
            raise unknown_stream_error(stream_id)
        rows.require_readable(stream_id, layout)
        with rows.reading(f"{stream_id}: what is known of the stream"):
            text, longest_s = str(json.loads(fingerprint)), float(longest) if longest else 0.0
            expired_to = int(expired) if expired else -1
        return cls(
            text,
            rows.position_from_text(stream_id, position) if position else None,
            longest_s,
            rows.totals_from_text(stream_id, totals) if totals else None,
            retriable is not None,
            expired_to,
        )


class RedisClips(RedisStreams, RecordWrites):
    """The rest of `base.ClipWriter`, and the values."""

    def get_value(self, span: ClipSpan) -> bytes | None:
        """As `VerifiedReads.get_value`."""
        with self._translated(span.stream_id):
            blob: Any = self._client.get(self._keys.clip(span.stream_id, span.epoch, span.index))
        return blob

    def get_open_record(self, stream_id: str) -> tuple[Place, bytes] | None:
        """As `VerifiedReads.get_open_record`."""
        with self._translated(stream_id):
            stored: Any = self._client.get(self._keys.open_clip(stream_id))
        return None if stored is None else rows.open_from_bytes(stream_id, stored)

    def _put_open(self, record: NewRecord, lease: Lease) -> None:
        keys, stream_id = self._keys, record.span.stream_id
        require_own(stream_id, lease)
        value = rows.open_to_bytes(record.place, record.blob)

        def put(pipe: Pipeline) -> None:
            facts = self._facts_for(pipe, stream_id, lease, None)
            require_fingerprint(stream_id, facts.fingerprint, record.fingerprint)
            pipe.multi()
            pipe.set(keys.open_clip(stream_id), value)
            pipe.execute()

        self._transact(stream_id, [keys.lease(stream_id), keys.info(stream_id)], put)

    def put_gap(self, gap: Gap, lease: Lease, *, after: Place | None = None) -> None:
        require_own(gap.stream_id, lease)
        keys, stream_id = self._keys, gap.stream_id
        info, gaps = keys.info(stream_id), keys.gaps(stream_id)
        text = rows.gap_to_text(gap).encode()

        def put(pipe: Pipeline) -> None:
            facts = self._facts_for(pipe, stream_id, lease, after)
            there: Any = pipe.zrangebyscore(gaps, gap.start_s, gap.start_s)
            same = [member for member in there if member != text and _is_gap(member, gap)]
            totals = self._totals_after(facts, gap, [gap] if text not in there else [], same)
            pipe.multi()
            if same:
                pipe.zrem(gaps, *same)
            pipe.zadd(gaps, {text: gap.start_s})
            if totals is not None and totals != facts.totals:
                pipe.hset(info, rows.TOTALS, rows.totals_to_text(totals))
            if gap.reason == REFILLED and not facts.has_retriable:
                pipe.hset(info, rows.RETRIABLE, "1")
            pipe.execute()

        self._transact(stream_id, [keys.lease(stream_id), info], put)

    def remove_gap(self, gap: Gap, lease: Lease) -> None:
        require_own(gap.stream_id, lease)
        keys, stream_id = self._keys, gap.stream_id
        gaps = keys.gaps(stream_id)

        def remove(pipe: Pipeline) -> None:
            facts = self._facts_for(pipe, stream_id, lease, None)
            there: Any = pipe.zrangebyscore(gaps, gap.start_s, gap.start_s)
            same = [member for member in there if _is_gap(member, gap)]
            totals = self._totals_after(facts, gap, [], same)
            pipe.multi()
            if same:
                pipe.zrem(gaps, *same)
            if totals is not None and totals != facts.totals:
                pipe.hset(keys.info(stream_id), rows.TOTALS, rows.totals_to_text(totals))
            pipe.execute()

        self._transact(stream_id, [keys.lease(stream_id), keys.info(stream_id)], remove)

    def rewind(
        self, lease: Lease, *, position: Position | None, drop: Iterable[ClipSpan] = ()
    ) -> None:
        keys, stream_id, dropped = self._keys, lease.stream_id, set(drop)
        info, clips = keys.info(stream_id), keys.clips(stream_id)

        def put(pipe: Pipeline) -> None:
            self._facts_for(pipe, stream_id, lease, None)
            totals, bad, kept = self._count_held(stream_id), [], set()
            for member in self._iter_members(clips, "-inf", "+inf"):
                try:
                    span = rows.span_from_text(stream_id, member)
                except CorruptValue:
                    bad.append(member)
                    continue
                if span in dropped:
                    bad.append(member)
                else:
                    kept.add((span.epoch, span.index))
                    totals = totals.plus(span)
            lost = {place for member in bad if (place := rows.place_in(member))} - kept
            pipe.multi()
            if bad:
                pipe.zrem(clips, *bad)
            if lost:
                pipe.unlink(*(keys.clip(stream_id, *place) for place in lost))
                pipe.unlink(*self._levels_over(stream_id, lost))
            pipe.hset(info, rows.TOTALS, rows.totals_to_text(totals))
            if position is None:
                pipe.hdel(info, rows.POSITION)
            else:
                pipe.hset(info, rows.POSITION, rows.position_to_text(position))
            pipe.execute()

        self._transact(stream_id, [keys.lease(stream_id), info], put)

    def _put(self, record: NewRecord, lease: Lease, after: Place | None) -> ClipSpan:
        span, stream_id, keys = record.span, record.span.stream_id, self._keys
        require_own(stream_id, lease)
        key, info = keys.clip(stream_id, *record.place), keys.info(stream_id)

        def put(pipe: Pipeline) -> ClipSpan:
            facts = self._facts_for(pipe, stream_id, lease, after)
            require_fingerprint(stream_id, facts.fingerprint, record.fingerprint)
            if span.index <= facts.expired_to and self._was_removed(pipe, span):
                return self._pass_over(pipe, record, facts)
            stored: Any = pipe.get(key)
            old = self._rows_of(pipe, span, facts.totals)
            cold = None if stored is not None else self._cold_row(stream_id, old)
            if cold is not None:
                stored = require_cold(self.cold, cold).read(cold)
            held = record.held_as(stored)
            row = span if held is None else held if cold is None else cold
            text = rows.span_to_text(row).encode()
            filled = self._filled_gaps(pipe, row) if facts.has_retriable else []
            totals = self._totals_with(row, facts.totals, old, is_indexed=text in old)
            stale = [member for member in old if member != text]
            pipe.multi()
            if held is None:
                pipe.set(key, record.blob)
                pipe.unlink(*self._levels_over(stream_id, [record.place]))
            pipe.unlink(keys.open_clip(stream_id))
            if stale:
                pipe.zrem(keys.clips(stream_id), *stale)
            if filled:
                pipe.zrem(keys.gaps(stream_id), *filled)
            pipe.zadd(keys.clips(stream_id), {text: row.start_s})
            changed = _changed_facts(facts, record, totals)
            if changed:
                pipe.hset(info, mapping={**changed})
            pipe.execute()
            return row

        return self._transact(stream_id, [keys.lease(stream_id), key, info], put)

    def _facts_for(
        self, pipe: Pipeline, stream_id: str, lease: Lease, after: Place | None
    ) -> Facts:
        """The facts, when this writer may write: its lease holds, and nothing it wrote is lost."""
        self._require_lease(pipe, lease)
        facts = self._read_facts(pipe, stream_id)
        require_not_behind(stream_id, facts.position, after)
        return facts

    def _read_facts(self, pipe: Pipeline, stream_id: str) -> Facts:
        known: Any = pipe.hmget(self._keys.info(stream_id), *_FACTS)
        return Facts.read(stream_id, known)

    def _was_removed(self, pipe: Pipeline, span: ClipSpan) -> bool:
        """Whether a clip was stored once and removed since."""
        found: Any = pipe.zrange(self._keys.gaps(span.stream_id), 0, -1)
        gaps = (read_gap(span.stream_id, member) for member in found)
        return holds_clip((gap for gap in gaps if gap is not None), span.index)

    def _pass_over(self, pipe: Pipeline, record: NewRecord, facts: Facts) -> ClipSpan:
        """Go on behind a clip that is not stored again."""
        last, stream_id = facts.position, record.span.stream_id
        pipe.multi()
        pipe.unlink(self._keys.open_clip(stream_id))
        if last is None or record.place > (last.epoch, last.index):
            text = rows.position_to_text(record.position)
            pipe.hset(self._keys.info(stream_id), rows.POSITION, text)
        pipe.execute()
        return record.span

    @staticmethod
    def _totals_after(
        facts: Facts, gap: Gap, put: list[Gap], same: list[bytes]
    ) -> StreamTotals | None:
        """The totals with a gap in the place of those that are the same; counted where there are
        none yet."""
        if facts.totals is None:
            return None
        return facts.totals.with_gaps(
            put, [rows.gap_from_text(gap.stream_id, member) for member in same]
        )

    def _rows_of(self, pipe: Pipeline, row: ClipSpan, totals: StreamTotals | None) -> list[bytes]:
        """Rows that the index has of this clip: its own, and others where a value was lost.

        A clip that begins behind all others has none. They are looked for where it starts.
        """
        if totals is not None and (not totals.clips or row.start_s >= totals.end_s):
            return []
        found: Any = pipe.zrangebyscore(self._keys.clips(row.stream_id), row.start_s, row.start_s)
        return [member for member in found if rows.place_in(member) == (row.epoch, row.index)]

    def _totals_with(
        self, row: ClipSpan, totals: StreamTotals | None, old: list[bytes], *, is_indexed: bool
    ) -> StreamTotals:
        """The totals with this row in the place of its old ones."""
        if totals is not None and not old:
            return totals.plus(row)
        if totals is not None and is_indexed and len(old) == 1:
            return totals
        return self._count(row.stream_id, without=old).plus(row)

    @staticmethod
    def _cold_row(stream_id: str, members: list[bytes]) -> ClipSpan | None:
        """The row that says the clip is in the cold tier, where one does."""
        for member in members:
            try:
                span = rows.span_from_text(stream_id, member)
            except CorruptValue:
                continue
            if span.cold is not None:
                return span
        return None

    def _filled_gaps(self, pipe: Pipeline, row: ClipSpan) -> list[bytes]:
        """Gaps of a clip that failed, and that this one is."""
        found: Any = pipe.zrangebyscore(self._keys.gaps(row.stream_id), row.start_s, row.end_s)
        return [member for member in found if _is_filled(member, row)]


def _changed_facts(facts: Facts, record: NewRecord, totals: StreamTotals) -> dict[str, str]:
    """Fields of the info hash that a put changes."""
    changed: dict[str, str] = {}
    last, span = facts.position, record.span
    if last is None or record.place > (last.epoch, last.index):
        changed[rows.POSITION] = rows.position_to_text(record.position)
    if span.end_s - span.start_s > facts.longest_s:
        changed[rows.LONGEST] = repr(span.end_s - span.start_s)
    if totals != facts.totals:
        changed[rows.TOTALS] = rows.totals_to_text(totals)
    return changed


def _is_gap(member: bytes, gap: Gap) -> bool:
    try:
        return rows.gap_from_text(gap.stream_id, member).identity == gap.identity
    except CorruptValue:
        return False


def _is_filled(member: bytes, row: ClipSpan) -> bool:
    try:
        gap = rows.gap_from_text(row.stream_id, member)
    except CorruptValue:
        return False
    is_inside = gap.epoch == row.epoch and row.start_s <= gap.start_s and gap.end_s <= row.end_s
    return gap.reason == REFILLED and is_inside
