"""Answer workers, as many as there are questions for: from none, if so set, to a bound.

A question takes a place on the worker that has most of them free. Where all are taken it waits, and
once it has waited for a while another worker is asked for, which loads meanwhile. Where there is no
worker the question that comes starts one, and waits for its model.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from workers.cluster.scaling import Demand, Scaling
from workers.errors import WorkerLost, one_line
from workers.seams import Answerer

logger = logging.getLogger(__name__)

TICK_S = 0.25
"""How often it is looked whether there are too many, or too few."""
AGAIN_S = 30.0
"""Before another worker is asked for after one that could not be had, where others answer."""


@runtime_checkable
class AnswerWorker(Answerer, Protocol):
    """An `Answerer` that can be ended."""

    def close(self) -> None:
        """End it, and what it writes."""
        ...


@dataclass(eq=False)
class _Place:
    """A worker, or one that starts."""

    model: AnswerWorker | None = None
    used: int = 0
    """Questions that it answers now."""
    leaves: bool = False


class AnswerPool:
    """Gives questions places on workers, and has as many workers as that takes."""

    def __init__(
        self, open_worker: Callable[[], AnswerWorker], scaling: Scaling, *, together: int
    ) -> None:
        """`open_worker` returns once its model is loaded; each answers `together` questions."""
        self._open_worker, self._scaling, self._together = open_worker, scaling, together
        self._changed = threading.Condition()
        self._places: list[_Place] = []
        self._waiting: list[float] = []
        self._demand = Demand(scaling)
        self._error: Exception | None = None
        self._again_s = 0.0
        self._is_closed = False
        threading.Thread(target=self._follow, name="answer-pool", daemon=True).start()

    @property
    def num_ready(self) -> int:
        """Workers that have their model."""
        return sum(place.model is not None for place in list(self._places))

    @property
    def num_starting(self) -> int:
        """Workers that have none yet, or no place in the cluster."""
        return sum(place.model is None for place in list(self._places))

    def wait_ready(self) -> None:
        """Wait for the first worker, where there is to be one without a question.

        Raises:
            ModelError, WorkerLost: it cannot be had.
        """
        if self._scaling.least:
            with self.use():
                pass

    @contextmanager
    def use(self) -> Iterator[Answerer]:
        """A place on a worker, waited for.

        Raises:
            ModelError, WorkerLost: there is none, and none can be had.
        """
        place, model = self._take()
        try:
            yield model
        finally:
            with self._changed:
                place.used -= 1
                self._changed.notify_all()

    @contextmanager
    def peek(self) -> Iterator[Answerer]:
        """Any worker, for what needs no turn; one is started where there is none."""
        with self._changed:
            models = [place.model for place in self._places if place.model is not None]
        if models:
            yield models[0]
            return
        with self.use() as model:
            yield model

    def close(self) -> None:
        """End all workers; questions that wait are told so."""
        with self._changed:
            self._is_closed = True
            models = [place.model for place in self._places if place.model is not None]
            self._places.clear()
            self._changed.notify_all()
        for model in models:
            model.close()

    def _take(self) -> tuple[_Place, AnswerWorker]:
        since_s = time.monotonic()
        with self._changed:
            self._waiting.append(since_s)
            try:
                while True:
                    if self._is_closed:
                        raise WorkerLost("the answer workers are ended; ask again")
                    for place in sorted(self._places, key=lambda one: one.used):
                        is_free = place.used < self._together and not place.leaves
                        if place.model is not None and is_free:
                            place.used += 1
                            return place, place.model
                    if not self._places and self._error is not None:
                        raise self._error
                    self._decide()
                    self._changed.wait(TICK_S)
            finally:
                self._waiting.remove(since_s)
                if not self._waiting:
                    self._error = None  # the next question tries again

    def _follow(self) -> None:
        while not self._is_closed:
            with self._changed:
                if not self._is_closed:
                    self._decide()
                self._changed.wait(TICK_S)

    def _decide(self) -> None:
        """Start one, or let one go; called under the lock."""
        now_s = time.monotonic()
        self._end_leaving()
        staying = [place for place in self._places if not place.leaves]
        if self._error is not None or any(place.model is None for place in staying):
            return  # who waits is told first; and one at a time
        waited_s = now_s - min(self._waiting) if self._waiting else None
        needed = math.ceil(sum(place.used for place in staying) / self._together)
        todo = self._demand.decide(now_s, there=len(staying), needed=needed, waited_s=waited_s)
        is_asked_in_vain = waited_s is not None and not staying
        if todo > 0 and (is_asked_in_vain or now_s >= self._again_s):
            self._start()
        elif todo < 0:
            min(staying, key=lambda place: place.used).leaves = True

    def _end_leaving(self) -> None:
        for place in [one for one in self._places if one.leaves and not one.used]:
            self._places.remove(place)
            logger.info("an answer worker goes for want of questions")
            if place.model is not None:
                threading.Thread(target=place.model.close, name="answer-end", daemon=True).start()

    def _start(self) -> None:
        place = _Place()
        self._places.append(place)
        logger.info("answer worker %d is started", len(self._places))
        threading.Thread(target=self._open, args=(place,), name="answer-start", daemon=True).start()

    def _open(self, place: _Place) -> None:
        try:
            model = self._open_worker()
        except Exception as error:
            with self._changed:
                if place in self._places:
                    self._places.remove(place)
                self._again_s = time.monotonic() + AGAIN_S
                self._error = error if self._waiting and not self._places else None
                self._changed.notify_all()
            logger.warning("an answer worker could not be had: %s", one_line(error))
            return
        with self._changed:
            place.model = model
            is_late = self._is_closed
            self._changed.notify_all()
        if is_late:
            model.close()
