"""Retrievals in turn: a few side by side, so that each is about as quick as it is alone.

Sixteen at one time on two cores would each take eight times as long, the first as the last. Here
the others wait, first come, first served, and are told how long. Knows of no store and no question.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from pipeline.values.errors import TooManyRequests

T = TypeVar("T")
WAIT_S = 60.0
"""Longest wait for a turn."""


class Turns:
    """Threads that retrieve, for callers in threads and in an event loop."""

    def __init__(self, at_once: int | None = None, *, wait_s: float = WAIT_S) -> None:
        """`at_once` of them; None is one for two cores: answers are written on the others."""
        self.at_once = at_once or max(1, _cores() // 2)
        self._wait_s = wait_s
        self._threads = ThreadPoolExecutor(self.at_once, thread_name_prefix="retrieval")

    def take(self, work: Callable[[], T]) -> tuple[T, float]:
        """What `work` gives, done in its turn, and the seconds that it waited for it.

        Raises:
            TooManyRequests: its turn did not come in time; nothing was done.
        """
        future = self._begin(work)
        wait([future], timeout=self._wait_s)
        self._require_begun(future)
        return future.result()

    async def take_async(self, work: Callable[[], T]) -> tuple[T, float]:
        """The same from an event loop; errors as `take`."""
        future = self._begin(work)
        done = asyncio.wrap_future(future)
        await asyncio.wait([done], timeout=self._wait_s)
        self._require_begun(future)
        return await done

    def close(self) -> None:
        """Begin no more; what is under way ends."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, work: Callable[[], T]) -> Future[tuple[T, float]]:
        return self._threads.submit(_timed, work, time.perf_counter())

    def _require_begun(self, future: Future[tuple[T, float]]) -> None:
        if future.cancel():
            raise TooManyRequests(
                f"{self.at_once} questions are retrieved at one time, and this one's turn did not "
                f"come within {self._wait_s:.0f} s; ask again in a moment"
            )


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _timed(work: Callable[[], T], since_s: float) -> tuple[T, float]:
    waited_s = time.perf_counter() - since_s
    return work(), waited_s


def take(turns: Turns | None, work: Callable[[], T]) -> tuple[T, float]:
    """In its turn, or at once where there are none."""
    return (work(), 0.0) if turns is None else turns.take(work)
