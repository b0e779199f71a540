"""Connections to Redis: one server, a cluster, or the primary that Sentinels name.

    redis://user:password@host:port/db      unix:///socket      rediss://... (encrypted)
    sentinel://user:password@host:port,host:port/service/db     the servers' own user and password

A cluster needs no URL of its own: any of its nodes says that it is one. Several of them may be
named, `redis://host:port,host:port/0`, so that one that is away keeps nobody out.
"""

import re
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from pipeline.store import rows
from pipeline.store.config import StoreConfig
from pipeline.store.keys import Keys
from pipeline.store.redis.login import take_login
from pipeline.values.errors import InvalidSettings
from pipeline.values.types import ClipSpan
from workers.redact import redact_url

_UNDER_WAY = ("rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled")
PAGE_ROWS = 5000
READ_BYTES = 128 << 10
"""Taken from the socket at a time: fewer turns at the GIL than with redis-py's 32 kB."""
_TAKEN_OPTIONS = ("db", "client_name", "health_check_interval", "socket_keepalive", "protocol")
"""Of a URL, beside `ssl_...`. Others change what answers look like, or have a setting here."""

_OPTION = re.compile(r"[a-z_]{2,40}")
"""What may be shown as the name of one; else it may be half a password."""


def connect(config: StoreConfig) -> redis.Redis:
    """A client with every wait bounded: a server that is away is an error within 6 s.

    Connection errors are retried for a moment, time-outs are not (they cost `timeout_s` each):
    whoever can wait longer does (`patience`). Raises `InvalidSettings` for a URL that is none.
    """
    shown = f"store URL {redact_url(config.url)!r} does not read"
    try:
        _require_known_options(config.url)
        if urlsplit(config.url).scheme == "sentinel":
            return _connect_primary(config)
    except ValueError as error:
        raise InvalidSettings(f"{shown}: {error}; expected redis://host:port/db") from None
    try:
        url, login = take_login(config)
        *others, last = [
            redis.Redis.from_url(one, **login, **_bounds(config)) for one in _node_urls(url)
        ]
    except ValueError:  # its text may hold a part of the password
        raise InvalidSettings(
            f"{shown}, expected redis://host:port/db; check the port and the database"
        ) from None
    return next((client for client in others if _answers(client)), last)


def connect_cluster(config: StoreConfig) -> RedisCluster:
    """The same for a cluster, found through any of the nodes that the URL names."""
    url, login = take_login(config)
    first, *others = _node_urls(url)
    nodes = [ClusterNode(**_place_of(other)) for other in others]
    return RedisCluster.from_url(
        first, startup_nodes=nodes, **login, **_bounds(config), require_full_coverage=False
    )


def names_several(url: str) -> bool:
    """Whether a URL names several nodes, which only those of a cluster are."""
    return urlsplit(url).scheme in ("redis", "rediss") and len(_node_urls(url)) > 1


def _node_urls(url: str) -> list[str]:
    """A URL for each node that one names."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss"):
        return [url]
    login, at, places = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{login}{at}{one}").geturl() for one in places.split(",")]


def _place_of(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {"host": parts.hostname, "port": parts.port or 6379}


def _answers(client: redis.Redis) -> bool:
    """Whether somebody is there, whatever it says."""
    try:
        client.ping()
    except (redis.ConnectionError, redis.TimeoutError):
        client.close()
        return False
    except redis.RedisError:
        return True
    return True


def _bounds(config: StoreConfig) -> dict[str, Any]:
    return {
        "socket_timeout": config.timeout_s,
        "socket_connect_timeout": config.connect_timeout_s,
        "socket_read_size": READ_BYTES,
        "retry": _RetryUnlessRefused(
            ExponentialWithJitterBackoff(base=0.02, cap=0.25),
            retries=3,
            supported_errors=(redis.ConnectionError,),
        ),
    }


def _connect_primary(config: StoreConfig) -> redis.Redis:
    url, login = take_login(config)
    parts = urlsplit(url)
    in_url, _, places = parts.netloc.rpartition("@")
    service, _, db = parts.path.strip("/").partition("/")
    user, _, password = in_url.partition(":")
    sentinels = []
    for place in places.split(","):
        host, _, port = place.rpartition(":")
        if not (host and port.isdigit() and service and (db or "0").isdigit()):
            raise ValueError("expected sentinel://host:port,host:port/service/db")
        sentinels.append((host.strip("[]"), int(port)))
    bounds = _bounds(config)
    login = login or {"username": unquote(user) or None, "password": unquote(password) or None}
    sentinel = Sentinel(sentinels, sentinel_kwargs=dict(bounds), **bounds, **login)
    return sentinel.master_for(service, db=int(db or 0))


def _require_known_options(url: str) -> None:
    for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name not in _TAKEN_OPTIONS and not name.startswith("ssl_"):
            named = f"option {name!r}" if _OPTION.fullmatch(name) else "an option"
            raise ValueError(
                f"{named} is not for a URL of the store; take it out (time limits are "
                "store.timeout_s and store.connect_timeout_s)"
            )


def iter_plain_values(config: StoreConfig, spans: list[ClipSpan]) -> Iterator[bytes]:
    """The values as a plain redis-py client with its own defaults reads them: the bench's rival."""
    keys = Keys(config.namespace)
    with redis.Redis.from_url(config.url) as client:
        for span in spans:
            value: Any = client.get(keys.clip(span.stream_id, span.epoch, span.index))
            yield value


def write_rows(config: StoreConfig, spans: Iterable[ClipSpan]) -> int:
    """Index rows of clips that nobody wrote, behind those of a stream; how many. For benches.

    Totals and position are of its real clips; what the longest clip is, it must know already.
    """
    keys, count = Keys(config.namespace), 0
    with redis.Redis.from_url(config.url, socket_timeout=config.timeout_s) as client:
        rest = iter(spans)
        while page := list(islice(rest, PAGE_ROWS)):
            members = {rows.span_to_text(span): span.start_s for span in page}
            client.zadd(keys.clips(page[0].stream_id), members)
            count += len(page)
    return count


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


class _RetryUnlessRefused(Retry):
    """Retry what may pass by itself; a wrong password does not."""

    def call_with_retry(self, do, fail, is_retryable=None, with_failure_count=False):  # type: ignore[override]
        return super().call_with_retry(
            do,
            fail,
            is_retryable or (lambda error: not isinstance(error, redis.AuthenticationError)),
            with_failure_count,
        )
