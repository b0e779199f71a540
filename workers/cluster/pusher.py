"""Open clips on a pool: each push goes to a worker that is well, whichever had the one before.

What makes that possible is that the state travels with the frames. A push whose worker dies is made
again elsewhere; frames that cost `LONE_TRIES` workers are given up.
"""

import itertools
import logging
import time
import zlib
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError

from aot import ClipTokens
from workers.cluster.actors import original_error
from workers.cluster.feed import DIED, LONE_TRIES
from workers.cluster.health import PoolHealth
from workers.cluster.pool import Pool
from workers.errors import ModelError, WorkerLost, one_line
from workers.seams import Push, Pushed, WorkerInfo

logger = logging.getLogger(__name__)

POLL_S = 0.25
"""How often a push looks whether its worker is well."""


class ClusterPusher:
    """A `Pusher` over the actors of a pool, for any number of threads."""

    def __init__(self, pool: Pool, *, tenant: str) -> None:
        self._pool = pool
        self._digest = pool.info.identity.digest()
        self._health = PoolHealth(pool, tenant, tell=lambda: None)
        self._turns = itertools.count()

    @property
    def info(self) -> WorkerInfo:
        """What the pool's models and reducer are."""
        return self._pool.info

    def push(self, push: Push, *, timeout_s: float) -> Pushed:
        """See `Pusher.push`; raises WorkerLost also for frames that cost several workers."""
        stored = ray.put(push)
        turn = None if push.recurring is None else zlib.crc32(push.recurring.encode())
        pushed, away_s = self._call("push", (stored, self._digest), timeout_s, turn)
        return replace(pushed, away_s=away_s)

    def finish(self, state: Any, dtype: torch.dtype, *, timeout_s: float = 60.0) -> ClipTokens:
        """See `Pusher.finish`."""
        return self._call("finish", (state, dtype, self._digest), timeout_s)[0]

    def close(self) -> None:
        """Ask the workers no more; the pool belongs to whoever opened it."""
        self._health.close()

    def _call(
        self,
        method: str,
        arguments: tuple[Any, ...],
        timeout_s: float,
        turn: int | None = None,
    ) -> tuple[Any, float]:
        """The result of a method of any worker; after how many seconds one took it that gave it."""
        began_s, deaths, avoid = time.monotonic(), 0, None
        until_s = began_s + timeout_s
        while time.monotonic() < until_s and deaths < LONE_TRIES:
            number = self._choose(avoid, next(self._turns) if turn is None else turn)
            if number is None:
                time.sleep(POLL_S)
                continue
            away_s = time.monotonic() - began_s
            call = getattr(self._pool.handles[number], method).remote(*arguments)
            try:
                return self._wait(call, number, until_s), away_s
            except (*DIED, WorkerLost, ModelError, RayTaskError) as error:
                cause = original_error(error)
                if not isinstance(cause, (*DIED, WorkerLost, ModelError)):
                    raise cause from None
                logger.warning("a %s is made again by another worker: %s", method, one_line(cause))
                deaths += isinstance(cause, DIED)
                self._health.mark(number, cause)
                avoid = number
        raise WorkerLost(
            f"no result of a {method} in {timeout_s:g} s, after {deaths} workers died of it: "
            f"{self._health.explain()}; take fewer frames a second, or more workers"
        )

    def _choose(self, avoid: int | None, turn: int) -> int | None:
        """A worker that is well: another than the one to avoid, with little to do, by turns.

        Whose pictures may come again is given the same turn always: the worker may know them.
        """
        ready = self._health.ready()
        others = [number for number in ready if number != avoid] or ready
        if not others:
            return None
        return min(
            others,
            key=lambda n: (self._health.workers[n].waiting, (n - turn) % len(self._pool.handles)),
        )

    def _wait(self, call: Any, number: int, until_s: float) -> Any:
        while not ray.wait([call], timeout=POLL_S)[0]:
            if time.monotonic() > until_s or self._health.workers[number].state == "silent":
                ray.cancel(call)
                raise WorkerLost(f"worker {number} does not answer")
        return ray.get(call)
