"""The store in Redis; with `connection.py` and `bulk.py` the only home of redis-py.

A write watches the keys it depends on, reads them, and commits value, index row and position in
one MULTI, so that a reader sees a whole clip or none, and a writer whose lease is gone commits
nothing. Whatever was interrupted may be sent again: keys are deterministic and no write counts.
Plain transactions rather than Lua: a script costs three times as much for values of this size.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import quote

import redis
from redis.client import Pipeline
from redis.exceptions import NoPermissionError

from pipeline.errors import (
    Conflict,
    CorruptValue,
    InvalidSettings,
    LeaseLost,
    StoreUnsafe,
)
from pipeline.store import arrow, rows
from pipeline.store.base import (
    StoreConfig,
    Stored,
    VerifiedReads,
    holds_already,
    in_order,
    lease_held,
    missing_value,
    require_current,
    require_fingerprint,
    require_own,
    require_range,
    span_of,
    unknown_stream,
)
from pipeline.store.connection import connect, meaning, problems_of, said
from pipeline.store.keys import Keys
from pipeline.types import (
    ClipSpan,
    DeletedCounts,
    Gap,
    Lease,
    Position,
    StoreHealth,
    StoreStats,
    StreamInfo,
    without_credentials,
)

if TYPE_CHECKING:
    from pipeline.store.bulk import BulkReader
    from workers.types import CompressedClip

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 16
"""Transactions tried before a stream that keeps changing under us is reported."""
READ_AHEAD = 2
"""Values fetched before they are needed, while the last one is verified."""
DELETE_BATCH = 256
"""Keys removed per round trip: about 100 MB that the server frees in the background."""

T = TypeVar("T")


class RedisStore(VerifiedReads):
    """`ClipStore` on a Redis or Valkey server. Safe to share between threads."""

    def __init__(self, config: StoreConfig) -> None:
        """Connect and refuse a server that would lose records by itself."""
        self._config = config
        self._keys = Keys(config.namespace)
        self._client = connect(config)
        try:
            self._refuse_eviction()
        except BaseException:
            self.close()
            raise

    @classmethod
    def at_socket(cls, config: StoreConfig, socket: Path) -> "RedisStore":
        """The same config, at a server's unix socket."""
        return cls(replace(config, url=f"unix://{quote(str(socket))}"))

    @property
    def config(self) -> StoreConfig:
        return self._config

    # --- leases ------------------------------------------------------------------------------

    def acquire_lease(
        self, stream_id: str, holder: str, *, ttl_s: float = 30.0, takeover: bool = False
    ) -> Lease:
        key, fence = self._keys.lease(stream_id), self._keys.fence(stream_id)
        nonce = secrets.token_hex(8)

        def acquire(pipe: Pipeline) -> Lease:
            held = self._lease_in(stream_id, pipe.get(key))
            if held is not None and held.nonce == nonce:  # our own, the answer was lost
                return held
            if held is not None and not takeover:
                raise lease_held(held)
            token = int(pipe.get(fence) or 0) + 1  # type: ignore[arg-type]
            lease = Lease(stream_id, holder, token, nonce, ttl_s, time.time())
            pipe.multi()
            pipe.set(fence, token)
            pipe.set(key, rows.lease_to_text(lease), px=_milliseconds(ttl_s))
            pipe.execute()
            return lease

        return self._transact(stream_id, [key, fence], acquire)

    def renew_lease(self, lease: Lease) -> None:
        key = self._keys.lease(lease.stream_id)

        def renew(pipe: Pipeline) -> None:
            self._require_lease(pipe, lease)
            pipe.multi()
            pipe.pexpire(key, _milliseconds(lease.ttl_s))
            pipe.execute()

        self._transact(lease.stream_id, [key], renew)

    def release_lease(self, lease: Lease) -> None:
        key = self._keys.lease(lease.stream_id)

        def release(pipe: Pipeline) -> None:
            self._require_lease(pipe, lease)
            pipe.multi()
            pipe.delete(key)
            pipe.execute()

        with suppress(LeaseLost):
            self._transact(lease.stream_id, [key], release)

    def get_lease(self, stream_id: str) -> Lease | None:
        with self._translated(stream_id):
            return self._lease_in(stream_id, self._client.get(self._keys.lease(stream_id)))

    # --- streams -----------------------------------------------------------------------------

    def put_info(self, info: StreamInfo, *, lease: Lease | None = None) -> None:
        stream_id = info.stream_id
        key, clips = self._keys.info(stream_id), self._keys.clips(stream_id)

        def put(pipe: Pipeline) -> None:
            if lease is not None:
                self._require_lease(pipe, lease)
            known: Any = pipe.hgetall(key)
            if known and pipe.zcard(clips):
                stored = rows.info_from_hash(stream_id, known).fingerprint
                require_fingerprint(stream_id, stored, info.fingerprint)
            pipe.multi()
            pipe.hset(key, mapping={**rows.info_to_hash(info)})
            pipe.execute()

        with self._translated(stream_id):  # in another slot, so apart; a set takes it twice
            self._client.sadd(self._keys.streams, stream_id)
        self._transact(stream_id, [key, clips, self._keys.lease(stream_id)], put)

    def get_info(self, stream_id: str) -> StreamInfo:
        with self._translated(stream_id):
            values: Any = self._client.hgetall(self._keys.info(stream_id))
        if not values:
            raise unknown_stream(stream_id)
        return rows.info_from_hash(stream_id, values)

    def list_streams(self) -> list[str]:
        with self._translated("streams"):
            members: Any = self._client.smembers(self._keys.streams)
        return sorted(member.decode() for member in members)

    def delete_stream(self, stream_id: str) -> DeletedCounts:
        """Also what does not read any more: every key of the stream is looked up by its name."""
        keys, client = self._keys, self._client
        with self._translated(stream_id):
            if not client.exists(keys.info(stream_id)):
                raise unknown_stream(stream_id)
        self._shut_out_writer(stream_id)
        counted = self._counts(stream_id)
        with self._translated(stream_id):
            batch: list[bytes] = []
            found: Any = client.scan_iter(match=keys.of_stream(stream_id), count=1000)
            for key in found:
                batch.append(key)
                if len(batch) == DELETE_BATCH:
                    client.unlink(*batch)
                    batch = []
            client.unlink(keys.info(stream_id), *batch)
            client.srem(keys.streams, stream_id)
        return counted

    def _shut_out_writer(self, stream_id: str) -> None:
        try:
            self.acquire_lease(stream_id, "delete", takeover=True)
        except CorruptValue as error:
            logger.warning("removing a lease that does not read: %s", error)
            with self._translated(stream_id):
                self._client.delete(self._keys.lease(stream_id), self._keys.fence(stream_id))

    def _counts(self, stream_id: str) -> DeletedCounts:
        """What the index says; nothing where it does not read."""
        try:
            spans, gaps = self.list_spans(stream_id), self.list_gaps(stream_id)
        except CorruptValue as error:
            logger.warning("deleting without a count: %s", error)
            return DeletedCounts(0, 0, 0)
        return DeletedCounts(len(spans), len(gaps), sum(span.size_bytes for span in spans))

    # --- writing -----------------------------------------------------------------------------

    def put_clip(self, clip: CompressedClip, lease: Lease, *, fingerprint: str) -> ClipSpan:
        blob = arrow.encode_clip(clip, fingerprint=fingerprint, dtype=self._config.dtype)
        return self._put(span_of(clip, len(blob)), blob, clip.pts_s[-1], fingerprint, lease)

    def put_record(self, key: str, blob: bytes, lease: Lease) -> ClipSpan:
        record = arrow.decode_clip(blob, key=key)
        span = span_of(record.clip, len(blob))
        return self._put(span, blob, record.clip.pts_s[-1], record.fingerprint, lease)

    def put_gap(self, gap: Gap, lease: Lease) -> None:
        require_own(gap.stream_id, lease)
        key = self._keys.gaps(gap.stream_id)

        def put(pipe: Pipeline) -> None:
            self._require_lease(pipe, lease)
            pipe.multi()
            pipe.zadd(key, {rows.gap_to_text(gap): gap.start_s})
            pipe.execute()

        self._transact(gap.stream_id, [self._keys.lease(gap.stream_id)], put)

    def _put(
        self, span: ClipSpan, blob: bytes, last_pts_s: float, fingerprint: str, lease: Lease
    ) -> ClipSpan:
        require_own(span.stream_id, lease)
        keys, stream_id = self._keys, span.stream_id
        key = keys.clip(stream_id, span.epoch, span.index)
        info, clips = keys.info(stream_id), keys.clips(stream_id)
        end = Position(span.epoch, span.index, span.end_s, last_pts_s)

        def put(pipe: Pipeline) -> ClipSpan:
            self._require_lease(pipe, lease)
            known: Any = pipe.hmget(info, "fingerprint", rows.POSITION, rows.LONGEST)
            facts, is_new = _changed_facts(stream_id, known, fingerprint, span, end)
            stored: Any = pipe.get(key)
            is_there = holds_already(stored, blob, span)
            row = replace(span, size_bytes=len(stored if is_there else blob))
            stale = [] if is_new else self._other_rows(pipe, row)
            pipe.multi()
            if not is_there:
                pipe.set(key, blob)
            if stale:
                pipe.zrem(clips, *stale)
            pipe.zadd(clips, {rows.span_to_text(row): row.start_s})
            if facts:
                pipe.hset(info, mapping={**facts})
            pipe.execute()
            return row

        return self._transact(stream_id, [keys.lease(stream_id), key, info], put)

    def _other_rows(self, pipe: Pipeline, row: ClipSpan) -> list[bytes]:
        """Index rows of the same clip that say something else: left when a value was lost."""
        prefix = f"{row.epoch}:{row.index}:"
        ours = rows.span_to_text(row).encode()
        found: Any = pipe.zscan_iter(
            self._keys.clips(row.stream_id), match=f"{prefix}*", count=1000
        )
        return [member for member, _ in found if member != ours]

    # --- reading -----------------------------------------------------------------------------

    def get_position(self, stream_id: str) -> Position | None:
        with self._translated(stream_id):
            text: Any = self._client.hget(self._keys.info(stream_id), rows.POSITION)
        return None if text is None else rows.position_from_text(stream_id, text)

    def list_spans(
        self, stream_id: str, start_s: float | None = None, end_s: float | None = None
    ) -> list[ClipSpan]:
        require_range(start_s, end_s)
        with self._translated(stream_id):
            known: Any = self._client.hmget(self._keys.info(stream_id), "fingerprint", rows.LONGEST)
            if known[0] is None:
                raise unknown_stream(stream_id)
            # A clip that reaches into the range starts at most the longest clip before it.
            lowest = "-inf" if start_s is None else start_s - float(known[1] or 0)
            highest = "+inf" if end_s is None else f"({end_s!r}"
            members: Any = self._client.zrangebyscore(self._keys.clips(stream_id), lowest, highest)
        spans = rows.spans_from_text(stream_id, members)
        if start_s is not None:
            spans = [span for span in spans if span.overlaps(start_s, end_s)]
        return sorted(spans, key=in_order)

    def list_gaps(self, stream_id: str) -> list[Gap]:
        with self._translated(stream_id):
            members: Any = self._client.zrange(self._keys.gaps(stream_id), 0, -1)
        return [rows.gap_from_text(stream_id, member) for member in members]

    def get_record(self, span: ClipSpan) -> bytes:
        with self._translated(span.stream_id):
            blob: Any = self._client.get(self._keys.clip(span.stream_id, span.epoch, span.index))
        if blob is None:
            raise missing_value(span)
        return blob

    def _iter_records(self, spans: Iterable[ClipSpan]) -> Generator[tuple[ClipSpan, Stored]]:
        from pipeline.store.bulk import BulkReader  # numpy: listing needs none

        asked: deque[ClipSpan] = deque()
        with BulkReader(self._client, self._keys) as reader:
            for span in spans:
                reader.ask(span)
                asked.append(span)
                if len(asked) > READ_AHEAD:
                    yield self._take(reader, asked.popleft())
            while asked:
                yield self._take(reader, asked.popleft())

    def _take(self, reader: BulkReader, span: ClipSpan) -> tuple[ClipSpan, Stored]:
        with self._translated(span.stream_id):
            record = reader.take()
        return span, self._record_of(span) if record is None else record

    # --- the server --------------------------------------------------------------------------

    def stats(self) -> StoreStats:
        with self._translated("stats"):
            memory: Any = self._client.info("memory")
            streams: Any = self._client.scard(self._keys.streams)
        return StoreStats(streams, int(memory["used_memory"]), int(memory["maxmemory"]) or None)

    def check(self) -> StoreHealth:
        with self._translated("check"):
            facts: Any = self._client.info()
        version = str(facts.get("valkey_version") or facts.get("redis_version"))
        name = "valkey" if "valkey_version" in facts else "redis"
        return StoreHealth(f"{name} {version}", tuple(problems_of(facts, self._config.url)))

    def close(self) -> None:
        self._client.close()

    def _refuse_eviction(self) -> None:
        with self._translated("open"):
            try:
                memory: Any = self._client.info("memory")
            except NoPermissionError:
                logger.warning("the store's user may not run INFO: eviction is not checked")
                return
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and memory.get("maxmemory"):
            raise StoreUnsafe(
                f"{self._where}: maxmemory-policy is {policy}, which drops clips and leases when "
                "memory runs out; expected noeviction: CONFIG SET maxmemory-policy noeviction"
            )

    # --- transactions and errors -------------------------------------------------------------

    def _transact(self, stream_id: str, watched: list[str], body: Callable[[Pipeline], T]) -> T:
        """Run `body` until nobody changed what it read."""
        with self._translated(stream_id):
            for _ in range(MAX_ATTEMPTS):
                with self._client.pipeline() as pipe:
                    try:
                        pipe.watch(*watched)
                        return body(pipe)
                    except redis.WatchError:
                        continue
        raise Conflict(
            f"{stream_id}: changed by others in each of {MAX_ATTEMPTS} attempts; try again"
        )

    def _require_lease(self, pipe: Pipeline, lease: Lease) -> None:
        key = self._keys.lease(lease.stream_id)
        require_current(self._lease_in(lease.stream_id, pipe.get(key)), lease)

    @staticmethod
    def _lease_in(stream_id: str, text: Any) -> Lease | None:
        return None if text is None else rows.lease_from_text(stream_id, text)

    @property
    def _where(self) -> str:
        return f"store {without_credentials(self._config.url)}"

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Errors of redis-py as errors of the pipeline."""
        try:
            yield
        except redis.RedisError as error:
            self._raise(error, what)

    def _raise(self, error: redis.RedisError, what: str) -> NoReturn:
        text = said(error)
        kind, advice = meaning(error, text)
        raise kind(f"{self._where}, {what}: {text}; {advice}") from error


def _changed_facts(
    stream_id: str, known: list[bytes | None], fingerprint: str, span: ClipSpan, end: Position
) -> tuple[dict[str, str], bool]:
    """(fields of the info hash that a put changes, whether the clip lies past all others)."""
    stored, position, longest = known
    if stored is None:
        raise unknown_stream(stream_id)
    with rows.reading(f"{stream_id}: what is known of the stream"):
        stored_fingerprint = str(json.loads(stored))
        longest_s = float(longest) if longest else 0.0
    require_fingerprint(stream_id, stored_fingerprint, fingerprint)
    facts: dict[str, str] = {}
    last = rows.position_from_text(stream_id, position) if position else None
    is_new = last is None or (end.epoch, end.index) > (last.epoch, last.index)
    if is_new:
        facts[rows.POSITION] = rows.position_to_text(end)
    if span.end_s - span.start_s > longest_s:
        facts[rows.LONGEST] = repr(span.end_s - span.start_s)
    return facts, is_new


def _milliseconds(seconds: float) -> int:
    if not 0.001 <= seconds <= 86_400:
        raise InvalidSettings(f"a lease of {seconds} s; expected 0.001 to 86400 s")
    return round(seconds * 1000)
