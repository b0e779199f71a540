"""Who may write a stream: a key that expires, and a number that rises with every lease."""

import secrets
import time
from contextlib import suppress

from redis.client import Pipeline

from pipeline.store import rows
from pipeline.store.checks import lease_held_error
from pipeline.store.redis.database import RedisDatabase
from pipeline.values.errors import InvalidSettings, LeaseLost
from pipeline.values.types import Lease


class RedisLeases(RedisDatabase):
    """`base.Leases`."""

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
                raise lease_held_error(held)
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


def _milliseconds(seconds: float) -> int:
    if not 0.001 <= seconds <= 86_400:
        raise InvalidSettings(f"a lease of {seconds} s; expected 0.001 to 86400 s")
    return round(seconds * 1000)
