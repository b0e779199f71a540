"""What an answer rests on and what it cost, as every surface of the service tells it."""

from dataclasses import dataclass

from pipeline.ask.answer import Answer, Citation, StreamReading


@dataclass(frozen=True)
class Cost:
    """What was read for an answer; nothing was decoded and nothing encoded."""

    clips_read: int
    bytes_read: int
    visual_tokens: int
    prompt_tokens: int
    completion_tokens: int
    index_ms: float
    load_ms: float
    wait_ms: float
    """For its turns: to look at the index, to be answered, to read clips; in neither of those."""
    first_token_ms: float
    """From the question to the first text, the wait included."""
    total_ms: float
    frames_decoded: int = 0


@dataclass(frozen=True)
class Evidence:
    """Spans, coverage, intervals and cost of an answer."""

    streams: tuple[StreamReading, ...]
    """The interval of each stream as it was understood, and what there is of it."""
    spans: tuple[Citation, ...]
    """The clips that were read, each in seconds of its stream and on the wall clock."""
    coverage: float
    read_fraction: float
    partial: bool
    """Whether some of the clips could not be read."""
    removed: int
    without_footage: tuple[str, ...]
    cost: Cost


@dataclass(frozen=True)
class Written:
    """An answer and its evidence."""

    answer: Answer
    evidence: Evidence


def evidence_of(answer: Answer, completion_tokens: int) -> Evidence:
    """The evidence of an answer of so many tokens."""
    timings = answer.timings
    cost = Cost(
        clips_read=sum(stream.clips_read for stream in answer.streams),
        bytes_read=answer.bytes_read,
        visual_tokens=answer.visual_tokens,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=completion_tokens,
        index_ms=timings.index_s * 1000,
        load_ms=timings.load_s * 1000,
        wait_ms=timings.wait_s * 1000,
        first_token_ms=timings.first_token_s * 1000,
        total_ms=timings.total_s * 1000,
    )
    return Evidence(
        streams=answer.streams,
        spans=answer.citations,
        coverage=answer.coverage,
        read_fraction=answer.read_fraction,
        partial=answer.partial,
        removed=answer.removed,
        without_footage=answer.without_footage,
        cost=cost,
    )
