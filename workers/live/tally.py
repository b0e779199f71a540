"""What an encoder has done, counted, and how each count is called where it is shown."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable


@runtime_checkable
class Timed(Protocol):
    """What came of frames: `Pushed`, `ClipStats`."""

    @property
    def encode_s(self) -> float:
        """Its share of the batch's time in the encoder."""
        ...

    @property
    def reduce_s(self) -> float:
        """And in the reduction."""
        ...


@dataclass(frozen=True)
class PushTally:
    """What an encoder has done so far."""

    batches: int = 0
    frames: int = 0
    last_frames: int = 0
    """Of the last batch."""
    busy_s: float = 0.0
    encode_s: float = 0.0
    reduce_s: float = 0.0
    waiting: int = 0
    """Frames that wait for a batch."""

    def plus(self, frames: int, done: Sequence[Timed]) -> "PushTally":
        """With a batch of so many frames, and what came of those that could be used."""
        return replace(
            self,
            batches=self.batches + 1,
            frames=self.frames + frames,
            last_frames=frames,
            encode_s=self.encode_s + sum(result.encode_s for result in done),
            reduce_s=self.reduce_s + sum(result.reduce_s for result in done),
        )


class BusyClock:
    """Seconds in which anything was at work, however many batches at one time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before_s, self._since_s, self._at_work = 0.0, 0.0, 0

    def begin(self) -> None:
        """A batch is begun."""
        if not self._at_work:
            self._since_s = self._clock()
        self._at_work += 1

    def end(self) -> None:
        """One of them has ended."""
        self._at_work -= 1
        if not self._at_work:
            self._before_s += self._clock() - self._since_s

    @property
    def busy_s(self) -> float:
        """Until now."""
        return self._before_s + (self._clock() - self._since_s if self._at_work else 0.0)


@dataclass(frozen=True)
class Counted:
    """One number of an encoder, as monitoring calls it."""

    name: str
    text: str
    get: Callable[[PushTally], float]
    only_grows: bool = True
    """As a counter does, whose rate is looked at; else it is a gauge."""


COUNTED = (
    Counted("worker_batches", "Batches encoded.", lambda t: t.batches),
    Counted("worker_frames", "Frames in them.", lambda t: t.frames),
    Counted("worker_batch_frames", "Frames of the last batch.", lambda t: t.last_frames, False),
    Counted("worker_busy_seconds", "Time at work: its rate is the busy share.", lambda t: t.busy_s),
    Counted("worker_encode_seconds", "Of it in the encoder.", lambda t: t.encode_s),
    Counted("worker_reduce_seconds", "Of it in the reduction.", lambda t: t.reduce_s),
    Counted("worker_queue_frames", "Frames that wait for a batch.", lambda t: t.waiting, False),
)
