"""The worker group of a session: clips go to workers that are well, results come in order.

One loop over events: the source gave a clip, a worker a result or an error, or one has changed its
state. Nothing in it waits for one worker, so that a sick one costs its own clips a
second try elsewhere and nothing more.

Blame: what a worker's death cost is tried again alone, with the process to itself. Only a clip that
was alone when its worker died, and only after `LONE_TRIES` deaths, is given up.
"""

import logging
import queue
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from workers.cluster.actors import original_error
from workers.cluster.health import PoolHealth
from workers.cluster.pool import Pool, PoolSettings
from workers.cluster.pulled import PulledClips
from workers.errors import ModelChanged, ModelError, WorkerBroken, WorkerLost, one_line
from workers.seams import WorkerInfo
from workers.types import Clip, CompressedClip, FailedClip, StopSignal

logger = logging.getLogger(__name__)

DIED = (RayError, WorkerBroken)
"""What a dead worker, a dead node with a result on it, or a broken device looks like; what was
raised by the work itself is not among them."""

LONE_TRIES = 2
"""Workers that a clip may cost by itself before it is given up."""

DEAF_S = 10.0
"""A worker that has had nothing to do for so long will not answer for a clip it was sent."""

POLL_S = 0.25
"""How often a waiting session looks whether it was asked to stop."""


@dataclass(eq=False)
class _InWork:
    """A clip between the source and the sink."""

    clip: Clip
    stored: Any
    """The clip in the object store, sent as often as need be."""
    worker: int | None = None
    """Who has it; None while it waits for a worker."""
    avoid: int | None = None
    """Who had it last."""
    alone: bool = False
    """It is under suspicion and gets a worker to itself."""
    turn: Any = None
    call: Any = None
    sent_s: float = 0.0
    deaths: int = 0
    """Workers that died of it while nothing else was at work there."""
    failed: bool = False
    """A worker has answered that it cannot be compressed."""
    result: CompressedClip | FailedClip | None = None


class ClusterWorkers:
    """A `WorkerGroup` over the actors of a pool; each session has its own.

    At most `clips_in_flight` clips are out at a time. Pixels go from the session to the worker
    through Ray's object store, without a copy on the worker's side.
    """

    def __init__(self, pool: Pool, settings: PoolSettings, *, tenant: str, first: int = 0) -> None:
        """`first` is the worker this session turns to when all are equally busy."""
        self._pool = pool
        self._settings = settings
        self._first = first
        self._digest = pool.info.identity.digest()
        self._in_work: deque[_InWork] = deque()
        self._events: queue.SimpleQueue[tuple[_InWork, Any, Future[Any]] | None]
        self._events = queue.SimpleQueue()
        self._health = PoolHealth(pool, tenant, tell=self._tell)

    @property
    def info(self) -> WorkerInfo:
        """What the pool's models and reducer are."""
        return self._pool.info

    def compress_stream(
        self, clips: Iterable[Clip], *, stop: StopSignal | None = None
    ) -> Iterator[CompressedClip | FailedClip]:
        """Keep the pool busy with the next clips and yield the results in order.

        Raises:
            WorkerLost: no worker was ready for `lost_timeout_s`, or none is left.
            ModelChanged: the workers that are left have loaded another model.
            Whatever `clips` raises, after the clips before it.
        """
        self._in_work.clear()
        patience = _Patience(self._settings)
        with PulledClips(clips, self._settings.clips_in_flight, self._tell) as source:
            while not (source.exhausted and not self._in_work):
                if not patience.is_stopped(stop):
                    self._in_work += [_InWork(clip, ray.put(clip)) for clip in source.take()]
                self._place()
                if self._in_work and (result := self._in_work[0].result) is not None:
                    self._in_work.popleft()
                    yield result
                    source.give_back()
                    continue
                if patience.is_over(idle=not self._in_work):
                    return
                self._require_hope(patience)
                self._settle_events()
            source.raise_error()

    def close(self) -> None:
        """Forget what is in work; the pool belongs to whoever opened it."""
        self._in_work.clear()
        self._health.close()

    def _tell(self) -> None:
        self._events.put(None)

    def _place(self) -> None:
        """Give a worker to every clip that has none, or whose worker does not answer."""
        ready = self._health.ready()
        for item in self._in_work:
            if item.result is not None or not ready:
                continue
            if item.worker is None:
                self._send(item, self._least_busy(ready, item.avoid))
            elif self._is_forgotten(item) and (others := set(ready) - {item.worker}):
                logger.warning("%r is given to another worker: no answer", item.clip)
                item.avoid = item.worker
                self._send(item, self._least_busy(sorted(others), None))

    def _is_forgotten(self, item: _InWork) -> bool:
        """Its worker is silent, or has nothing to do and has not answered for the clip."""
        assert item.worker is not None
        worker = self._health.workers[item.worker]
        return worker.state == "silent" or worker.is_idle_since(item.sent_s) > DEAF_S

    def _least_busy(self, ready: list[int], avoid: int | None) -> int:
        """The worker with the fewest clips of this session, then of all; another than `avoid`."""
        others = [number for number in ready if number != avoid] or ready
        mine = [item.worker for item in self._in_work if item.result is None]
        count = len(self._pool.handles)

        def load(number: int) -> tuple[int, int, int]:
            turn = (number - self._first) % count
            return mine.count(number), self._health.workers[number].waiting, turn

        return min(others, key=load)

    def _send(self, item: _InWork, worker: int) -> None:
        handle = self._pool.handles[worker]
        item.worker, item.sent_s, item.turn = worker, time.monotonic(), None
        if item.alone:
            item.turn = handle.take_turn.remote()
            item.call = handle.compress_alone.remote(item.stored, self._digest, item.turn)
        else:
            item.call = handle.compress.remote(item.stored, self._digest)
        call = item.call
        call.future().add_done_callback(lambda answer: self._events.put((item, call, answer)))

    def _settle_events(self) -> None:
        """Take what came, waiting a little when nothing did."""
        try:
            event = self._events.get(timeout=POLL_S)
            while True:
                if event is not None:
                    self._settle(*event)
                event = self._events.get_nowait()
        except queue.Empty:
            return

    def _settle(self, item: _InWork, call: Any, answer: Future[Any]) -> None:
        if item.result is not None:
            return
        error = answer.exception()
        if error is None:
            self._take_result(item, answer.result())
        elif call is item.call:  # else it was sent to another worker meanwhile
            self._take_error(item, original_error(error))

    def _take_result(self, item: _InWork, result: CompressedClip | FailedClip) -> None:
        """A clip that failed is tried once by another worker: it may be the worker that is sick."""
        others = [number for number in self._health.ready() if number != item.worker]
        if isinstance(result, FailedClip) and others and not item.failed:
            item.failed = True
            self._try_alone(item)
        else:
            item.result = result

    def _take_error(self, item: _InWork, error: BaseException) -> None:
        assert item.worker is not None
        if isinstance(error, (*DIED, ModelError, WorkerLost)):
            self._health.mark(item.worker, error)
        if isinstance(error, DIED):
            self._blame_death(item, error)
        elif isinstance(error, (ModelError, WorkerLost)):  # it was not touched
            item.worker = None
        elif item.alone:
            item.result = FailedClip.of(item.clip, f"{type(error).__name__}: {one_line(error)}")
        else:
            self._try_alone(item)

    def _blame_death(self, item: _InWork, error: BaseException) -> None:
        reason = one_line(error, 300)
        item.deaths += item.alone and _was_granted(item.turn)
        logger.warning("a compress worker died over %r: %s", item.clip, reason)
        if item.deaths >= LONE_TRIES:
            item.result = FailedClip.of(item.clip, f"every worker it was given to died: {reason}")
        else:
            self._try_alone(item)

    def _try_alone(self, item: _InWork) -> None:
        item.alone, item.avoid, item.worker = True, item.worker, None

    def _require_hope(self, patience: "_Patience") -> None:
        """Raise when no worker is ready and none will be."""
        if self._health.ready():
            patience.without_workers_s = None
            return
        states = {worker.state for worker in self._health.workers}
        if self._health.is_hopeless() and "foreign" in states:
            raise ModelChanged(
                f"the workers have another model than the stream was begun with: "
                f"{self._health.explain()}; put the old weights back, or ingest into a new stream"
            )
        waited_s = patience.wait_for_workers()
        if self._health.is_hopeless() or waited_s > self._settings.lost_timeout_s:
            raise WorkerLost(
                f"none of {len(self._pool.handles)} compress workers was ready for {waited_s:.0f} "
                f"s: {self._health.explain()}; what is committed is kept, start again"
            )


class _Patience:
    """How long a stream has waited: for clips in work after a stop, for any worker at all."""

    def __init__(self, settings: PoolSettings) -> None:
        self._grace_s = settings.stop_grace_s
        self._stopped_s: float | None = None
        self.without_workers_s: float | None = None

    def is_stopped(self, stop: StopSignal | None) -> bool:
        if self._stopped_s is None and stop is not None and stop.is_set():
            self._stopped_s = time.monotonic()
        return self._stopped_s is not None

    def is_over(self, *, idle: bool) -> bool:
        """After a stop: nothing is in work any more, or it does not come soon."""
        if self._stopped_s is None:
            return False
        return idle or time.monotonic() - self._stopped_s > self._grace_s

    def wait_for_workers(self) -> float:
        """Seconds since a worker was ready last."""
        if self.without_workers_s is None:
            self.without_workers_s = time.monotonic()
        return time.monotonic() - self.without_workers_s


def _was_granted(turn: Any) -> bool:
    """The clip had its worker to itself when that died."""
    done, _ = ray.wait([turn], timeout=0)
    if not done:
        return False
    try:
        ray.get(turn)
    except RayError:
        return False
    return True
