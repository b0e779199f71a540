"""Limits of a clip's frames: what the same sums in Python give, and room for all they allow."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.reducers.budget import Budget

budgets = st.builds(
    Budget,
    retention=st.floats(0.01, 0.99),
    clip_frames=st.integers(1, 12),
    num_cells=st.integers(1, 60),
    advance=st.floats(0, 1),
    arrears=st.floats(0, 1),
    keep_mode=st.sampled_from(["budget", "absolute"]),
    merged_tokens=st.integers(1, 5),
)


def plain_limits(budget: Budget, position: int) -> tuple[int, int]:
    """The limits as a sentence would put them."""
    clip, so_far = budget.clip_frames, position + 1
    early = max(so_far, budget.advance * clip + (1 - budget.advance) * so_far)
    whole = round(budget.per_frame * max(so_far, clip)) - budget.merged_tokens
    high = min(math.floor(budget.per_frame * early), whole)
    if budget.keep_mode == "absolute":
        return 0, high
    late = round(budget.per_frame * (so_far - (budget.arrears * clip if so_far < clip else 0)))
    unspendable = whole - max(clip - so_far, 0) * budget.num_cells
    return min(max(late, unspendable), whole), high


@settings(max_examples=200)
@given(budget=budgets)
def test_limits_are_what_plain_arithmetic_gives(budget):
    position = torch.arange(2 * budget.clip_frames)
    for at, low, high in zip(position.tolist(), *map(list, budget.limits(position)), strict=True):
        fewest, most = plain_limits(budget, at)
        assert int(high) == most
        assert max(int(low), 0) == max(fewest, 0)


@settings(max_examples=200)
@given(budget=budgets, data=st.data())
def test_whatever_is_worth_a_token_there_is_room_for_what_comes_out(budget, data):
    frames = data.draw(st.integers(1, budget.clip_frames + 3))
    worthy = data.draw(st.lists(st.integers(0, budget.num_cells), min_size=frames, max_size=frames))
    low, high = (values.tolist() for values in budget.limits(torch.arange(frames)))
    spent, emitted = 0, []
    for position in range(frames):
        most = min(max(high[position] - spent, 0), budget.num_cells)
        count = min(max(worthy[position], low[position] - spent), most)
        emitted.append(count)
        spent += count
        left = int(budget.left(torch.tensor([position + 1]), torch.tensor([spent])))
        assert min(max(left, budget.merged_tokens), budget.num_cells) <= budget.room_to_finish
    for begun in range(frames):
        for end in range(begun + 1, frames + 1):
            room = budget.room_to_emit(end - begun, opens=begun == 0)
            assert sum(emitted[begun:end]) <= room


def test_all_of_it_may_be_kept():
    budget = Budget(1.0, 8, 9, 0.2, 0.05, "budget", 1)
    low, high = budget.limits(torch.arange(3))
    assert (low - 2 * 9 >= 9).all()
    assert torch.equal(low, high)
    assert budget.room_to_emit(3, opens=True) == 27


@pytest.mark.parametrize("opens", [True, False])
def test_room_is_near_what_the_budget_brings(opens):
    budget = Budget(0.1, 8, 196, 0.2, 0.05, "budget", 1)
    assert budget.room_to_emit(8, opens=opens) <= round(0.1 * 8 * 196 * 1.2)
    assert budget.room_to_finish <= 12
