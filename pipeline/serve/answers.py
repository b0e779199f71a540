"""The queue in front of the language half: questions wait in turn, answers wait to be read.

A thread for each question that may be answered at one time; several share a model. What it writes
lies here until it is read, bounded by the answer's own length, so that no reader holds up a thread;
a reader that leaves stops its answer at the next token. Knows of no HTTP.
"""

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Literal

from pipeline.ask.answer import Answer, Piece
from pipeline.ask.model import Answerers, open_answer_pool
from pipeline.ask.search import SearchResult
from pipeline.serve.errors import busy_error
from pipeline.serve.leaving import WhileWanted
from pipeline.settings import Settings
from workers.seams import Answerer

logger = logging.getLogger(__name__)

JOIN_S = 2.0
"""For a thread to leave the model once its answer is stopped."""

Part = Piece | Answer | SearchResult
Work = Callable[[Answerer], Generator[Part]]
"""What is done with a model in its turn; closing it stops it at the next token."""
Tell = Callable[[Part | Exception | None], None]
"""Takes what is written, as it comes; an error or None is the last."""


@dataclass(frozen=True, eq=False)
class _Job:
    work: Work
    tell: Tell
    left: threading.Event


@dataclass(eq=False)
class Writing:
    """An answer that is being written, for one reader in an event loop."""

    loop: asyncio.AbstractEventLoop
    left: threading.Event = field(default_factory=threading.Event)
    _parts: deque[Part | Exception | None] = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, part: Part | Exception | None) -> None:
        """From any thread."""
        self._parts.append(part)
        with suppress(RuntimeError):  # the loop has ended, and its readers with it
            self.loop.call_soon_threadsafe(self._changed.set)

    async def read(self) -> AsyncGenerator[Part]:
        """What is written, to its end; leaving it stops the answer."""
        try:
            while True:
                while not self._parts:
                    self._changed.clear()
                    await self._changed.wait()
                part = self._parts.popleft()
                if part is None:
                    return
                if isinstance(part, Exception):
                    raise part
                yield part
        finally:
            self.left.set()


class AnswerQueue:
    """Answers questions in the order they came; `waiting` of them at most wait."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        serve = settings.serve
        at_work = serve.most_answers * serve.together
        self._most = at_work + serve.waiting
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._open: set[_Job] = set()
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._holding = ExitStack()
        self._answerers: Answerers | None = None
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"answers-{n}", daemon=True)
            for n in range(at_work)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def num_open(self) -> int:
        """Questions that wait or are being answered."""
        return len(self._open)

    @property
    def state(self) -> Literal["ok", "loading", "asleep"]:
        """`asleep`: no worker is there, and the next question starts one."""
        found = self._answerers
        if found is None or not found.num_ready:
            is_asleep = found is not None and not found.num_starting
            return "asleep" if is_asleep else "loading"
        return "ok"

    @property
    def is_waking(self) -> bool:
        """Whether a question waits for a worker's model because there need not be any worker."""
        return self._settings.serve.answers == 0 and self.state != "ok"

    def answerers(self) -> Answerers:
        """The language halves, loaded when first asked for.

        Raises:
            ModelError, WorkerLost, ClusterUnreachable: it cannot be had.
        """
        with self._opening:
            if self._answerers is None:
                pool = open_answer_pool(self._settings, self._settings.serve.answer_scaling())
                self._answerers = self._holding.enter_context(pool)
            return self._answerers

    def submit(self, work: Work, tell: Tell, left: threading.Event) -> None:
        """Answer a question in its turn; `left` gives it up.

        Raises:
            TooManyRequests: too many wait already.
        """
        job = _Job(work, tell, left)
        with self._lock:
            if self._is_closed:
                raise busy_error("the service is ending")
            if len(self._open) >= self._most:
                raise busy_error(f"{len(self._open)} questions are open, at most {self._most}")
            self._open.add(job)
        self._jobs.put(job)

    def ask(self, work: Work) -> Writing:
        """The same for a reader in the running event loop."""
        writing = Writing(asyncio.get_running_loop())
        self.submit(work, writing.tell, writing.left)
        return writing

    def close(self) -> None:
        """Stop all answers and let the model go."""
        with self._lock:
            self._is_closed = True
            for job in self._open:
                job.left.set()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(JOIN_S)
        self._holding.close()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            last: Exception | None = None
            try:
                if not job.left.is_set():
                    with self.answerers().use() as model:
                        self._write(job, model)
            except Exception as error:
                last = error
            finally:
                with self._lock:
                    self._open.discard(job)
            job.tell(last)

    def _write(self, job: _Job, model: Answerer) -> None:
        parts = job.work(WhileWanted(model, job.left))
        try:
            for part in parts:
                job.tell(part)
                if job.left.is_set():
                    return
        finally:
            parts.close()  # stops the generation at its next token
