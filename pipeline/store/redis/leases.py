"""Who may write a stream: a key that expires, and a number that rises with every lease."""

import secrets
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any

from redis.client import Pipeline

from pipeline.store import rows
from pipeline.store.checks import lease_held_error, may_take
from pipeline.store.redis.database import MAX_ATTEMPTS, RedisDatabase
from pipeline.values.errors import Conflict, InvalidSettings, LeaseLost
from pipeline.values.types import Lease

AT_ONCE = 256
"""Leases of one transaction: the server is held up for a millisecond or two."""


class RedisLeases(RedisDatabase):
    """`base.Leases`."""

    def acquire_lease(
        self, stream_id: str, holder: str, *, ttl_s: float = 30.0, takeover: bool = False
    ) -> Lease:
        def require_free(held: Lease | None) -> bool:
            if held is not None and not takeover:
                raise lease_held_error(held)
            return True

        return self._acquire([stream_id], holder, ttl_s, require_free)[stream_id]

    def acquire_leases(
        self, stream_ids: Collection[str], holder: str, *, ttl_s: float = 30.0, kin: str
    ) -> dict[str, Lease]:
        size = AT_ONCE if self._is_one_server else 1  # of a cluster no two share a transaction
        names, taken = list(stream_ids), dict[str, Lease]()
        for start in range(0, len(names), size):
            taken |= self._acquire_some(names[start : start + size], holder, ttl_s, kin)
        return taken

    def _acquire_some(
        self, names: list[str], holder: str, ttl_s: float, kin: str
    ) -> dict[str, Lease]:
        """In one transaction; where others keep changing one of them, each half in its own."""
        may = partial(may_take, kin=kin)
        if len(names) == 1:
            return self._acquire(names, holder, ttl_s, may)
        try:
            return self._acquire(names, holder, ttl_s, may, attempts=2)
        except Conflict:
            half = len(names) // 2
            first = self._acquire_some(names[:half], holder, ttl_s, kin)
            return first | self._acquire_some(names[half:], holder, ttl_s, kin)

    def _acquire(
        self,
        names: list[str],
        holder: str,
        ttl_s: float,
        may: Callable[[Lease | None], bool],
        *,
        attempts: int = MAX_ATTEMPTS,
    ) -> dict[str, Lease]:
        """Leases of those of which `may` says so of who has them; they share a slot."""
        keys = [self._keys.lease(name) for name in names]
        fences = [self._keys.fence(name) for name in names]
        nonce, milliseconds = secrets.token_hex(8), _milliseconds(ttl_s)

        def acquire(pipe: Pipeline) -> dict[str, Lease]:
            # Not by `pipe`, which takes no MGET on a cluster: what is watched may be read anywhere.
            texts: Any = self._client.mget(keys)
            tokens: Any = self._client.mget(fences)
            taken: dict[str, Lease] = {}
            pipe.multi()
            for name, key, fence, text, token in zip(
                names, keys, fences, texts, tokens, strict=True
            ):
                held = self._lease_in(name, text)
                if held is not None and held.nonce == nonce:  # our own, the answer was lost
                    taken[name] = held
                elif may(held):
                    number = int(token or 0) + 1
                    taken[name] = Lease(name, holder, number, nonce, ttl_s, time.time())
                    pipe.set(fence, number)
                    pipe.set(key, rows.lease_to_text(taken[name]), px=milliseconds)
            pipe.execute()
            return taken

        return self._transact(names[0], keys + fences, acquire, attempts=attempts)

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
