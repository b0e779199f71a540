"""Which clips a question reads: those of its range, thinned evenly to fit the token budget.

Works on index rows alone, so that the cost is known before a value is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import NoFootage, QueryTooLarge
from pipeline.types import ClipSpan


@dataclass(frozen=True)
class Selection:
    """What of a range is read."""

    spans: tuple[ClipSpan, ...]
    """In the order of streams as asked, then of time."""
    found: int
    """Clips in the range, read or not."""
    footage_s: float
    """Seconds of the range that clips cover, read or not."""

    @property
    def num_tokens(self) -> int:
        return sum(span.num_tokens for span in self.spans)


def fit_to_budget(
    spans: Sequence[ClipSpan], max_tokens: int, *, tokens_per_clip: int = 0, max_clips: int = 2048
) -> tuple[ClipSpan, ...]:
    """The clips themselves when they fit, else as many as fit, evenly spaced over the range.

    `spans` must not be empty. `tokens_per_clip` is what a clip costs beside its visual tokens
    (time mark, newline).

    Raises:
        QueryTooLarge: not even one clip fits.
    """
    low, high = 0, min(len(spans), max_clips)
    while low < high:  # the cost of n evenly spaced clips rises with n, nearly
        middle = (low + high + 1) // 2
        if _cost(_spread(spans, middle), tokens_per_clip) <= max_tokens:
            low = middle
        else:
            high = middle - 1
    if low:
        return _spread(spans, low)
    smallest = min(spans, key=lambda span: span.num_tokens)
    if not max_clips or _cost([smallest], tokens_per_clip) > max_tokens:
        raise QueryTooLarge(
            f"the budget is {max_tokens} visual tokens, a clip of the range takes at least "
            f"{smallest.num_tokens + tokens_per_clip}; raise the budget, or ask a model with a "
            "longer context"
        )
    return (smallest,)


def covered_s(spans: Sequence[ClipSpan], start_s: float | None, end_s: float | None) -> float:
    """Seconds of [start_s, end_s) that clips cover; overlapping clips count once an epoch."""
    total, reached, epoch = 0.0, float("-inf"), None
    for span in sorted(spans, key=lambda span: (span.stream_id, span.epoch, span.start_s)):
        if (span.stream_id, span.epoch) != epoch:
            epoch, reached = (span.stream_id, span.epoch), float("-inf")
        begin = max(span.start_s, reached, float("-inf") if start_s is None else start_s)
        end = span.end_s if end_s is None else min(span.end_s, end_s)
        total += max(0.0, end - begin)
        reached = max(reached, span.end_s)
    return total


def no_footage(stream_id: str, start_s: float, end_s: float, nearest: ClipSpan | None) -> NoFootage:
    """The error of an empty range, naming where there is something."""
    hint = (
        f"the nearest clip is {nearest.start_s:.1f} to {nearest.end_s:.1f} s"
        if nearest
        else "the stream has no clips yet"
    )
    return NoFootage(f"{stream_id} has no footage from {start_s:.1f} to {end_s:.1f} s; {hint}")


def nearest_span(spans: Sequence[ClipSpan], start_s: float, end_s: float) -> ClipSpan | None:
    """The clip closest to a range."""
    return min(
        spans,
        key=lambda span: max(span.start_s - end_s, start_s - span.end_s, 0.0),
        default=None,
    )


def _spread(spans: Sequence[ClipSpan], count: int) -> tuple[ClipSpan, ...]:
    return tuple(spans[(2 * i + 1) * len(spans) // (2 * count)] for i in range(count))


def _cost(spans: Sequence[ClipSpan], tokens_per_clip: int) -> int:
    return sum(span.num_tokens + tokens_per_clip for span in spans)
