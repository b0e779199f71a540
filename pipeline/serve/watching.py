"""Standing questions, asked of every new clip: a thread beside the answers.

What a stream's watches have asked about is in the store, so that whoever goes on after a kill goes
on from there; two services that follow the same stream find each event once. Questions wait in the
queue of all others and are put again where it is full. Knows of no HTTP.
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from pipeline.ask.answer import Answer
from pipeline.ask.run import answer_prepared
from pipeline.ask.turns import Turns, take
from pipeline.serve.answers import AnswerQueue, Part
from pipeline.serve.asking import Asked, Window, prepare_asked
from pipeline.serve.errors import busy_error
from pipeline.serve.keys import LOCAL
from pipeline.settings import Settings
from pipeline.store import ClipStore
from pipeline.values.errors import NoFootage, kind_of
from pipeline.values.types import ClipSpan
from pipeline.values.watch import Event, Watch, WatchState, follow

logger = logging.getLogger(__name__)

LOOK_S = 0.5
"""Between two looks for new clips."""
ANSWER_S = 600.0
MAX_TOKENS = 16
"""Of an answer: it is looked through for one word."""


@dataclass(frozen=True)
class Evaluator:
    """Answers one watch's question about one clip's window."""

    settings: Settings
    store: ClipStore
    answers: AnswerQueue
    turns: Turns | None = None

    def answer(self, watch: Watch, span: ClipSpan) -> str:
        """The answer's text; empty where the window was removed meanwhile.

        Raises:
            TooManyRequests: too many questions wait, or this one waited too long.
        """
        start_s, end_s = watch.window_of(span)
        window = Window(watch.stream_id, start_s, end_s)
        asked = Asked(watch.question, [window], {"max_new_tokens": MAX_TOKENS})
        try:
            look_up = partial(prepare_asked, self.store, self.settings, LOCAL, asked)
            prepared, _ = take(self.turns, look_up)
        except NoFootage:
            return ""
        told: queue.SimpleQueue[Part | Exception | None] = queue.SimpleQueue()
        left = threading.Event()
        work = partial(answer_prepared, self.store, prepared=prepared, turns=self.turns)
        self.answers.submit(work, told.put, left)
        try:
            while not isinstance(part := told.get(timeout=ANSWER_S), Answer):
                if part is None:
                    raise busy_error("the service is ending")
                if isinstance(part, NoFootage):
                    return ""
                if isinstance(part, Exception):
                    raise part
            return part.text
        except queue.Empty:
            raise busy_error(f"no answer within {ANSWER_S:.0f} s") from None
        finally:
            left.set()

    def replay(
        self, watch: Watch, start_s: float | None = None, end_s: float | None = None
    ) -> Iterator[Event]:
        """The events that a watch would have made over a past range; stores nothing."""
        state = WatchState()
        for span in self.store.list_spans(watch.stream_id, start_s, end_s):
            state, event = follow(watch, state, span, self.answer(watch, span))
            if event is not None:
                yield event


class Watcher:
    """Follows all streams that have watches, until it is closed."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator, self._store = evaluator, evaluator.store
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watches", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what was asked and not yet recorded is asked again by the next one."""
        self._ending.set()
        self._thread.join(LOOK_S * 4)

    def _run(self) -> None:
        while not self._ending.wait(LOOK_S):
            try:
                for stream_id in self._store.list_streams():
                    with _apart(f"the watches of {stream_id}"):
                        for watch, state in self._store.list_watches(stream_id):
                            with _apart(f"watch {watch.watch_id} of {stream_id}"):
                                self._follow(watch, state)
            except Exception as error:
                _tell("all watches", error)

    def _follow(self, watch: Watch, state: WatchState) -> None:
        """Ask about every clip behind what is known; each is recorded before the next."""
        for span in self._store.list_spans(watch.stream_id, state.end_s - 1.0):
            if self._ending.is_set():
                return
            if (span.epoch, span.index) <= (state.epoch, state.index):
                continue
            after, event = follow(watch, state, span, self._evaluator.answer(watch, span))
            recorded = self._record(watch, state, after, event)
            if recorded is None:
                return
            state = recorded

    def _record(
        self, watch: Watch, state: WatchState, after: WatchState, event: Event | None
    ) -> WatchState | None:
        """What is known now; None where somebody else has asked, or the watch went."""
        while not self._store.advance_watch(watch, state, after, event):
            known = dict(self._store.list_watches(watch.stream_id)).get(watch)
            if known is None or known == state or replace(known, told=state.told) != state:
                return None
            state, after = known, replace(after, told=known.told)  # an event was told meanwhile
        return after


@contextmanager
def _apart(what: str) -> Iterator[None]:
    """What cannot be asked of one stream, or by one watch, holds up no other."""
    try:
        yield
    except Exception as error:
        if kind_of(error) in ("busy", "unavailable"):  # so it is for all of them
            raise
        _tell(what, error)


def _tell(what: str, error: Exception) -> None:
    """That it is asked again at the next look."""
    kind = kind_of(error)
    level = logging.INFO if kind == "busy" else logging.WARNING
    logger.log(level, "%s: not asked: %s", what, error, exc_info=kind == "internal")


def begin_watch(store: ClipStore, watch: Watch) -> None:
    """Have it asked of what is new, behind all that is stored, and tell what is found from now on.

    Raises:
        UnknownStream, Conflict: no such stream, or there is one of that id.
    """
    state = WatchState()
    if (position := store.get_position(watch.stream_id)) is not None:
        state = WatchState(position.epoch, position.index, position.end_s)
    while found := store.list_events(watch.stream_id, after=state.told or None, limit=1000):
        state = replace(state, told=found[-1][0])
    store.put_watch(watch, state)


def newest_events(store: ClipStore, stream_id: str, most: int) -> list[Event]:
    """What was found last, in order."""
    newest: deque[Event] = deque(maxlen=most)
    mark = None
    while found := store.list_events(stream_id, after=mark, limit=1000):
        mark = found[-1][0]
        newest.extend(event for _, event in found)
    return list(newest)
