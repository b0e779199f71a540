"""Which clips a question reads: those of its ranges, thinned evenly to fit the budget.

Several streams share the budget: each gets what it needs or an equal share, and at least one clip;
of each the first and the last clip are read, as what was last is what is asked for most. Works on
index rows alone, so that the cost is known before a value is loaded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from pipeline.values.errors import QueryTooLarge
from pipeline.values.types import ClipSpan

Cost = Callable[[ClipSpan], int]
"""Places of the model's context that a clip takes, its marks included."""


@dataclass(frozen=True)
class Budget:
    """What may be read."""

    places: int
    """Of the model's context, for visual tokens and marks."""
    tokens: int | None = None
    """Visual tokens; None leaves it to the context."""
    clips: int = 2048


def share_budget(
    groups: Sequence[Sequence[ClipSpan]], budget: Budget, cost: Cost
) -> list[tuple[ClipSpan, ...]]:
    """The clips to read of each group; groups must not be empty.

    Raises:
        QueryTooLarge: not even one clip of each fits.
    """
    if len(groups) > budget.clips:
        raise QueryTooLarge(
            f"got {len(groups)} streams and at most {budget.clips} clips, expected one of each "
            "at least; ask fewer streams, or raise max_clips"
        )
    prices: list[Callable[[ClipSpan], int]] = [cost, lambda span: span.num_tokens, lambda span: 1]
    limits = [budget.places, budget.tokens, budget.clips]
    shares = [_shares(groups, price, limit) for price, limit in zip(prices, limits, strict=True)]
    return [
        _fit(group, Budget(places, tokens, clips), cost)
        for group, places, tokens, clips in zip(groups, *shares, strict=True)
    ]


def fit_to_budget(
    spans: Sequence[ClipSpan], max_tokens: int, *, tokens_per_clip: int = 0, max_clips: int = 2048
) -> tuple[ClipSpan, ...]:
    """The clips themselves when they fit, else as many as fit, evenly spaced over the range.

    `spans` must not be empty. `tokens_per_clip` is what a clip costs beside its visual tokens
    (time mark, newline).

    Raises:
        QueryTooLarge: not even one clip fits.
    """

    def cost(span: ClipSpan) -> int:
        return span.num_tokens + tokens_per_clip

    [chosen] = share_budget([spans], Budget(max_tokens, None, max_clips), cost)
    return chosen


def _shares(groups: Sequence[Sequence[ClipSpan]], price: Cost, limit: int | None) -> list[int]:
    """What each group may take: all it needs, or an equal share of what the others leave.

    Every group can have its cheapest clip.
    """
    needs = [sum(map(price, group)) for group in groups]
    least = [min(map(price, group)) for group in groups]
    if limit is None or sum(needs) <= limit:
        return needs
    if sum(least) > limit:
        several = ", and one of each stream is read" if len(groups) > 1 else ""
        raise QueryTooLarge(
            f"the budget is {limit} visual tokens, a clip of the range takes at least "
            f"{max(least)}{several}; raise the budget, or ask a model with a longer context"
        )
    return share_evenly(needs, limit, least)


def share_evenly(needs: Sequence[int], limit: int, least: Sequence[int]) -> list[int]:
    """What each may take of `limit`: all it needs, or an equal share, but what it has to have."""
    low, high = 0, limit
    while low < high:  # the highest level at which all shares together fit
        level = (low + high + 1) // 2
        taken = sum(min(need, max(floor, level)) for need, floor in zip(needs, least, strict=True))
        low, high = (level, high) if taken <= limit else (low, level - 1)
    return [min(need, max(floor, low)) for need, floor in zip(needs, least, strict=True)]


def _fit(spans: Sequence[ClipSpan], budget: Budget, cost: Cost) -> tuple[ClipSpan, ...]:
    """As many evenly spaced clips as fit, the first and the last among them."""

    def fits(chosen: Sequence[ClipSpan]) -> bool:
        within = sum(span.num_tokens for span in chosen) <= (budget.tokens or 0)
        return within and sum(map(cost, chosen)) <= budget.places

    for count in range(_most(spans, budget, cost), 1, -1):
        chosen = _spread(spans, count)  # not monotone: fewer clips may cost more
        if fits(chosen):
            return chosen
    if fits(spans[-1:]):
        return tuple(spans[-1:])
    return (min(spans, key=cost),)


def _most(spans: Sequence[ClipSpan], budget: Budget, cost: Cost) -> int:
    """More clips than this cannot fit, whichever they are."""
    cheapest = accumulate(sorted(map(cost, spans)))
    return min(sum(total <= budget.places for total in cheapest), len(spans), budget.clips)


def _spread(spans: Sequence[ClipSpan], count: int) -> tuple[ClipSpan, ...]:
    """`count` >= 2 of them, evenly spaced from the first to the last."""
    steps = count - 1
    return tuple(spans[(2 * i * (len(spans) - 1) + steps) // (2 * steps)] for i in range(count))
