"""Streams made known, changed and removed."""

import json
import logging
from collections.abc import Iterable
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
from pipeline.store.redis.index import RedisIndex
from pipeline.store.redis.leases import RedisLeases
from pipeline.values.errors import CorruptValue, StoreFull
from pipeline.values.types import DeletedCounts, Lease, StreamInfo, StreamSegment

logger = logging.getLogger(__name__)

DELETE_BATCH = 256
"""Clips removed per round trip: about 100 MB that the server frees in the background."""
DELETE_LEASE_S = 30.0
"""Renewed with every batch."""


class RedisStreams(RedisIndex, RedisLeases):
    """`put_info`, `delete_stream` and the segments of `base.ClipWriter`."""

    def put_info(
        self, info: StreamInfo, *, lease: Lease | None = None, after: Place | None = None
    ) -> None:
        stream_id = info.stream_id
        key, clips = self._keys.info(stream_id), self._keys.clips(stream_id)
        watched = [key, clips, self._keys.lease(stream_id)]

        def put(pipe: Pipeline) -> None:
            known = self._require_writable(pipe, info, lease, after)
            layout = known.get(rows.LAYOUT_FIELD.encode())
            pipe.multi()
            pipe.hset(key, mapping={**rows.info_to_hash(info, layout)})
            if self._is_one_server:
                pipe.sadd(self._keys.streams, stream_id)
            pipe.execute()

        def take_status(pipe: Pipeline) -> None:
            known = self._require_writable(pipe, info, lease, after)
            if rows.IF_FULL.encode() not in known:
                raise full
            pipe.multi()
            pipe.hdel(key, "status", "error")
            pipe.execute()

        try:
            self._transact(stream_id, watched, put)
        except StoreFull as error:
            if info.status == "running":
                raise
            full = error
            self._transact(stream_id, watched, take_status)
            logger.warning("%s: the status is kept as failed, StoreFull: %s", stream_id, error)
        if not self._is_one_server:
            self._enlist(stream_id)

    def _require_writable(
        self, pipe: Pipeline, info: StreamInfo, lease: Lease | None, after: Place | None
    ) -> dict[bytes, bytes]:
        """What is known of the stream, when it may be changed to `info`."""
        stream_id = info.stream_id
        if lease is not None:
            require_own(stream_id, lease)
            self._require_lease(pipe, lease)
        known: Any = pipe.hgetall(self._keys.info(stream_id))
        if known:
            stored = rows.info_from_hash(stream_id, known).fingerprint
            if stored != info.fingerprint and pipe.zcard(self._keys.clips(stream_id)):
                require_fingerprint(stream_id, stored, info.fingerprint)
        position = self._position_in(stream_id, known.get(rows.POSITION.encode()))
        require_not_behind(stream_id, position, after)
        return known

    def _enlist(self, stream_id: str) -> None:
        """Name the stream in the set, which lies on another server; unless it was just deleted."""
        with self._translated(stream_id):
            self._client.sadd(self._keys.streams, stream_id)
            if not self._client.exists(self._keys.info(stream_id)):
                self._client.srem(self._keys.streams, stream_id)

    def list_segments(self, stream_id: str) -> list[StreamSegment]:
        with self._translated(stream_id):
            texts: Any = self._client.hvals(self._keys.segments(stream_id))
        segments = [rows.segment_from_text(stream_id, text) for text in texts]
        return sorted(segments, key=lambda segment: segment.place)

    def put_segments(self, segments: Iterable[StreamSegment], lease: Lease) -> None:
        stream_id = lease.stream_id
        texts = {json.dumps(one.path): rows.segment_to_text(one) for one in segments}
        if not texts:
            return

        def put(pipe: Pipeline) -> None:
            self._require_lease(pipe, lease)
            if not pipe.exists(self._keys.info(stream_id)):
                raise unknown_stream_error(stream_id)
            pipe.multi()
            pipe.hset(self._keys.segments(stream_id), mapping={**texts})
            pipe.execute()

        watched = [self._keys.lease(stream_id), self._keys.info(stream_id)]
        self._transact(stream_id, watched, put)

    def delete_stream(self, stream_id: str, *, deep: bool = False) -> DeletedCounts:
        """Also what does not read any more, and what a crash left of a stream."""
        keys, client = self._keys, self._client
        info = keys.info(stream_id)
        with self._translated(stream_id):
            if not (client.exists(info) or client.sismember(keys.streams, stream_id) or deep):
                raise unknown_stream_error(stream_id)
        lease = self._shut_out_writer(stream_id)
        num_gaps = self._count_gaps(stream_id)
        num_clips = size_bytes = 0
        try:
            while members := self._first_rows(stream_id):
                lease = self._keep_shut(stream_id, lease)
                self._unlink_clips(stream_id, members)
                num_clips += len(members)
                size_bytes += sum(_size_of(stream_id, member) for member in members)
        except CorruptValue as error:
            logger.warning("looking for the clips by their names: %s", error)
            deep = True
        if deep:
            lease = self._sweep(stream_id, lease)
        self._unlink_facts(stream_id, lease)
        return DeletedCounts(num_clips, num_gaps, size_bytes)

    def _shut_out_writer(self, stream_id: str) -> Lease | None:
        """Our own lease in place of any other; none while the server takes no more data."""
        key = self._keys.lease(stream_id)
        try:
            return self.acquire_lease(stream_id, "delete", ttl_s=DELETE_LEASE_S, takeover=True)
        except CorruptValue as error:
            logger.warning("removing a lease that does not read: %s", error)
            with self._translated(stream_id):
                self._client.delete(key, self._keys.fence(stream_id))
            return self._shut_out_writer(stream_id)
        except StoreFull:
            with self._translated(stream_id):  # a full server still removes
                self._client.delete(key)
            return None

    def _keep_shut(self, stream_id: str, lease: Lease | None) -> Lease | None:
        """Our lease for a while longer; tried for again where the server was full."""
        if lease is None:
            return self._shut_out_writer(stream_id)
        self.renew_lease(lease)
        return lease

    def _first_rows(self, stream_id: str) -> list[bytes]:
        with self._translated(stream_id):
            members: Any = self._client.zrange(self._keys.clips(stream_id), 0, DELETE_BATCH - 1)
        return members

    def _unlink_clips(self, stream_id: str, members: list[bytes]) -> None:
        """Remove rows with their values, and touch no other key."""
        places = {place for member in members if (place := rows.place_in(member))}
        values = [self._keys.clip(stream_id, *place) for place in places]

        def unlink() -> None:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.hdel(self._keys.info(stream_id), rows.TOTALS)
                pipe.zrem(self._keys.clips(stream_id), *members)
                if values:
                    pipe.unlink(*values)
                    pipe.unlink(*self._levels_over(stream_id, places))
                pipe.execute()

        with self._translated(stream_id):
            self._once_settled(unlink)

    def _unlink_facts(self, stream_id: str, lease: Lease | None) -> None:
        keys = self._keys
        last = keys.facts_of(stream_id)

        def unlink(pipe: Pipeline) -> None:
            if lease is not None:
                self._require_lease(pipe, lease)
            pipe.multi()
            pipe.unlink(*last)
            if self._is_one_server:
                pipe.srem(keys.streams, stream_id)
            pipe.execute()

        if not self._is_one_server:
            with self._translated(stream_id):
                self._client.srem(keys.streams, stream_id)
        self._transact(stream_id, [keys.lease(stream_id)], unlink)

    def _sweep(self, stream_id: str, lease: Lease | None) -> Lease | None:
        """Remove every value of the stream, found by its name among all keys of its server."""
        pattern, cursor = self._keys.values_of(stream_id), 0
        while True:
            with self._translated(stream_id):
                step: Any = self._server_of(stream_id).scan(cursor, match=pattern, count=1000)
                cursor, found = step
                if found:
                    self._client.unlink(*found)
            if not cursor:
                return lease
            lease = self._keep_shut(stream_id, lease)

    def _count_gaps(self, stream_id: str) -> int:
        try:
            with self._translated(stream_id):
                return int(self._client.zcard(self._keys.gaps(stream_id)))
        except CorruptValue as error:
            logger.warning("deleting gaps without a count: %s", error)
            return 0


def _size_of(stream_id: str, member: bytes) -> int:
    try:
        return rows.span_from_text(stream_id, member).size_bytes
    except CorruptValue:
        return 0
