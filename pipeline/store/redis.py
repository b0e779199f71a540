"""The store in Redis; the only home of redis-py.

A write watches the keys it depends on, reads them, and commits value, index row and position in
one MULTI, so that a reader sees a whole clip or none, and a writer whose lease is gone commits
nothing. Whatever was interrupted may be sent again: keys are deterministic and no write counts.
Plain transactions rather than Lua: a script costs three times as much for values of this size.
"""

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.client import Pipeline
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from pipeline.errors import (
    Conflict,
    CorruptValue,
    InvalidSettings,
    LeaseLost,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    StoreUnsafe,
)
from pipeline.store import rows
from pipeline.store.arrow import decode_clip, encode_clip
from pipeline.store.base import (
    StoreConfig,
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
from workers.types import CompressedClip

logger = logging.getLogger(__name__)

OLDEST_SERVER = (6, 2)
"""Below 6.0.9 a watched key that expires does not stop a transaction, and fencing would leak."""
MAX_ATTEMPTS = 16
"""Transactions tried before a stream that keeps changing under us is reported."""
READ_BYTES = 128 << 10
"""Taken from the socket at a time: fewer turns at the GIL than with redis-py's 32 kB."""
DELETE_BATCH = 256
"""Keys removed per round trip: about 100 MB that the server frees in the background."""

T = TypeVar("T")


class RedisStore(VerifiedReads):
    """`ClipStore` on a Redis or Valkey server. Safe to share between threads."""

    def __init__(self, config: StoreConfig) -> None:
        """Connect and refuse a server that would lose records by itself."""
        self._config = config
        self._keys = Keys(config.namespace)
        self._client = _connect(config)
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
        blob = encode_clip(clip, fingerprint=fingerprint, dtype=self._config.dtype)
        return self._put(span_of(clip, len(blob)), blob, clip.pts_s[-1], fingerprint, lease)

    def put_record(self, key: str, blob: bytes, lease: Lease) -> ClipSpan:
        record = decode_clip(blob, key=key)
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
        return StoreHealth(f"{name} {version}", tuple(_problems(facts, self._config.url)))

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
        text = _said(error)
        kind, advice = _meaning(error, text)
        raise kind(f"{self._where}, {what}: {text}; {advice}") from error


def _said(error: redis.RedisError) -> str:
    """The server's words on one line, without the command that redis-py quotes before them."""
    return " ".join(str(error).rpartition("caused error: ")[2].split())[:200]


def _meaning(error: redis.RedisError, text: str) -> tuple[type[Exception], str]:
    """What an error of redis-py is to us, and what to do about it."""
    for redis_type, prefix, kind, advice in _MEANINGS:
        if isinstance(error, redis_type) and text.startswith(prefix):
            return kind, advice
    return StoreUnavailable, "the server refused; see its log"


_MEANINGS: tuple[tuple[type[redis.RedisError], str, type[Exception], str], ...] = (
    (redis.OutOfMemoryError, "", StoreFull, "raise maxmemory or delete streams"),
    (redis.ReadOnlyError, "", StoreReadOnly, "point the URL at the primary"),
    (redis.AuthenticationError, "", StoreUnavailable, "set user and password in the store URL"),
    (NoPermissionError, "", StoreUnavailable, "grant the store's user this command and key"),
    (redis.BusyLoadingError, "", StoreUnavailable, "the server is loading its data; try again"),
    (redis.TimeoutError, "", StoreUnavailable, "no answer in time; check server and network"),
    (redis.ConnectionError, "", StoreUnavailable, "start the server or correct the store URL"),
    (redis.ResponseError, "MISCONF", StoreFull, "the server cannot write to disk; free space"),
    (redis.ResponseError, "OOM", StoreFull, "raise maxmemory or delete streams"),
    (redis.ResponseError, "READONLY", StoreReadOnly, "point the URL at the primary"),
    (
        redis.ResponseError,
        "WRONGTYPE",
        CorruptValue,
        "another program uses this key; set a namespace",
    ),
    (redis.ResponseError, "NOAUTH", StoreUnavailable, "set user and password in the store URL"),
)


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


def _problems(facts: Mapping[str, Any], url: str) -> Iterator[str]:
    """What the doctor should say about a server."""
    version = tuple(int(part) for part in str(facts.get("redis_version", "0")).split(".")[:2])
    if version < OLDEST_SERVER:
        yield f"server version {facts.get('redis_version')}, expected 6.2 or newer; upgrade it"
    if facts.get("maxmemory_policy", "noeviction") != "noeviction":
        yield f"maxmemory-policy is {facts['maxmemory_policy']}, expected noeviction; set it"
    if not facts.get("aof_enabled"):
        yield "append-only file is off, a crash loses clips; CONFIG SET appendonly yes"
    if facts.get("aof_last_write_status", "ok") != "ok":
        yield "the last write of the append-only file failed; free disk space"
    if facts.get("role") not in (None, "master"):
        yield f"server is a {facts['role']}, expected the primary; point the URL at it"
    parts = urlsplit(url)
    if parts.scheme == "redis" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        yield f"redis:// to {parts.hostname} is not encrypted; use rediss://"


# --- the connection --------------------------------------------------------------------------


class _RetryUnlessRefused(Retry):
    """Retry what may pass by itself; a wrong password does not."""

    def call_with_retry(self, do, fail, is_retryable=None, with_failure_count=False):  # type: ignore[override]
        return super().call_with_retry(
            do,
            fail,
            is_retryable or (lambda error: not isinstance(error, redis.AuthenticationError)),
            with_failure_count,
        )


def _connect(config: StoreConfig) -> redis.Redis:
    """A client with every wait bounded: a server that is away is an error within 6 s.

    Connection errors are retried (a restart takes a moment), time-outs are not (they cost
    `timeout_s` each, and the caller decides whether to wait that long again).
    """
    try:
        return redis.Redis.from_url(
            config.url,
            socket_timeout=config.timeout_s,
            socket_connect_timeout=config.connect_timeout_s,
            retry=_RetryUnlessRefused(
                ExponentialWithJitterBackoff(base=0.02, cap=0.25),
                retries=3,
                supported_errors=(redis.ConnectionError,),
            ),
            socket_read_size=READ_BYTES,
        )
    except ValueError as error:
        raise InvalidSettings(
            f"store URL {without_credentials(config.url)!r} does not read: {error}; "
            "expected redis://user:password@host:port/db"
        ) from error


def iter_plain_values(config: StoreConfig, spans: list[ClipSpan]) -> Iterator[bytes]:
    """The values as a plain redis-py client with its own defaults reads them: the bench's rival."""
    keys = Keys(config.namespace)
    with redis.Redis.from_url(config.url) as client:
        for span in spans:
            value: Any = client.get(keys.clip(span.stream_id, span.epoch, span.index))
            yield value


def _milliseconds(seconds: float) -> int:
    if not 0.001 <= seconds <= 86_400:
        raise InvalidSettings(f"a lease of {seconds} s; expected 0.001 to 86400 s")
    return round(seconds * 1000)
