"""Standing questions in a hash beside their stream, what they found in a Redis stream."""

import json
from dataclasses import asdict
from typing import Any

from redis.client import Pipeline

from pipeline.store.checks import unknown_stream_error, unknown_watch_error, watch_exists_error
from pipeline.store.redis.database import RedisDatabase
from pipeline.values.errors import CorruptValue
from pipeline.values.watch import Event, Watch, WatchState

MAX_EVENTS = 10_000
"""About so many of a stream are kept; the oldest go."""


class RedisWatches(RedisDatabase):
    """`base.Watches`."""

    def put_watch(self, watch: Watch, state: WatchState) -> None:
        stream_id = watch.stream_id
        info, key = self._keys.info(stream_id), self._keys.watches(stream_id)

        def put(pipe: Pipeline) -> None:
            if not pipe.exists(info):
                raise unknown_stream_error(stream_id)
            if pipe.hexists(key, watch.watch_id):
                raise watch_exists_error(watch)
            pipe.multi()
            pipe.hset(key, watch.watch_id, _to_text(watch, state))
            pipe.execute()

        self._transact(stream_id, [info, key], put)

    def list_watches(self, stream_id: str) -> list[tuple[Watch, WatchState]]:
        with self._translated(stream_id):
            texts: Any = self._client.hgetall(self._keys.watches(stream_id))
        return [_from_text(stream_id, texts[name]) for name in sorted(texts)]

    def remove_watch(self, stream_id: str, watch_id: str) -> None:
        with self._translated(stream_id):
            removed = self._client.hdel(self._keys.watches(stream_id), watch_id)
        if not removed:
            raise unknown_watch_error(stream_id, watch_id)

    def advance_watch(
        self, watch: Watch, before: WatchState, after: WatchState, event: Event | None
    ) -> bool:
        stream_id = watch.stream_id
        key = self._keys.watches(stream_id)

        def advance(pipe: Pipeline) -> bool:
            text: Any = pipe.hget(key, watch.watch_id)
            known = None if text is None else _from_text(stream_id, text)
            if known == (watch, after):  # our own, the answer was lost
                return True
            if known != (watch, before):
                return False
            pipe.multi()
            pipe.hset(key, watch.watch_id, _to_text(watch, after))
            if event is not None:
                fields: Any = {"event": json.dumps(asdict(event), allow_nan=False)}
                pipe.xadd(self._keys.events(stream_id), fields, maxlen=MAX_EVENTS)
            pipe.execute()
            return True

        return self._transact(stream_id, [key], advance)

    def list_events(
        self, stream_id: str, *, after: str | None = None, limit: int = 100
    ) -> list[tuple[str, Event]]:
        start = "-" if after is None else f"({after}"
        with self._translated(stream_id):
            found: Any = self._client.xrange(self._keys.events(stream_id), start, "+", count=limit)
        try:
            return [
                (mark.decode(), Event(**json.loads(fields[b"event"]))) for mark, fields in found
            ]
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptValue(f"{stream_id}: an event does not read: {error!r:.200}") from error


def _to_text(watch: Watch, state: WatchState) -> str:
    return json.dumps({"watch": asdict(watch), "state": asdict(state)}, allow_nan=False)


def _from_text(stream_id: str, text: bytes) -> tuple[Watch, WatchState]:
    try:
        value = json.loads(text)
        return Watch(**value["watch"]), WatchState(**value["state"])
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptValue(f"{stream_id}: a watch does not read: {error!r:.200}") from error
