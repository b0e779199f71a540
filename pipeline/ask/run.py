"""Path 2: from a question to an answer, out of the stored tokens alone.

Index, budget, values, prompt, text: nothing is decoded, no video is needed. `prepare` reads the
index and refuses what cannot be answered; `answer_prepared` needs the model and yields the text as
it is written, then the whole `Answer`. `ask` and `ask_stream` do both.
"""

import logging
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pipeline.ask.answer import Answer, Piece, Timings
from pipeline.ask.describing import cite, describe_reading, share_of
from pipeline.ask.fitting import Fitted, ReadClip, load_clips, plan_reading
from pipeline.ask.prompt import Reading, reading_style
from pipeline.ask.question import Question, StreamPart, look_up, resolve_range
from pipeline.ask.turns import Turns, take
from pipeline.ask.windows import Windows
from pipeline.store import ClipStore
from pipeline.values.errors import FingerprintMismatch, NoFootage
from pipeline.values.types import StreamInfo
from workers.models import ModelIdentity
from workers.seams import Answerer
from workers.tracing.spans import NO_TRACER, Span, Tracer

__all__ = [
    "Answer",
    "Piece",
    "Prepared",
    "Question",
    "answer_prepared",
    "ask",
    "ask_stream",
    "prepare",
    "reading_style",
    "require_model",
    "resolve_range",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A question that can be answered, with what the index says of it."""

    question: Question
    parts: tuple[StreamPart, ...]
    index_s: float
    """Wall seconds that the index took."""
    wait_s: float = 0.0
    """And those that the question waited for its turns."""


def prepare(store: ClipStore, question: Question) -> Prepared:
    """Look up what is asked; reads the index alone.

    Raises:
        UnknownStream, NoFootage, InvalidQuery: what is wrong with the question.
        StoreError: what failed.
    """
    started_s = time.perf_counter()
    parts = tuple(look_up(store, question))
    return Prepared(question, parts, time.perf_counter() - started_s)


def ask(store: ClipStore, model: Answerer, question: Question) -> Answer:
    """The whole answer at once; see `ask_stream`."""
    *_, answer = ask_stream(store, model, question)
    assert isinstance(answer, Answer)
    return answer


def ask_stream(store: ClipStore, model: Answerer, question: Question) -> Iterator[Piece | Answer]:
    """Yield the answer's text in pieces, then the `Answer`.

    Raises:
        UnknownStream, NoFootage, InvalidQuery, QueryTooLarge: what is wrong with the question.
        FingerprintMismatch: a stream's tokens are of another model.
        StoreError, ModelError: what failed.
    """
    yield from answer_prepared(store, model, prepare(store, question))


def answer_prepared(
    store: ClipStore,
    model: Answerer,
    prepared: Prepared,
    *,
    tracer: Tracer = NO_TRACER,
    turns: Turns | None = None,
    windows: Windows | None = None,
) -> Generator[Piece | Answer]:
    """The same for a question that was looked up before the model was loaded; clips are read in
    their turn where there are `turns`, and what was merged is kept where there are `windows`.

    Raises:
        TooManyRequests: its turn did not come in time.
    """
    streams = ",".join(part.stream_id for part in prepared.parts)
    ago_s = prepared.index_s + prepared.wait_s
    with tracer.span("question", ago_s=ago_s, streams=streams) as whole:
        yield from _answer_traced(store, model, prepared, whole, turns, windows)


def _answer_traced(
    store: ClipStore,
    model: Answerer,
    prepared: Prepared,
    whole: Span,
    turns: Turns | None,
    windows: Windows | None,
) -> Generator[Piece | Answer]:
    started_s = time.perf_counter() - prepared.index_s - prepared.wait_s
    question = prepared.question
    for part in prepared.parts:
        require_model(part.info, model)
    if model.reading.needs_records:
        prepared = _without_open(prepared)
    reading = Reading(question, tuple(part for part in prepared.parts if part.to_read), model)
    retrieve = partial(_retrieve, store, reading, windows, prepared.index_s, whole)
    (fitted, index_s, load_s), waited_s = take(turns, retrieve)
    segments = fitted.segments
    wait_s = prepared.wait_s + waited_s
    whole.tell(waited_s=wait_s)
    texts, first_token_s = [], None
    with whole.part("answer") as answering:
        for text in model.stream_answer(
            question.text, segments, max_new_tokens=question.max_new_tokens
        ):
            if first_token_s is None:
                first_token_s = time.perf_counter() - started_s
                answering.tell(first_token_s=first_token_s)
            texts.append(text)
            yield Piece(text)
    total_s = time.perf_counter() - started_s
    read, chosen = len(fitted.read), len(fitted.chosen)
    logger.info("answered from %d of %d clips in %.2f s", read, chosen, total_s)
    yield _answer(
        prepared,
        fitted.read,
        text="".join(texts).strip(),
        partial=read < chosen,
        removed=_count_removed(store, fitted),
        bytes_read=fitted.bytes_read,
        visual_tokens=sum(len(segment.tokens) for segment in segments),
        prompt_tokens=model.count_tokens(question.text, segments),
        timings=Timings(index_s, load_s, first_token_s or total_s, total_s, wait_s),
    )


def _retrieve(
    store: ClipStore, reading: Reading, windows: Windows | None, looked_up_s: float, whole: Span
) -> tuple[Fitted, float, float]:
    """What is read, and the seconds that the index and the values took."""
    began_s = time.perf_counter()
    with whole.part("index", ago_s=looked_up_s):
        plan = plan_reading(reading)
    planned_s = time.perf_counter()
    with whole.part("load") as loading:
        fitted = load_clips(store, reading, plan, windows)
        _require_something(store, fitted)
        loading.tell(clips=len(fitted.read), chosen=len(fitted.chosen))
    return fitted, looked_up_s + planned_s - began_s, time.perf_counter() - planned_s


def _without_open(prepared: Prepared) -> Prepared:
    """The same of what is stored for good.

    Raises:
        NoFootage: that is nothing.
    """
    parts = tuple(part.without_open() for part in prepared.parts)
    if not any(part.to_read for part in parts):
        raise NoFootage(
            "the range has an open clip alone, and the model reads clips by their names in the "
            "store; ask again when it has closed"
        )
    return replace(prepared, parts=parts)


def require_model(info: StreamInfo, model: Answerer) -> None:
    """Raise `FingerprintMismatch` when the stream's tokens were not made by this model."""
    if not info.fingerprint:  # it was refused before a model was asked for, and has no tokens
        return
    made_by = _identity_of(info)
    if not model.identity.same_model(made_by):
        raise FingerprintMismatch(
            f"{info.stream_id} holds tokens of {info.model_id} ({made_by.weights}), got model "
            f"{model.identity.model_id} ({model.identity.weights}); ask with the model of the "
            "stream"
        )


def _identity_of(info: StreamInfo) -> ModelIdentity:
    """The model whose tokens a stream holds, as the store knows it."""
    loaded = None if info.made_with is None else info.made_with.loaded
    names = ("revision", "model_type", "weights", "processor", "dtype")
    if loaded is not None:
        return ModelIdentity(info.model_id, **{name: getattr(loaded, name) for name in names})
    # A stream of an earlier release has them among the settings, for people to read, alone.
    return ModelIdentity(info.model_id, **{name: str(info.settings.get(name)) for name in names})


def _require_something(store: ClipStore, fitted: Fitted) -> None:
    """Raise `NoFootage` when none of the clips that were to be read is there."""
    chosen = fitted.chosen
    if fitted.read:
        return
    if _count_removed(store, fitted) == len(chosen):
        raise NoFootage(
            f"all {len(chosen)} clips of the range were removed while they were read; ask again "
            "for what is left"
        )
    raise NoFootage(
        f"none of {len(chosen)} clips in the range can be read; run "
        f"`aot clips verify {chosen[0].stream_id}`"
    )


def _count_removed(store: ClipStore, fitted: Fitted) -> int:
    """Clips that are not read since the index has them no more."""
    if len(fitted.read) == len(fitted.chosen):
        return 0
    read = {clip.span for clip in fitted.read}
    unread = (span for span in fitted.chosen if span not in read and not span.is_open)
    return len(store.list_removed(set(unread)))


def _answer(
    prepared: Prepared,
    read: Sequence[ReadClip],
    *,
    text: str,
    partial: bool,
    removed: int,
    bytes_read: int,
    visual_tokens: int,
    prompt_tokens: int,
    timings: Timings,
) -> Answer:
    parts = prepared.parts
    asked_s = sum(part.asked_s for part in parts)
    footage_s = sum(part.footage_s for part in parts)
    return Answer(
        text=text,
        citations=cite(parts, read),
        coverage=share_of(footage_s, asked_s),
        read_fraction=share_of(len(read), sum(len(part.to_read) for part in parts)),
        partial=partial,
        removed=removed,
        bytes_read=bytes_read,
        visual_tokens=visual_tokens,
        prompt_tokens=prompt_tokens,
        timings=timings,
        streams=tuple(describe_reading(part, read) for part in parts),
        without_footage=tuple(part.stream_id for part in parts if not part.to_read),
    )
