"""A connection with transactions, and errors of the pipeline's own kind: what all parts stand on.

A write watches the keys it depends on, reads them, and commits what it changes in one MULTI, so
that a reader sees all of it or nothing, and a writer whose lease is gone commits nothing. Whatever
was interrupted may be sent again: keys are deterministic and no write counts. Plain transactions
rather than Lua: a script costs three times as much for values of this size.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

import redis
from redis.client import Pipeline
from redis.cluster import RedisCluster
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisClusterException,
    TryAgainError,
)

from pipeline.store import rows
from pipeline.store.checks import Place, require_current
from pipeline.store.cold import open_cold
from pipeline.store.config import StoreConfig
from pipeline.store.keys import Keys
from pipeline.store.levels import Node, nodes_over_all
from pipeline.store.redis.meanings import RedisProblem, explain, get_words
from pipeline.values.errors import Conflict
from pipeline.values.types import Lease
from workers.redact import redact_url

MAX_ATTEMPTS = 16
"""Transactions tried before a stream that keeps changing under us is reported."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.001, 0.25
"""Between two attempts at a stream that others are changing."""
MOVING_S = 0.02
"""Between two tries at a slot that is being moved."""
PAGE_ROWS = 5000
"""Rows of the index taken at a time: the server is held up for less than 2 ms."""

_NODE_AWAY = (redis.ConnectionError, redis.TimeoutError, ClusterDownError, MovedError, AskError)
"""Of a cluster: what a node that is gone, or that lost its slots, makes of a command."""
_MOVING = (MovedError, AskError, TryAgainError)
"""What the nodes say between which a slot is being moved."""
_ERRORS = (redis.RedisError, RedisClusterException)
"""All of redis-py's: a cluster of which no node answers is a kind of its own to it."""

T = TypeVar("T")


class RedisDatabase:
    """What the parts of `RedisStore` share."""

    def __init__(self, config: StoreConfig, client: Any) -> None:
        self._config = config
        self._keys = Keys(config.namespace)
        self._client = client
        self.cold = open_cold(config)
        """As `ClipStore.cold`."""

    @property
    def config(self) -> StoreConfig:
        return self._config

    @property
    def _is_one_server(self) -> bool:
        """Whether the set of streams can be written in the transaction of any stream."""
        return not isinstance(self._client, RedisCluster)

    def _server_of(self, stream_id: str) -> redis.Redis:
        """The server that has the stream's keys: all of them, since they lie in one slot."""
        if self._is_one_server:
            return self._client
        node = self._client.get_node_from_key(self._keys.info(stream_id))
        return self._client.get_redis_connection(node)

    def _transact(
        self,
        stream_id: str,
        watched: list[str],
        body: Callable[[Pipeline], T],
        *,
        attempts: int = MAX_ATTEMPTS,
    ) -> T:
        """Run `body` until nobody changed what it read."""

        def once() -> T:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.watch(*watched)
                return body(pipe)

        with self._translated(stream_id):
            for attempt in range(attempts):
                try:
                    return self._once_settled(once)
                except redis.WatchError:  # by chance later each time, or all would meet again
                    time.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * random.random())
        raise Conflict(f"{stream_id}: changed by others in each of {attempts} attempts; try again")

    def _once_settled(self, transaction: Callable[[], T]) -> T:
        """What a transaction gives; tried again while its slot is between two nodes of a cluster.

        redis-py waits for that with single commands alone. A slot of one stream has moved within
        milliseconds; after one time limit of the store it is an error like any other.
        """
        until_s = time.monotonic() + self._config.timeout_s
        while True:
            try:
                return transaction()
            except _MOVING as error:
                if self._is_one_server or time.monotonic() > until_s:
                    raise
                if isinstance(error, _NODE_AWAY):
                    self._look_for_nodes()
            time.sleep(MOVING_S)

    def _iter_members(
        self, key: str, lowest: str | float, highest: str | float, *, page: int | None = None
    ) -> Iterator[bytes]:
        """Members of a sorted set by score, a page at a time, also while it changes.

        The next page begins at the score of the last that is still there: what was given is passed
        over. Scores of all of them would take the client ten times as long as the members.
        """
        given: set[bytes] = set()
        at, size = lowest, page or PAGE_ROWS
        while True:
            found: Any = self._client.zrangebyscore(key, at, highest, start=0, num=size)
            new = [member for member in found if member not in given]
            yield from new
            if len(found) < size:
                return
            size = size if new else 2 * size  # more of one score than a page holds
            given = set(found)
            scores: Any = (self._client.zscore(key, member) for member in reversed(found))
            at = next((score for score in scores if score is not None), at)

    def _level_key(self, node: Node) -> str:
        if not node.level:
            return self._keys.clip(node.stream_id, node.epoch, node.first)
        return self._keys.level(node.stream_id, node.epoch, node.first, node.level)

    def _levels_over(self, stream_id: str, places: Iterable[Place]) -> list[str]:
        """Keys of the coarser records that tell of clips."""
        return [self._level_key(node) for node in nodes_over_all(stream_id, places)]

    def _require_lease(self, pipe: Pipeline, lease: Lease) -> None:
        key = self._keys.lease(lease.stream_id)
        require_current(self._lease_in(lease.stream_id, pipe.get(key)), lease)

    @staticmethod
    def _lease_in(stream_id: str, text: Any) -> Lease | None:
        return None if text is None else rows.lease_from_text(stream_id, text)

    @property
    def _where(self) -> str:
        return f"store {redact_url(self._config.url)}"

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Errors of redis-py as errors of the pipeline."""
        try:
            yield
        except _ERRORS as error:
            if isinstance(error, _NODE_AWAY) and not self._is_one_server:
                self._look_for_nodes()
            self._raise(error, what)

    def _look_for_nodes(self) -> None:
        """Ask the cluster anew who has which slots: a primary may have a successor.

        redis-py does so for single commands; its transactions try the dead one for ever.
        """
        with suppress(*_ERRORS, OSError):
            self._client.nodes_manager.initialize()

    def _raise(self, error: RedisProblem, what: str) -> NoReturn:
        text = get_words(error)
        kind, advice = explain(error, text, in_cluster=not self._is_one_server)
        raise kind(f"{self._where}, {what}: {text}; {advice}") from error
