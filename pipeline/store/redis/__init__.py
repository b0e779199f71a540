"""The store in Redis or Valkey; the only home of redis-py."""

from pipeline.store.redis.store import RedisStore

__all__ = ["RedisStore"]
