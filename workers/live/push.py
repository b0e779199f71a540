"""Frames of open clips, of any streams, compressed as they come and in shared batches.

A push is a pure function of frames and the clip's state: nothing is kept here between pushes, so a
push may be repeated, and the next one may go to another worker. On an accelerator frames wait for
others until a batch is full or the oldest of them has waited long enough; on a CPU, where a batch
saves nothing, they do not wait.
"""

import logging
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from aot import ClipTokens
from workers.compress import CompressSettings, CompressWorker
from workers.errors import InvalidSettings, WorkerLost
from workers.live.tally import BusyClock, PushTally
from workers.seams import Push, Pushed, WorkerInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchRule:
    """When a batch of pushes goes out."""

    frames: int = 32
    """When it holds so many frames."""
    wait_s: float = 0.03
    """Or when its oldest push has waited so long; of no account on a CPU."""
    max_waiting: int = 256
    """Pushes that may wait; beyond that a push is refused."""

    def __post_init__(self) -> None:
        if self.frames < 1 or self.wait_s < 0 or self.max_waiting < 1:
            raise InvalidSettings(f"got {self}, expected positive limits")


@dataclass
class _Waiting:
    push: Push
    since_s: float = field(default_factory=time.monotonic)
    result: "Future[Pushed]" = field(default_factory=Future)


class InlinePusher:
    """A `Pusher` with a model of its own, in this process; for any number of threads."""

    def __init__(self, settings: CompressSettings, rule: BatchRule | None = None) -> None:
        """Load the vision half; raises what `CompressWorker` raises."""
        self._worker = CompressWorker(settings)
        self._rule = rule or BatchRule()
        self._on_cpu = torch.device(settings.device).type == "cpu"
        self._waiting: queue.Queue[_Waiting | None] = queue.Queue(self._rule.max_waiting)
        self._tally, self._busy = PushTally(), BusyClock()
        self._thread = threading.Thread(target=self._run, name="push", daemon=True)
        self._thread.start()

    @property
    def info(self) -> WorkerInfo:
        """What the loaded model and reducer are."""
        return self._worker.info

    @property
    def tally(self) -> PushTally:
        """What was done so far, and how much waits."""
        with self._waiting.mutex:
            pushes = [one.push for one in self._waiting.queue if one is not None]
        frames = sum(len(push.pixels) for push in pushes)
        return replace(self._tally, busy_s=self._busy.busy_s, waiting=frames)

    def push(self, push: Push, *, timeout_s: float) -> Pushed:
        """See `Pusher.push`."""
        waiting = _Waiting(push)
        try:
            self._waiting.put(waiting, timeout=timeout_s)
            left_s = timeout_s - (time.monotonic() - waiting.since_s)
            return waiting.result.result(max(0.0, left_s))
        except (queue.Full, TimeoutError):
            waiting.result.cancel()
            raise WorkerLost(
                f"no tokens for {len(push.pixels)} frames in {timeout_s:g} s; the encoder is too "
                "slow for these streams: take fewer frames a second, or another worker"
            ) from None

    def finish(self, state: Any, dtype: torch.dtype) -> ClipTokens:
        """See `Pusher.finish`."""
        return self._worker.finish(state, dtype)

    def close(self) -> None:
        """End the thread and give the model back; pushes that wait are refused."""
        self._waiting.put(None)
        self._thread.join()
        self._worker.close()

    def __enter__(self) -> "InlinePusher":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _run(self) -> None:
        while (batch := self._gather()) is not None:
            self._compress(batch)

    def _gather(self) -> list[_Waiting] | None:
        first = self._waiting.get()
        if first is None:
            return None
        batch, frames = [first], len(first.push.pixels)
        until_s = first.since_s + (0.0 if self._on_cpu else self._rule.wait_s)
        while frames < self._rule.frames:
            try:
                more = self._waiting.get(timeout=max(0.0, until_s - time.monotonic()))
            except queue.Empty:
                break
            if more is None:
                self._waiting.put(None)
                break
            batch.append(more)
            frames += len(more.push.pixels)
        return [item for item in batch if item.result.set_running_or_notify_cancel()]

    def _compress(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        self._busy.begin()
        try:
            results = self._worker.push([item.push for item in batch])
        except Exception as error:
            for item in batch:
                item.result.set_exception(error)
            return
        finally:
            self._busy.end()
        done = [result for result in results if isinstance(result, Pushed)]
        frames = sum(len(item.push.pixels) for item in batch)
        frames -= sum(result.recalled for result in done)
        self._tally = self._tally.plus(frames, done)
        for item, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                item.result.set_exception(result)
            else:
                item.result.set_result(result)
