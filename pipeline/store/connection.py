"""Connections to Redis: how they are opened, what errors mean, what is wrong with a server.

Beside `redis.py`, which stores clips over them, the only place that knows redis-py.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from pipeline.errors import (
    CorruptValue,
    InvalidSettings,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)
from pipeline.store.base import StoreConfig
from pipeline.store.keys import Keys
from pipeline.types import ClipSpan, without_credentials

OLDEST_SERVER = (6, 2)
"""Below 6.0.9 a watched key that expires does not stop a transaction, and fencing would leak."""
_UNDER_WAY = ("rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled")
READ_BYTES = 128 << 10
"""Taken from the socket at a time: fewer turns at the GIL than with redis-py's 32 kB."""


def connect(config: StoreConfig) -> redis.Redis:
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


def wait_until_idle(config: StoreConfig, *, limit_s: float = 60.0) -> None:
    """Until the server saves and rewrites nothing in the background, or `limit_s` are over.

    After many writes it rewrites its log, which takes a processor core for seconds.
    """
    ends_s = time.monotonic() + limit_s
    with redis.Redis.from_url(config.url, socket_timeout=config.timeout_s) as client:
        while time.monotonic() < ends_s:
            facts: Any = client.info("persistence")
            if not any(facts.get(name) for name in _UNDER_WAY):
                return
            time.sleep(0.05)


def said(error: redis.RedisError) -> str:
    """The server's words on one line, without the command that redis-py quotes before them."""
    return " ".join(str(error).rpartition("caused error: ")[2].split())[:200]


def meaning(error: redis.RedisError, text: str) -> tuple[type[Exception], str]:
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


def problems_of(facts: Mapping[str, Any], url: str) -> Iterator[str]:
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


class _RetryUnlessRefused(Retry):
    """Retry what may pass by itself; a wrong password does not."""

    def call_with_retry(self, do, fail, is_retryable=None, with_failure_count=False):  # type: ignore[override]
        return super().call_with_retry(
            do,
            fail,
            is_retryable or (lambda error: not isinstance(error, redis.AuthenticationError)),
            with_failure_count,
        )
