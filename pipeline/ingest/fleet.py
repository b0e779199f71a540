"""Sessions side by side, a thread each, of which some join and leave while the others run.

Knows of no source and no store: what a session does is given to it.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

LOOK_S = 0.5
"""How often it is looked for what was not told: an end, a change of what is wanted."""
STOP_S = 10.0
"""How long sessions may take, all together, to commit what is open."""

W = TypeVar("W")
N = TypeVar("N")


@dataclass(frozen=True)
class _Member(Generic[W]):
    wanted: W
    stop: threading.Event
    thread: threading.Thread


class Members(Generic[W]):
    """`run(wanted, stop)` in a thread for every name that is begun; only `join` waits."""

    def __init__(self, run: Callable[[W, threading.Event], None], *, stop: threading.Event) -> None:
        """`stop` ends them all."""
        self._run, self._stop = run, stop
        self._members: dict[str, _Member[W]] = {}
        threading.Thread(target=self._end_all, name="stop", daemon=True).start()

    def begin(self, name: str, wanted: W) -> None:
        """Begin one, whose name nobody has."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(wanted, stop), name=name, daemon=True)
        self._members[name] = _Member(wanted, stop, thread)
        if self._stop.is_set():  # else `_end_all` sees it
            stop.set()
        thread.start()

    def end(self, name: str) -> None:
        """Ask one to end; `collect` tells when it has."""
        self._members[name].stop.set()

    def collect(self, among: Iterable[str] | None = None) -> dict[str, bool]:
        """Forget those that have ended, of some or of all; whether each was asked to end."""
        names = list(self._members) if among is None else among
        ended = [name for name in names if not self._members[name].thread.is_alive()]
        return {name: self._members.pop(name).stop.is_set() for name in ended}

    def wanted(self, *, ending: bool = True) -> dict[str, W]:
        """What each runs, with or without those that were asked to end."""
        return {
            name: one.wanted
            for name, one in self._members.items()
            if ending or not one.stop.is_set()
        }

    def are_running(self) -> bool:
        """Whether any has not ended, asked to or not."""
        return any(one.thread.is_alive() for one in self._members.values())

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def __len__(self) -> int:
        return len(self._members)

    def join(self, names: Iterable[str] | None = None) -> None:
        """Wait up to `STOP_S` for the end of these, or of all."""
        until_s = time.monotonic() + STOP_S
        for name in list(self._members) if names is None else names:
            self._members[name].thread.join(max(0.0, until_s - time.monotonic()))

    def _end_all(self) -> None:
        self._stop.wait()
        for one in list(self._members.values()):
            one.stop.set()


class Fleet(Generic[W, N]):
    """`run(wanted, stop, tell)` is called in a thread for every name that is wanted."""

    def __init__(
        self,
        run: Callable[[W, threading.Event, Callable[[N], None]], None],
        *,
        stop: threading.Event,
    ) -> None:
        self._stop = stop
        self._news: queue.SimpleQueue[N] = queue.SimpleQueue()
        self._members = Members[W](lambda one, own: run(one, own, self._news.put), stop=stop)

    def change(self, wanted: Mapping[str, W]) -> None:
        """Have these and no others: what is gone or changed ends, what is new or changed begins.

        Whose end does not come in time is not begun anew; the next change tries again.
        """
        members = self._members
        ending = [name for name, one in members.wanted().items() if one != wanted.get(name)]
        for name in ending:
            members.end(name)
        members.join(ending)
        members.collect(ending)
        for name, one in wanted.items():
            if name not in members:
                members.begin(name, one)

    def news(self, look: Callable[[], Mapping[str, W] | None] | None = None) -> Iterator[N]:
        """What the sessions tell, until all have ended; all are ended when this is closed.

        `look`: asked now and then for what is wanted from now on, None for no change. With it, an
        empty fleet goes on until it is stopped.
        """
        try:
            while self._members.are_running() or (look is not None and not self._stop.is_set()):
                yield from self._await_news()
                if look is not None and (wanted := look()) is not None:
                    self.change(wanted)
            while not self._news.empty():
                yield self._news.get()
        finally:
            self._stop.set()
            self._members.join()

    def _await_news(self) -> list[N]:
        try:
            return [self._news.get(timeout=LOOK_S)]
        except queue.Empty:
            return []
