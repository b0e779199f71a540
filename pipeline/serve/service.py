"""What the routes stand on: store, keys, answers and sessions, opened once. Knows of no HTTP."""

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.ask.answer import Answer, Piece
from pipeline.ask.run import Prepared, answer_prepared
from pipeline.ask.search import SearchResult, search_prepared
from pipeline.ask.turns import Turns
from pipeline.ask.windows import Windows
from pipeline.serve.answers import AnswerQueue, Part, Work
from pipeline.serve.asking import Asked, prepare_asked
from pipeline.serve.evidence import Written, evidence_of
from pipeline.serve.keys import LOCAL, Key, KeyBook
from pipeline.serve.metrics import ServiceMetrics
from pipeline.serve.sessions import Sessions
from pipeline.serve.watching import Evaluator, Watcher
from pipeline.serve.webhooks import Webhooks
from pipeline.settings import Settings
from pipeline.store import ClipStore, open_store
from pipeline.values.errors import AnswerStopped, InvalidSettings, NotAllowed
from workers.seams import Answerer
from workers.tracing.open import open_tracer
from workers.tracing.spans import Tracer


class Service:
    """All of it; `close` ends what was begun."""

    def __init__(self, settings: Settings) -> None:
        """Open the store; the model is loaded by `load`, or with the first question.

        Raises:
            InvalidSettings: it is to be reached from elsewhere, and there are no keys.
            StoreError: the store cannot be opened.
        """
        self.settings = settings
        self.keys = KeyBook(settings.serve.keys_file)
        if not settings.serve.is_local and not self.keys.list_keys():
            raise InvalidSettings(
                f"serve.host {settings.serve.host} is reached from other machines and there are no "
                "keys; make one: `aot keys add`, or listen at 127.0.0.1"
            )
        self.store = open_store(settings.store_config())
        self.tracer: Tracer = open_tracer(settings.trace_settings())
        self.answers = AnswerQueue(settings)
        self.turns = Turns(settings.serve.retrievals)
        self.windows = Windows(settings.serve.kept_windows)
        self.metrics = ServiceMetrics()
        self.metrics.open_questions.set_function(lambda: self.answers.num_open)
        self.metrics.windows_found.set_function(lambda: self.windows.hits)
        self.evaluator = Evaluator(settings, self.store, self.answers, self.turns)
        self.sessions = Sessions(settings)
        self._watcher: Watcher | None = None
        self._webhooks: Webhooks | None = None
        self.ending = threading.Event()
        self.load_error: Exception | None = None

    @property
    def is_open(self) -> bool:
        """Whether callers of this machine need no key, as there is none."""
        return self.settings.serve.is_local and not self.keys.list_keys()

    def find_caller(self, given: str | None) -> Key:
        """Who asks.

        Raises:
            NotAllowed: a key is needed, and this is none.
        """
        if self.is_open:
            return LOCAL
        key = None if given is None else self.keys.find(given)
        if key is None:
            raise NotAllowed("no valid key")
        return key

    @property
    def model_name(self) -> str:
        """What answers, as it is called outside: no path of this machine."""
        model = self.settings.model.id
        return Path(model).name if os.path.isdir(model) else model

    def load(self) -> None:
        """Load the language half before the first question, in a thread of its own."""

        def load() -> None:
            try:
                self.answers.answerers()
                self.load_error = None
                _set_apart_what_is_loaded()
            except Exception as error:
                self.load_error = error

        threading.Thread(target=load, name="load", daemon=True).start()

    def watch(self) -> None:
        """Follow the streams that have standing questions, and tell what they find."""
        self._watcher = Watcher(self.evaluator)
        self._webhooks = Webhooks(self.settings, self.store)

    async def stream(
        self, caller: Key, asked: Asked, gone: asyncio.Future[Any] | None = None
    ) -> AsyncGenerator[Piece | Answer]:
        """An answer as it is written, and last the `Answer`; leaving it stops it.

        Raises:
            AnswerStopped: `gone` was done before it, or the service is ending.
        """
        prepared = await self._prepare(caller, asked)
        work = partial(self._answer, prepared=prepared, put_s=time.perf_counter())
        async with aclosing(self._read(work, gone)) as parts:
            async for part in parts:
                assert not isinstance(part, SearchResult)
                if isinstance(part, Answer):
                    self.metrics.count(part)
                yield part
                if isinstance(part, Answer):
                    return

    async def answer(
        self, caller: Key, asked: Asked, gone: asyncio.Future[Any] | None = None
    ) -> Written:
        """The whole answer with what it rests on."""
        async with aclosing(self.stream(caller, asked, gone)) as parts:
            async for part in parts:
                if isinstance(part, Answer):
                    return await self.weigh(part)
        raise AssertionError("an answer ends in itself or in an error")

    async def search(
        self, caller: Key, asked: Asked, most: int, gone: asyncio.Future[Any] | None = None
    ) -> SearchResult:
        """The clips that matter most for a question, in its turn among all others.

        Raises:
            AnswerStopped: `gone` was done before it, or the service is ending.
        """
        prepared = await self._prepare(caller, asked)
        work = partial(_search, self.store, prepared=prepared, most=most)
        async with aclosing(self._read(work, gone)) as parts:
            async for part in parts:
                if isinstance(part, SearchResult):
                    return part
        raise AssertionError("a search ends in its result or in an error")

    async def _prepare(self, caller: Key, asked: Asked) -> Prepared:
        look_up = partial(prepare_asked, self.store, self.settings, caller, asked)
        prepared, waited_s = await self.turns.take_async(look_up)
        return replace(prepared, wait_s=waited_s)

    def _answer(
        self, model: Answerer, prepared: Prepared, put_s: float
    ) -> Generator[Piece | Answer]:
        """In its turn: what was waited for it is told."""
        waited_s = prepared.wait_s + time.perf_counter() - put_s
        in_turn = replace(prepared, wait_s=waited_s)
        return answer_prepared(
            self.store,
            model,
            in_turn,
            tracer=self.tracer,
            turns=self.turns,
            windows=self.windows,
        )

    async def _read(self, work: Work, gone: asyncio.Future[Any] | None) -> AsyncGenerator[Part]:
        """What a model writes in a question's turn; that it was stopped is an error."""
        writing = self.answers.ask(work)
        if gone is not None:
            gone.add_done_callback(lambda _: writing.left.set())
        async with aclosing(writing.read()) as parts:
            async for part in parts:
                yield part
        raise AnswerStopped("nobody is there to read it")

    async def weigh(self, answer: Answer) -> Written:
        """An answer with its evidence and its cost."""
        tokens = await asyncio.to_thread(self.count_tokens, answer.text)
        return Written(answer, evidence_of(answer, tokens))

    def count_tokens(self, text: str) -> int:
        """Tokens of an answer."""
        if not text:
            return 0
        with self.answers.answerers().peek() as model:
            return model.count_tokens(text, []) - model.count_tokens("", [])

    def close(self) -> None:
        """Stop answers and sessions, and let the store go."""
        self.ending.set()
        self.sessions.close()
        if self._watcher is not None:
            self._watcher.close()
        if self._webhooks is not None:
            self._webhooks.close()
        self.answers.close()
        self.turns.close()
        self.store.close()
        self.tracer.close()


def _set_apart_what_is_loaded() -> None:
    """Libraries and a model are half a million objects that stay: looking through them for what may
    go held up every question for some 0.3 s, whenever a long list of rows made it time to."""
    gc.collect()
    gc.freeze()


def _search(
    store: ClipStore, model: Answerer, prepared: Prepared, most: int
) -> Generator[SearchResult]:
    yield search_prepared(store, model, prepared, most)
