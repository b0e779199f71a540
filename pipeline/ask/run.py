"""Path 2: from a question to an answer, out of the stored tokens alone.

Index, budget, values, prompt, text: nothing is decoded, no video is needed. `ask_stream` yields
the answer's text as it is written and last the whole `Answer` with its citations.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.ask.question import Question, resolve_range
from pipeline.ask.retrieval import Selection, covered_s, fit_to_budget, nearest_span, no_footage
from pipeline.errors import FingerprintMismatch, InvalidQuery, NoFootage
from pipeline.store import ClipStore
from pipeline.types import ClipSpan, StreamInfo
from workers.models import LanguageModel, ReadingStyle
from workers.reading import read_clip

MARK_TOKENS = 16
"""Set aside for a time mark and a newline; marks take 5 to 12 in known vocabularies."""


@dataclass(frozen=True)
class Timings:
    """Where the time of an answer went, in wall seconds."""

    index_s: float
    load_s: float
    first_token_s: float
    """From the question to the first piece of text, index and load included."""
    total_s: float


@dataclass(frozen=True)
class Answer:
    """A question's answer and what it rests on."""

    text: str
    citations: tuple[ClipSpan, ...]
    """The clips that were read."""
    coverage: float
    """Share of the asked range that has footage, 0 to 1."""
    read_fraction: float
    """Share of the range's clips that were read; below 1 when the budget left some out."""
    partial: bool
    """True when clips named by the index could not be read."""
    visual_tokens: int
    prompt_tokens: int
    timings: Timings


def ask(store: ClipStore, model: LanguageModel, question: Question) -> Answer:
    """The whole answer at once; see `ask_stream`."""
    *_, answer = ask_stream(store, model, question)
    assert isinstance(answer, Answer)
    return answer


def ask_stream(
    store: ClipStore, model: LanguageModel, question: Question
) -> Iterator[str | Answer]:
    """Yield the answer's text in pieces, then the `Answer`.

    Raises:
        UnknownStream, NoFootage, InvalidQuery, QueryTooLarge: what is wrong with the question.
        FingerprintMismatch: a stream's tokens are of another model.
        StoreError, ModelError: what failed.
    """
    started_s = time.perf_counter()
    for stream_id in question.streams:
        require_model(store.get_info(stream_id), model)
    style = reading_style(question, model)
    selection, asked_s = select(store, question, style, _room(model, question))
    index_s = time.perf_counter() - started_s
    segments, read = [], []
    by_place = {(span.stream_id, span.epoch, span.index): span for span in selection.spans}
    unnamed = _named_streams(question, style)
    for clip in store.iter_clips(selection.spans, on_corrupt="skip"):
        read.append(by_place[clip.stream_id, clip.epoch, clip.index])
        segments += read_clip(
            clip,
            marks=style.marks,
            keep_positions=style.keep_positions,
            name=clip.stream_id if clip.stream_id in unnamed else None,
        )
        unnamed.discard(clip.stream_id)
    if not read:
        raise NoFootage(
            f"none of {len(selection.spans)} clips in the range can be read; run "
            f"`aot clips verify {question.streams[0]}`"
        )
    load_s = time.perf_counter() - started_s - index_s
    pieces, first_token_s = [], None
    for piece in model.stream_answer(
        question.text, segments, max_new_tokens=question.max_new_tokens
    ):
        first_token_s = first_token_s or time.perf_counter() - started_s
        pieces.append(piece)
        yield piece
    total_s = time.perf_counter() - started_s
    yield Answer(
        text="".join(pieces).strip(),
        citations=tuple(read),
        coverage=min(1.0, selection.footage_s / asked_s) if asked_s > 0 else 0.0,
        read_fraction=len(read) / selection.found,
        partial=len(read) < len(selection.spans),
        visual_tokens=sum(len(segment.tokens) for segment in segments),
        prompt_tokens=model.count_tokens(question.text, segments),
        timings=Timings(index_s, load_s, first_token_s or total_s, total_s),
    )


def reading_style(question: Question, model: LanguageModel) -> ReadingStyle:
    """How the clips are read: as the question says, else as the model wants."""
    given = {"marks": question.marks, "keep_positions": question.keep_positions}
    return replace(model.reading, **{k: v for k, v in given.items() if v is not None})


def select(
    store: ClipStore, question: Question, style: ReadingStyle, room: int
) -> tuple[Selection, float]:
    """The clips to read, and the seconds that were asked about; reads the index alone.

    `room`: tokens that the model's context leaves for video.
    """
    found: list[ClipSpan] = []
    footage_s = asked_s = 0.0
    for stream_id in question.streams:
        start_s, end_s = resolve_range(store, stream_id, question)
        spans = store.list_spans(stream_id, start_s, end_s)
        if not spans:
            nearest = nearest_span(store.list_spans(stream_id), start_s, end_s)
            raise no_footage(stream_id, start_s, end_s, nearest)
        found += spans
        footage_s += covered_s(spans, start_s, end_s)
        asked_s += end_s - start_s
    infos = [store.get_info(stream_id) for stream_id in question.streams]
    frames = max(_number(info, "clip_frames", 8) for info in infos)
    marks = MARK_TOKENS * (frames if style.marks == "frame" else 1)
    # Each name stands there once; a character is at most one token.
    names = sum(len(name) + 1 for name in _named_streams(question, style))
    max_clips = question.max_clips
    if style.keep_positions:  # a clip then takes the context that all its tokens would
        whole = frames * max(_number(info, "frame_tokens", 0) for info in infos)
        max_clips = min(max_clips, max(0, room - names) // (whole + marks))
    max_tokens = max(0, min(question.max_visual_tokens or room, room) - names)
    chosen = fit_to_budget(found, max_tokens, tokens_per_clip=marks, max_clips=max_clips)
    return Selection(chosen, len(found), footage_s), asked_s


def require_model(info: StreamInfo, model: LanguageModel) -> None:
    """Raise `FingerprintMismatch` when the stream's tokens were not made by this model."""
    if not info.fingerprint:  # it was refused before a model was asked for, and has no tokens
        return
    ours = {
        "model_type": model.identity.model_type,
        "weights": model.identity.weights,
        "processor": model.identity.processor,
    }
    stored = {name: info.settings.get(name) for name in ours}
    if stored != ours:
        raise FingerprintMismatch(
            f"{info.stream_id} holds tokens of {info.model_id} ({stored['weights']}), got model "
            f"{model.identity.model_id} ({ours['weights']}); ask with the model of the stream"
        )


def _named_streams(question: Question, style: ReadingStyle) -> set[str]:
    """Streams whose first mark says their name: when there is more than one to tell apart."""
    return set(question.streams) if style.name_streams and len(question.streams) > 1 else set()


def _number(info: StreamInfo, name: str, default: int) -> int:
    value = info.settings.get(name)
    return int(value) if isinstance(value, (int, float)) else default


def _room(model: LanguageModel, question: Question) -> int:
    room = model.context_length - question.max_new_tokens - model.count_tokens(question.text, [])
    if room <= 0:
        raise InvalidQuery(
            f"{model.context_length} tokens of context leave no room for video beside the question "
            f"and {question.max_new_tokens} new tokens; lower max_new_tokens"
        )
    return room
