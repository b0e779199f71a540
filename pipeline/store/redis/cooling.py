"""Clips whose records went to the cold tier: rows changed and values removed in one transaction."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from redis.client import Pipeline

from pipeline.store import rows
from pipeline.store.checks import LAYOUT, unknown_stream_error
from pipeline.store.redis.clips import RedisClips
from pipeline.values.errors import CorruptValue
from pipeline.values.types import ClipSpan

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

    def move_clips(self, stream_id: str, moves: Sequence[tuple[ClipSpan, str]], token: str) -> int:
        keys = self._keys
        info, clips = keys.info(stream_id), keys.clips(stream_id)
        members = [rows.span_to_text(span).encode() for span, _ in moves]
        places = dict(zip(members, (place for _, place in moves), strict=True))
        spans = dict(zip(members, (span for span, _ in moves), strict=True))

        def move(pipe: Pipeline) -> int:
            known: Any = pipe.hmget(info, rows.MOVER, rows.COOLED_TO)
            scores: Any = pipe.zmscore(clips, members)  # pyright: ignore[reportArgumentType]
            there = [m for m, score in zip(members, scores, strict=True) if score is not None]
            if known[0] != token.encode() or not there:
                return 0
            moved = {m: replace(spans[m], cold=places[m]) for m in there}
            cooled_to_s = max(span.start_s for span in moved.values())
            pipe.multi()
            pipe.zrem(clips, *there)
            pipe.zadd(clips, {rows.span_to_text(span): span.start_s for span in moved.values()})
            pipe.unlink(*(keys.clip(stream_id, s.epoch, s.index) for s in moved.values()))
            fields = {rows.LAYOUT_FIELD: str(LAYOUT)}
            if cooled_to_s > float(known[1] or "-inf"):
                fields[rows.COOLED_TO] = repr(cooled_to_s)
            pipe.hset(info, mapping={**fields})
            pipe.execute()
            return len(there)

        return self._transact(stream_id, [info, clips], move, attempts=ATTEMPTS)
