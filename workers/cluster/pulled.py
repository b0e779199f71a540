"""Clips pulled from a source in a thread of its own, a bounded number ahead.

Whoever takes them never waits for the source: a finished clip is stored and a stop is noticed
though the source gives its next clip only seconds later, as a camera does.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable

from workers.types import Clip

JOIN_S = 1.0
"""How long a source in the middle of a clip is waited for at the end."""


class PulledClips:
    """Pulls clips as long as fewer than `limit` are out; a context manager.

    `tell` is called from the thread when there is a clip to take, or the end.
    """

    def __init__(self, clips: Iterable[Clip], limit: int, tell: Callable[[], None]) -> None:
        self._clips = iter(clips)
        self._room = threading.Semaphore(limit)
        self._tell = tell
        self._closed = threading.Event()
        self._pulled: deque[Clip] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="pull", daemon=True)

    def __enter__(self) -> "PulledClips":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed.set()
        self._room.release()
        self._thread.join(JOIN_S)

    def take(self) -> list[Clip]:
        """The clips that are there now, in order."""
        return [self._pulled.popleft() for _ in range(len(self._pulled))]

    def give_back(self) -> None:
        """One of the taken clips is done: another one may be pulled."""
        self._room.release()

    @property
    def exhausted(self) -> bool:
        """Nothing is left to take and nothing will come."""
        return self._ended and not self._pulled

    def raise_error(self) -> None:
        """Raise what the source ended with, if it was an error."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while True:
                self._room.acquire()
                if self._closed.is_set():
                    return
                self._pulled.append(next(self._clips))
                self._tell()
        except StopIteration:
            pass
        except Exception as error:
            self._error = error
        finally:
            self._ended = True
            self._tell()
