"""What an error of redis-py is to us, and what to do about it."""

import redis
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    RedisClusterException,
    TryAgainError,
)

from pipeline.values.errors import (
    CorruptValue,
    InvalidSettings,
    StoreFull,
    StoreReadOnly,
    StoreRefused,
    StoreUnavailable,
)

_PASSWORD = "set user and password in the store URL"
_FILE = "put it on every machine that opens the store"
_NO_NODE = "Redis Cluster cannot be connected. Please provide at least one reachable node: "
_NO_CLUSTER = "several servers are named, which only nodes of a Redis Cluster can be; name one"
_CLUSTER = "the server is one of a Redis Cluster; allow the store's user INFO, so that it is seen"


RedisProblem = redis.RedisError | RedisClusterException


def get_words(error: RedisProblem) -> str:
    """The server's words on one line, without the command that redis-py quotes before them."""
    return " ".join(str(error).rpartition("caused error: ")[2].split())[:200]


def explain(error: RedisProblem, text: str, *, in_cluster: bool) -> tuple[type[Exception], str]:
    """The error of ours, and the advice; `in_cluster`: the client knows that there are nodes."""
    if in_cluster and isinstance(error, (MovedError, AskError, TryAgainError)):
        return StoreUnavailable, "the stream's slot is being moved to another node; try again"
    for redis_type, prefix, kind, advice in _MEANINGS:
        if isinstance(error, redis_type) and text.startswith(prefix):
            return kind, advice
    return StoreUnavailable, "the server refused; see its log"


_MEANINGS: tuple[tuple[type[Exception], str, type[Exception], str], ...] = (
    (redis.OutOfMemoryError, "", StoreFull, "raise maxmemory or delete streams"),
    (redis.ReadOnlyError, "", StoreReadOnly, "point the URL at the primary"),
    (redis.AuthenticationError, "store.password_file", StoreRefused, _FILE),
    (redis.AuthenticationError, "", StoreRefused, _PASSWORD),
    (NoPermissionError, "", StoreRefused, "grant the store's user this command and key"),
    (redis.BusyLoadingError, "", StoreUnavailable, "the server is loading its data; try again"),
    (redis.TimeoutError, "", StoreUnavailable, "no answer in time; check server and network"),
    (ClusterDownError, "", StoreUnavailable, "the cluster has slots without a server; mend it"),
    (MovedError, "", StoreRefused, _CLUSTER),
    (RedisClusterException, f"{_NO_NODE}Cluster mode is not", InvalidSettings, _NO_CLUSTER),
    (RedisClusterException, "", StoreUnavailable, "no node of the cluster answers; start them"),
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
    (redis.ResponseError, "NOAUTH", StoreRefused, _PASSWORD),
)
