"""A language half as an actor: questions wait in turn, answers wait to be read.

A thread writes an answer, in the order they were asked; as many as are answered together. What is
written lies here until it is read, at most `max_new_tokens` pieces of each answer, so that no
reader holds up a thread. A reader that leaves, or has not read for `reader_timeout_s`, stops its
answer at the next token. Tokens are counted in a thread of their own: that never waits for an
answer.
"""

import asyncio
import gc
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import ray
import torch

from workers.answer import AnswerSettings
from workers.cluster.actors import load_again
from workers.compress.device import is_device_broken
from workers.errors import AnswererBusy, ModelChanged, WorkerLost
from workers.models import LanguageModel, ModelIdentity, ReadingStyle, VisualSegment
from workers.reading import placeholder

logger = logging.getLogger(__name__)

READ_S = 2.0
"""How long a reading waits for something new."""

MAX_OPEN = 32
"""Questions that are waiting, being answered or being read; each holds its tokens until then."""

FAREWELL_S = 0.5
"""Between the last answers of an actor whose device broke and its end."""

OpenLanguageModel = Callable[[AnswerSettings], LanguageModel]


@dataclass(frozen=True)
class AnswererFacts:
    """What a question needs to know of a language half beforehand."""

    identity: ModelIdentity
    reading: ReadingStyle
    context_length: int


@dataclass(frozen=True)
class Part:
    """What was written of an answer since it was read last."""

    state: Literal["waiting", "writing", "done"]
    pieces: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnswerPulse:
    """What an actor says of itself when it is asked."""

    waiting: int
    """Questions whose turn has not come."""
    writing: bool
    written: int
    """Pieces of text, of all answers since the process began."""


@dataclass(eq=False)
class _Question:
    """A question with its answer as far as it is written and not yet read."""

    text: str
    segments: Sequence[VisualSegment]
    max_new_tokens: int
    state: Literal["waiting", "writing", "done"] = "waiting"
    pieces: deque[str] = field(default_factory=deque)
    error: Exception | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    read_s: float = field(default_factory=time.monotonic)

    def end(self, error: Exception | None) -> None:
        self.state, self.error, self.segments = "done", error, ()
        self.changed.set()


class AnswerActor:
    """Holds one language half; an async actor, so that it answers while an answer is written."""

    def __init__(
        self,
        settings: AnswerSettings,
        open_model: OpenLanguageModel,
        *,
        reader_timeout_s: float,
    ) -> None:
        self._reader_timeout_s = reader_timeout_s
        self._questions: dict[str, _Question] = {}
        self._waiting: deque[_Question] = deque()
        self._watching: asyncio.Task[None] | None = None
        self._written = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._writers = ThreadPoolExecutor(settings.together, thread_name_prefix="answer")
        self._places = asyncio.Semaphore(settings.together)
        self._answers: set[asyncio.Task[None]] = set()
        self._counting = ThreadPoolExecutor(1, thread_name_prefix="count")

        def load() -> LanguageModel:
            if ray.get_runtime_context().was_current_actor_reconstructed:
                return load_again(lambda: _opened(settings, open_model), lambda problem: None)
            return _opened(settings, open_model)

        self._loading: Future[LanguageModel] = self._thread.submit(load)

    async def describe(self) -> AnswererFacts:
        """Wait for the model; the errors of loading it come out here, typed."""
        model = await self._loaded()
        return AnswererFacts(model.identity, model.reading, model.context_length)

    async def pulse(self) -> AnswerPulse:
        """Answer at once, whatever is at work."""
        writing = any(question.state == "writing" for question in self._questions.values())
        return AnswerPulse(len(self._waiting), writing, self._written)

    async def count_tokens(self, text: str, marks: list[tuple[str, int]], digest: str) -> int:
        """Length of a prompt whose segments have these marks and numbers of tokens."""
        model = await self._require(digest)
        segments = [placeholder(mark, num_tokens) for mark, num_tokens in marks]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._counting, model.count_tokens, text, segments)

    async def score(self, text: str, parts: list[list[VisualSegment]], digest: str) -> list[float]:
        """How much each part matters for a question, between two answers."""
        model = await self._require(digest)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, model.score_relevance, text, parts)

    async def ask(
        self,
        name: str,
        text: str,
        segments: Sequence[VisualSegment],
        max_new_tokens: int,
        digest: str,
    ) -> None:
        """Put a question in the queue, once however often it is asked under its name.

        Raises:
            AnswererBusy: too many questions are open.
            ModelChanged: another model is loaded.
        """
        await self._require(digest)
        if name in self._questions:
            return
        if len(self._questions) >= MAX_OPEN:
            raise AnswererBusy(f"{MAX_OPEN} questions are open; ask again when some are answered")
        question = _Question(text, segments, max_new_tokens)
        self._questions[name] = question
        self._waiting.append(question)
        task = asyncio.create_task(self._write_in_turn(question))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)
        self._watching = self._watching or asyncio.create_task(self._watch())

    async def read(self, name: str) -> Part:
        """What was written since the last reading, waiting a little when there is nothing.

        Raises:
            WorkerLost: there is no such question: its reader was gone for too long, or it was
                asked of a process that has died.
            ModelError: what stopped the answer, after all that was written before.
        """
        question = self._questions.get(name)
        if question is None:
            raise WorkerLost(
                f"the answer is gone: the worker was started anew, or the answer was not read for "
                f"{self._reader_timeout_s:.0f} s; ask again"
            )
        question.read_s = time.monotonic()
        if not question.pieces and question.state != "done":
            question.changed.clear()
            try:
                await asyncio.wait_for(question.changed.wait(), READ_S)
            except TimeoutError:
                return Part(question.state)
            finally:
                question.read_s = time.monotonic()
        pieces = tuple(question.pieces)
        question.pieces.clear()
        if not pieces and question.error is not None:
            raise question.error
        return Part("writing" if question.error else question.state, pieces)

    async def leave(self, name: str) -> None:
        """Stop and forget an answer that nobody reads any more."""
        question = self._questions.pop(name, None)
        if question is None:
            return
        question.stop.set()
        if question in self._waiting:
            self._waiting.remove(question)

    async def destroy(self) -> None:
        """Stop all answers and free device memory, which a killed process leaves to the driver."""
        for name in list(self._questions):
            await self.leave(name)
        if self._loading.done():
            self._loading = Future()
            await asyncio.get_running_loop().run_in_executor(self._thread, _free_device)

    async def _loaded(self) -> LanguageModel:
        return await asyncio.shield(asyncio.wrap_future(self._loading))

    async def _require(self, digest: str) -> LanguageModel:
        model = await self._loaded()
        if model.identity.digest() != digest:
            raise ModelChanged(
                f"the answer worker has loaded {model.identity.model_id} with identity "
                f"{model.identity.digest()}, expected {digest}: the weights behind the name have "
                "changed; put the old ones back, or open the model anew"
            )
        return model

    async def _write_in_turn(self, question: _Question) -> None:
        """Write an answer once there is a place for it; those that came before have it first."""
        loop = asyncio.get_running_loop()
        async with self._places:
            if question not in self._waiting:  # it was left
                return
            self._waiting.remove(question)
            question.state = "writing"
            model = await self._loaded()
            try:
                await loop.run_in_executor(self._writers, self._write, model, question, loop)
            except Exception as error:
                question.end(error)
                if is_device_broken(error.__cause__ or error):
                    self._end_broken(error, loop)
            else:
                question.end(None)

    def _write(
        self, model: LanguageModel, question: _Question, loop: asyncio.AbstractEventLoop
    ) -> None:
        pieces = model.stream_answer(
            question.text,
            question.segments,
            max_new_tokens=question.max_new_tokens,
            stop=question.stop,
        )
        for piece in pieces:
            self._written += 1
            question.pieces.append(piece)
            loop.call_soon_threadsafe(question.changed.set)

    def _end_broken(self, error: Exception, loop: asyncio.AbstractEventLoop) -> None:
        """A device that can compute no more needs a new process, which Ray starts."""
        logger.error("an answer worker ends itself, its device is broken: %s", error)
        loop.call_later(FAREWELL_S, os._exit, 1)

    async def _watch(self) -> None:
        """Give up the answers that nobody has read for too long."""
        try:
            while self._questions:
                await asyncio.sleep(min(1.0, self._reader_timeout_s / 4))
                now_s = time.monotonic()
                for name, question in list(self._questions.items()):
                    if now_s - question.read_s > self._reader_timeout_s:
                        logger.warning("an answer is given up: nobody reads it")
                        await self.leave(name)
        finally:
            self._watching = None


def _opened(settings: AnswerSettings, open_model: OpenLanguageModel) -> LanguageModel:
    model = open_model(settings)
    # A tokenizer settles its own options at its first use; after that two threads may share it.
    model.count_tokens("", [])
    return model


def _free_device() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
