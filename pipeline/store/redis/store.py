"""The store on a Redis or Valkey server: `RedisStore`."""

import logging
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from redis.exceptions import NoPermissionError

from pipeline.store.cold.tidying import files_of, remove_all, remove_unused
from pipeline.store.config import StoreConfig
from pipeline.store.reads import Stored, VerifiedReads
from pipeline.store.redis.connection import connect, connect_cluster, names_several
from pipeline.store.redis.health import iter_problems, name_server, require_no_eviction
from pipeline.store.redis.levels import RedisLevels
from pipeline.store.redis.roster import RedisRoster
from pipeline.store.redis.watches import RedisWatches
from pipeline.values.types import ClipSpan, DeletedCounts, StoreHealth, StoreStats

logger = logging.getLogger(__name__)

READ_AHEAD = 2
"""Values fetched before they are needed, while the last one is verified."""
NO_INFO = "the store's user may not run INFO: eviction, durability and cluster are not checked"


class RedisStore(RedisLevels, RedisWatches, RedisRoster, VerifiedReads):
    """`ClipStore` on one server or a cluster. Safe to share between threads."""

    def __init__(self, config: StoreConfig) -> None:
        """Connect and refuse a server that would lose records by itself.

        Raises `InvalidSettings` for several servers that are no cluster.
        """
        super().__init__(config, connect(config))
        try:
            facts = self._ask_facts("open")
            require_no_eviction(facts, self._where)
            if facts.get("cluster_enabled") or names_several(config.url):
                self._client.close()
                with self._translated("open"):
                    self._client = connect_cluster(config)
        except BaseException:
            self.close()
            raise

    @classmethod
    def at_socket(cls, config: StoreConfig, socket: Path) -> "RedisStore":
        """The same config, at a server's unix socket."""
        return cls(replace(config, url=f"unix://{quote(str(socket))}"))

    def delete_range(
        self,
        stream_id: str,
        start_s: float | None = None,
        end_s: float | None = None,
        *,
        epoch: int | None = None,
    ) -> DeletedCounts:
        """With the files of the cold tier of which no clip is left."""
        counts, spans = self._delete_range(stream_id, start_s, end_s, epoch=epoch)
        remove_unused(self, stream_id, files_of(spans))
        return counts

    def delete_stream(self, stream_id: str, *, deep: bool = False) -> DeletedCounts:
        """With its files in the cold tier."""
        counts = super().delete_stream(stream_id, deep=deep)
        remove_all(self, stream_id)
        return counts

    def stats(self) -> StoreStats:
        facts = self._ask_facts("stats")
        with self._translated("stats"):
            num_streams: Any = self._client.scard(self._keys.streams)
        return StoreStats(
            num_streams=num_streams,
            used_bytes=int(facts.get("used_memory", 0)),
            limit_bytes=int(facts.get("maxmemory", 0)) or None,
        )

    def check(self) -> StoreHealth:
        facts = self._ask_facts("check")
        problems = tuple(iter_problems(facts, self._config.url)) if facts else (NO_INFO,)
        mode = " cluster" if facts.get("cluster_enabled") else ""
        return StoreHealth(f"{name_server(facts)}{mode}", problems)

    def close(self) -> None:
        self._client.close()

    def _ask_facts(self, what: str) -> Mapping[str, Any]:
        """What the server tells of itself; nothing where this user may not ask."""
        with self._translated(what):
            try:
                server = self._client if self._is_one_server else self._server_of("any")
                return server.info()
            except NoPermissionError:
                logger.warning("%s", NO_INFO)
                return {}

    def _iter_values(self, spans: Iterable[ClipSpan]) -> Generator[tuple[ClipSpan, Stored]]:
        if not self._is_one_server:  # each value where its stream lies, one at a time
            yield from super()._iter_values(spans)
            return
        from pipeline.store.redis.bulk import BulkReader

        asked: deque[ClipSpan] = deque()
        client: Any = self._client
        with closing(BulkReader(client, self._keys)) as reader:
            for span in spans:
                reader.ask(span)
                asked.append(span)
                if len(asked) > READ_AHEAD:
                    yield self._take(reader, asked.popleft())
            while asked:
                yield self._take(reader, asked.popleft())

    def _take(self, reader: Any, span: ClipSpan) -> tuple[ClipSpan, Stored]:
        with self._translated(span.stream_id):
            record = reader.take()
        return span, self._record_of(span) if record is None else record
