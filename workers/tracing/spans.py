"""The seam of tracing: tracers and spans, those that trace nothing, and the trace of a clip.

A span is a context manager that makes its own parts, so nothing is current, nothing is global, and
a trace may run through generators and threads. What was measured before the span could be opened is
told as seconds ago: numbers travel with the data, and a trace of a clip is made of them where the
clip is stored. Knows of no library.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, runtime_checkable

from workers.types import CompressedClip

Fact = str | int | float


@runtime_checkable
class Span(Protocol):
    """A stretch of time with a name, open while its block runs; an error in the block is told."""

    def part(self, name: str, *, ago_s: float = 0.0, lasted_s: float | None = None) -> "Span":
        """A span inside this one, begun `ago_s` seconds ago; it ends after `lasted_s`, where that
        is known, else with its block."""
        ...

    def tell(self, **facts: Fact) -> None:
        """Something that is known of it by now."""
        ...

    def __enter__(self) -> "Span": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class Tracer(Protocol):
    """Makes traces: spans that lie in no other."""

    def span(self, name: str, *, ago_s: float = 0.0, **facts: Fact) -> Span:
        """A trace, begun `ago_s` seconds ago."""
        ...

    def close(self) -> None:
        """Send what waits; no longer than a few seconds."""
        ...


class _Nothing:
    """A tracer and every span of it, where nothing is traced."""

    def span(self, name: str, *, ago_s: float = 0.0, **facts: Fact) -> Span:
        return self

    def part(self, name: str, *, ago_s: float = 0.0, lasted_s: float | None = None) -> Span:
        return self

    def tell(self, **facts: Fact) -> None:
        return None

    def close(self) -> None:
        return None

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None


NO_TRACER: Tracer = _Nothing()
"""Traces nothing."""


@contextmanager
def trace_clip(tracer: Tracer, clip: CompressedClip) -> Iterator[None]:
    """Around the storing of a clip: its trace, of what it cost so far and what storing it takes.

    Decoding and the push (encoder, then reduction) are of the lengths that were measured where they
    ran, laid one behind the other up to now: what they waited for in between is not shown.
    """
    if tracer is NO_TRACER:
        yield
        return
    stats = clip.stats
    push_s = stats.encode_s + stats.reduce_s
    ago_s = stats.decode_s + push_s
    with tracer.span(
        "clip",
        ago_s=ago_s,
        stream=clip.stream_id,
        epoch=clip.epoch,
        index=clip.index,
        start_s=clip.start_s,
        end_s=clip.end_s,
        frames=stats.frames_in,
        tokens_in=stats.tokens_in,
        tokens_out=stats.tokens_out,
    ) as whole:
        with whole.part("decode", ago_s=ago_s, lasted_s=stats.decode_s):
            pass
        with whole.part("push", ago_s=push_s, lasted_s=push_s) as push:
            with push.part("encode", ago_s=push_s, lasted_s=stats.encode_s):
                pass
            with push.part("reduce", ago_s=stats.reduce_s, lasted_s=stats.reduce_s):
                pass
        with whole.part("store"):
            yield
