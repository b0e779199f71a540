"""Clips whose records went to the cold tier: rows changed and values removed in one transaction."""

import secrets
from collections.abc import Sequence
from typing import Any

from redis.client import Pipeline

from pipeline.store import rows
from pipeline.store.checks import LAYOUT, unknown_stream_error
from pipeline.store.redis.clips import RedisClips
from pipeline.values.errors import CorruptValue
from pipeline.values.types import ClipSpan, StreamTotals

ATTEMPTS = 500
"""A writer that puts without a pause comes first."""


class RedisCooling(RedisClips):
    """`base.Cooling`."""

    def list_hot(
        self, stream_id: str, *, most_clips: int, from_start: bool = False
    ) -> list[ClipSpan]:
        info, clips = self._keys.info(stream_id), self._keys.clips(stream_id)
        with self._translated(stream_id):
            known: Any = self._client.hmget(info, rows.LAYOUT_FIELD, rows.COOLED_TO)
            rows.require_readable(stream_id, known[0])
            lowest = "-inf" if from_start or not known[1] else float(known[1])
            found: list[ClipSpan] = []
            for member in self._iter_members(clips, lowest, "+inf", page=min(most_clips, 5000)):
                try:
                    span = rows.span_from_text(stream_id, member)
                except CorruptValue:
                    continue
                if span.cold is None:
                    found.append(span)
                if len(found) == most_clips:
                    break
        return found

    def begin_move(self, stream_id: str) -> str:
        info, token = self._keys.info(stream_id), secrets.token_hex(8)

        def begin(pipe: Pipeline) -> str:
            known: Any = pipe.hmget(info, "fingerprint", rows.LAYOUT_FIELD)
            if known[0] is None:
                raise unknown_stream_error(stream_id)
            rows.require_readable(stream_id, known[1])
            pipe.multi()
            pipe.hset(info, rows.MOVER, token)
            pipe.execute()
            return token

        return self._transact(stream_id, [info], begin, attempts=ATTEMPTS)

    def holds_move(self, stream_id: str, token: str) -> bool:
        with self._translated(stream_id):
            held: Any = self._client.hget(self._keys.info(stream_id), rows.MOVER)
        return held == token.encode()

    def move_clips(
        self, stream_id: str, moves: Sequence[tuple[ClipSpan, ClipSpan]], token: str
    ) -> int:
        keys = self._keys
        info, clips = keys.info(stream_id), keys.clips(stream_id)
        by_member = {rows.span_to_text(span).encode(): (span, new) for span, new in moves}

        def move(pipe: Pipeline) -> int:
            known: Any = pipe.hmget(info, rows.MOVER)
            facts = self._read_facts(pipe, stream_id)
            scores: Any = pipe.zmscore(clips, [*by_member])  # pyright: ignore[reportArgumentType]
            there = [m for m, score in zip(by_member, scores, strict=True) if score is not None]
            if known[0] != token.encode() or not there:
                return 0
            moved = [by_member[member] for member in there]
            fields = self._fields_after(pipe, stream_id, facts.totals, moved)
            pipe.multi()
            pipe.zrem(clips, *there)
            pipe.zadd(clips, {rows.span_to_text(new): new.start_s for _, new in moved})
            pipe.unlink(*(keys.clip(stream_id, s.epoch, s.index) for s, _ in moved))
            if faded := [(s.epoch, s.index) for s, new in moved if new.keep != s.keep]:
                pipe.unlink(*self._levels_over(stream_id, faded))
            pipe.hset(info, mapping={**fields})
            pipe.execute()
            return len(there)

        return self._transact(stream_id, [info, clips], move, attempts=ATTEMPTS)

    def _fields_after(
        self,
        pipe: Pipeline,
        stream_id: str,
        totals: StreamTotals | None,
        moved: Sequence[tuple[ClipSpan, ClipSpan]],
    ) -> dict[str, str]:
        """Of the info hash: layout, totals, and the second up to which a mover was here."""
        fields = {rows.LAYOUT_FIELD: str(LAYOUT)}
        known: Any = pipe.hget(self._keys.info(stream_id), rows.COOLED_TO)
        if (cooled_to_s := max(new.start_s for _, new in moved)) > float(known or "-inf"):
            fields[rows.COOLED_TO] = repr(cooled_to_s)
        if totals is not None:
            for span, new in moved:
                totals = totals.exchanged(span, new)
            fields[rows.TOTALS] = rows.totals_to_text(totals)
        return fields
