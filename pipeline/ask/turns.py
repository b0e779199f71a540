"""Retrievals in turn: a few side by side, so that each is about as quick as it is alone.

Sixteen at one time on two cores would each take eight times as long, the first as the last. Here
the others wait, first come, first served, and are told how long. One that takes long, as it reads
from far away or has levels to make, goes on beside the next. Knows of no store and no question.
"""

import asyncio
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.values.errors import TooManyRequests

T = TypeVar("T")
WAIT_S = 60.0
"""Longest wait for a turn."""
LONG_S = 1.0
"""After so long a retrieval holds up nobody any more."""
MOST_LONG = 8
"""Of those that go on beside the others."""


@dataclass(frozen=True)
class _Asked:
    work: Callable[[], Any]
    future: Future[Any]
    since_s: float


class Turns:
    """Threads that retrieve, for callers in threads and in an event loop."""

    def __init__(
        self, at_once: int | None = None, *, wait_s: float = WAIT_S, long_s: float = LONG_S
    ) -> None:
        """`at_once` of them; None is one for two cores: answers are written on the others."""
        self.at_once = at_once or max(1, _cores() // 2)
        self._wait_s, self._long_s = wait_s, long_s
        most = self.at_once + MOST_LONG
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="retrieval")
        self._waiting: deque[_Asked] = deque()
        self._begun = 0
        """That nobody may begin beside."""
        self._running = 0
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def num_waiting(self) -> int:
        """Of those that asked and are not begun."""
        return len(self._waiting)

    def take(self, work: Callable[[], T]) -> tuple[T, float]:
        """What `work` gives, done in its turn, and the seconds that it waited for it.

        Raises:
            TooManyRequests: its turn did not come in time; nothing was done.
        """
        future = self._ask(work)
        wait([future], timeout=self._wait_s)
        self._require_begun(future)
        return future.result()

    async def take_async(self, work: Callable[[], T]) -> tuple[T, float]:
        """The same from an event loop; errors as `take`."""
        future = self._ask(work)
        done = asyncio.wrap_future(future)
        await asyncio.wait([done], timeout=self._wait_s)
        self._require_begun(future)
        return await done

    def close(self) -> None:
        """Begin no more; what is under way ends."""
        with self._lock:
            self._is_closed = True
            left, self._waiting = self._waiting, deque()
        for asked in left:
            _refuse(asked)
        self._threads.shutdown(wait=False)

    def _ask(self, work: Callable[[], T]) -> Future[tuple[T, float]]:
        asked = _Asked(work, Future(), time.perf_counter())
        with self._lock:
            if self._is_closed:
                _refuse(asked)
            else:
                self._waiting.append(asked)
                self._begin_next()
        return asked.future

    def _begin_next(self) -> None:
        """Under the lock: begin what waits, as far as there are places and threads."""
        while (
            self._waiting
            and self._begun < self.at_once
            and self._running < self.at_once + MOST_LONG
        ):
            asked = self._waiting.popleft()
            if asked.future.set_running_or_notify_cancel():
                self._begun += 1
                self._running += 1
                self._threads.submit(self._do, asked)

    def _do(self, asked: _Asked) -> None:
        waited_s = time.perf_counter() - asked.since_s
        is_beside = threading.Event()

        def step_aside() -> None:
            """Under the lock: hold up nobody any more."""
            if not is_beside.is_set():
                is_beside.set()
                self._begun -= 1

        def step_aside_late() -> None:
            with self._lock:
                step_aside()
                self._begin_next()

        limit = threading.Timer(self._long_s, step_aside_late)
        limit.daemon = True
        limit.start()
        try:
            result = asked.work(), waited_s
        except BaseException as error:  # raised to whoever asked
            asked.future.set_exception(error)
        else:
            asked.future.set_result(result)
        finally:
            limit.cancel()
            with self._lock:
                step_aside()
                self._running -= 1
                self._begin_next()

    def _require_begun(self, future: Future[Any]) -> None:
        if future.cancel():
            raise TooManyRequests(
                f"{self.at_once} questions are retrieved at one time, and the turn of this one did "
                f"not come within {self._wait_s:.0f} s or before the end; ask again in a moment"
            )


def _refuse(asked: _Asked) -> None:
    """Have whoever waits for it know that it will not be done."""
    asked.future.cancel()
    asked.future.set_running_or_notify_cancel()


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def take(turns: Turns | None, work: Callable[[], T]) -> tuple[T, float]:
    """In its turn, or at once where there are none."""
    return (work(), 0.0) if turns is None else turns.take(work)
