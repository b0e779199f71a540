"""Which workers of a pool can take work now: one thread asks them all, whoever wants to know reads.

Every worker is asked for its pulse every two seconds. One that has died is asked until it is back;
one that does not answer counts as silent, long before the cluster has noticed that its machine is
gone. A pulse also tells the worker that the session lives, so that it is not ended as unused.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import ray
from ray.exceptions import ActorDiedError, RayError

from workers.cluster.actors import Pulse, original_error
from workers.cluster.pool import Pool
from workers.cluster.scaling import Demand
from workers.errors import ModelChanged, ModelError, one_line

logger = logging.getLogger(__name__)

PULSE_S = 2.0
"""Between two pulses of a worker."""

SILENT_S = 10.0
"""A worker that leaves a pulse unanswered for so long gets no work, and what it has is given to
another one. Above what a machine with too much to do takes to answer."""

ASK_AGAIN_S = 60.0
"""After which an answer is not hoped for any more."""

TICK_S = 0.5

State = Literal["unknown", "loading", "ready", "silent", "lost", "failed", "foreign", "gone"]
HOPELESS: tuple[State, ...] = ("failed", "foreign", "gone")
"""States that no waiting ends."""


@dataclass
class WorkerHealth:
    """What is known of one worker."""

    handle: Any
    state: State = "unknown"
    problem: str = ""
    waiting: int = 0
    """Clips of all sessions that it has, as it said last."""
    behind_s: float = 0.0
    """For so long some of them waited to be begun."""
    idle_since_s: float | None = None
    """Since when every pulse said that it has none."""
    asked_s: float | None = None
    heard_s: float = 0.0
    pulse: Any = None

    def is_idle_since(self, sent_s: float) -> float:
        """Seconds for which it has had nothing to do since `sent_s`; 0 when it has."""
        if self.idle_since_s is None:
            return 0.0
        return max(0.0, self.heard_s - max(self.idle_since_s, sent_s))


class PoolHealth:
    """Asks the workers of a pool how they are until it is closed."""

    def __init__(self, pool: Pool, tenant: str, *, tell: Callable[[], None]) -> None:
        """`tell` is called, from any thread, when the state of one changes."""
        self.workers = [
            WorkerHealth(handle, "ready" if number in pool.ready else "unknown")
            for number, handle in enumerate(pool.handles)
        ]
        self._pool = pool
        self._scaling = pool.maker.settings.scaling
        self._demand = Demand(self._scaling)
        self._growing: threading.Thread | None = None
        self._digest = pool.info.identity.digest()
        self._tenant = tenant
        self._tell = tell
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        self._thread.start()

    def ready(self) -> list[int]:
        """Numbers of the workers that can take work."""
        return [n for n, worker in enumerate(self.workers) if worker.state == "ready"]

    def is_hopeless(self) -> bool:
        """No worker will be ready again, however long one waits."""
        return all(worker.state in HOPELESS for worker in self.workers)

    def explain(self) -> str:
        """How the workers are, in one line."""
        return "; ".join(
            f"worker {n} is {worker.state}{': ' + worker.problem if worker.problem else ''}"
            for n, worker in enumerate(self.workers)
        )

    def mark(self, number: int, error: BaseException) -> None:
        """Take note of an error a call to a worker ended with."""
        self._note(self.workers[number], _state_after(error), one_line(error))

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()
        self._thread.join(2 * TICK_S)

    def _run(self) -> None:
        while True:
            for worker in self.workers:
                if worker.state != "gone":
                    self._attend(worker, time.monotonic())
            if not self._scaling.is_fixed:
                self._follow_demand(time.monotonic())
            if self._closed.wait(TICK_S):
                return

    def _follow_demand(self, now_s: float) -> None:
        """Have one worker more where all that there are have been behind for long.

        All sessions see the same, and ask for the same one, by its name. It ends by itself; one
        that found no place until nobody was behind any more is taken back.
        """
        if self._growing is not None and self._growing.is_alive():
            return
        there = [worker for worker in self.workers if worker.state != "gone"]
        starting = [worker for worker in there if worker.state in ("unknown", "loading")]
        behind_s = [worker.behind_s for worker in there if worker.state == "ready"]
        waited_s = min(behind_s) if behind_s and all(behind_s) else None
        if starting and waited_s is not None:
            return  # one at a time
        needed = len(there) - len(starting)
        todo = self._demand.decide(now_s, there=len(there), needed=needed, waited_s=waited_s)
        if todo > 0:
            # In a thread of its own: while Ray's head is away it does not come back.
            self._growing = threading.Thread(target=self._grow, name="grow", daemon=True)
            self._growing.start()
        elif todo < 0 and starting[-1].state == "unknown":
            ray.kill(starting[-1].handle)

    def _grow(self) -> None:
        states = [worker.state for worker in self.workers]
        number = states.index("gone") if "gone" in states else len(states)
        try:
            handle, created = self._pool.maker.find_or_create(number)
        except (RayError, ValueError) as error:
            logger.warning("another compress worker could not be asked for: %s", one_line(error))
            return
        if created:
            logger.info("clips wait: compress worker %d is asked for", number)
        if number == len(states):
            self._pool.handles.append(handle)
            self.workers.append(WorkerHealth(handle))
        else:
            self._pool.handles[number] = handle
            self.workers[number] = WorkerHealth(handle)

    def _attend(self, worker: WorkerHealth, now_s: float) -> None:
        if worker.asked_s is not None and now_s - worker.asked_s < ASK_AGAIN_S:
            if worker.state == "ready" and now_s - worker.asked_s > SILENT_S:
                self._note(worker, "silent", f"no answer in {SILENT_S:.0f} s")
            return
        pause_s = PULSE_S if worker.state == "ready" else TICK_S
        if now_s - worker.heard_s >= pause_s:
            worker.asked_s = now_s
            try:
                worker.pulse = worker.handle.pulse.remote(self._tenant)
            except Exception as error:  # of a cluster that is left: Ray has no type for it
                worker.asked_s, worker.heard_s = None, now_s
                self._note(worker, "lost", one_line(error))
                return
            worker.pulse.future().add_done_callback(partial(self._hear, worker, now_s))

    def _hear(self, worker: WorkerHealth, asked_s: float, answer: Future[Pulse]) -> None:
        if worker.asked_s != asked_s:
            return  # of a call that was given up
        worker.asked_s, worker.heard_s = None, time.monotonic()
        error = answer.exception()
        if error is not None:
            self._note(worker, _state_after(error), one_line(original_error(error)))
            return
        pulse = answer.result()
        worker.waiting, worker.behind_s = pulse.waiting, pulse.behind_s
        if pulse.waiting:
            worker.idle_since_s = None
        elif worker.idle_since_s is None:
            worker.idle_since_s = worker.heard_s
        if pulse.state == "ready" and pulse.digest != self._digest:
            self._note(worker, "foreign", f"its model is {pulse.digest}, not {self._digest}")
        else:
            self._note(worker, pulse.state, pulse.problem)

    def _note(self, worker: WorkerHealth, state: State, problem: str) -> None:
        changed, worker.state, worker.problem = worker.state != state, state, problem
        if changed:
            if state not in ("ready", "loading"):
                logger.warning("a compress worker is %s: %s", state, problem)
            self._tell()


def _state_after(error: BaseException) -> State:
    if isinstance(error, ActorDiedError):
        return "gone"
    if isinstance(error, ModelError):
        return "foreign" if isinstance(error, ModelChanged) else "failed"
    return "lost"
