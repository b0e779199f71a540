"""What a push has an accelerator do: few launches, as many for any number of clips, no waits.

Counted on `meta` tensors, which hold no values: what runs on them to its end cannot have read one.
"""

from collections.abc import Callable

import pytest
import torch

from aot import (
    CausalReducer,
    FeatureBatch,
    NotIncremental,
    PackedTokens,
    make_reducer,
)
from aot.kernels import has_triton
from aot.reducers import adaptive, scan
from tests.aot.launches import LaunchCounter, count_launches, turn_kernels_off
from tests.aot.support import CAUSAL, WHOLE

GRID, FRAMES, WIDTH = (27, 27), 8, 896


def batch(clips: int, frames: int = FRAMES, device: str = "meta") -> FeatureBatch:
    shape, empty = (clips, frames, GRID[0] * GRID[1]), torch.empty
    maps = (torch.zeros(shape, device=device) for _ in range(2))
    return FeatureBatch(empty(*shape, WIDTH, device=device), *maps, grid=GRID)


def causal(name: str) -> CausalReducer:
    made = make_reducer(name, 0.1, grid=GRID, clip_frames=FRAMES)
    assert isinstance(made, CausalReducer)
    return made


def push(clips: int) -> LaunchCounter:
    reducer, given = causal("adaptive"), batch(clips)
    return count_launches(lambda: reducer.push_batch(given))


def push_onto_states(clips: int, frames: int = FRAMES) -> LaunchCounter:
    reducer, given = causal("adaptive"), batch(clips, frames)
    _, state = reducer.push_batch(given)
    return count_launches(lambda: reducer.push_batch(given, state))


def compress(clips: int) -> LaunchCounter:
    reducer, given = causal("adaptive"), batch(clips)
    return count_launches(lambda: reducer.compress_batch(given))


@pytest.fixture(params=["kernels", "plain"])
def kernels(request, monkeypatch) -> bool:
    """Whether kernels run, each of which is one operator here."""
    if request.param == "plain":
        turn_kernels_off(monkeypatch)
    elif not has_triton():
        pytest.skip("Triton is not installed")
    return request.param == "kernels"


def test_adaptive_takes_few_launches(kernels):
    assert push(1).launches <= (85 if kernels else 760)
    assert compress(1).launches <= (160 if kernels else 850)
    assert push_onto_states(1).launches <= (150 if kernels else 890)
    assert push_onto_states(1, frames=1).launches <= (140 if kernels else 240)


@pytest.mark.parametrize("measure", [push, push_onto_states, compress])
def test_more_clips_are_no_more_launches(measure, kernels):
    assert measure(1).launches == measure(16).launches


@pytest.mark.parametrize("measure", [push, push_onto_states, compress])
def test_the_host_waits_for_nothing(measure, kernels):
    assert not measure(4).waits


def test_padded_clips_wait_for_nothing_either():
    reducer, given = causal("adaptive"), batch(3)
    active = torch.ones(3, FRAMES, dtype=torch.bool, device="meta")
    padded = FeatureBatch(given.tokens, given.local_attention, given.global_attention, GRID, active)
    assert not count_launches(lambda: reducer.push_batch(padded)).waits


@pytest.mark.parametrize("name", CAUSAL)
def test_a_push_of_every_causal_reducer_reads_no_value(name):
    reducer, given = causal(name), batch(2)
    emitted, state = reducer.push_batch(given)
    more, state = reducer.push_batch(batch(2, frames=1), state)
    last = reducer.finish_batch(state)
    assert emitted.tokens.is_meta
    assert [packed.tokens.shape[0] for packed in (emitted, more, last)] == [2, 2, 2]


@pytest.mark.parametrize("name", WHOLE)
def test_the_others_say_that_they_cannot_be_pushed(name):
    with pytest.raises(NotIncremental):
        make_reducer(name, 0.1).push_many([], [])


def test_what_comes_out_has_room_for_a_tenth_more_than_the_budget():
    packed: PackedTokens = causal("adaptive").compress_batch(batch(4))
    assert packed.tokens.shape[0] == 4
    assert round(0.1 * FRAMES * 196) <= packed.tokens.shape[1] <= 1.1 * 0.1 * FRAMES * 196


def spoil(monkeypatch, spoiled: Callable[[torch.Tensor], object]) -> None:
    """Have every choice of tokens look at a value in some way."""
    choose = scan.choose_unlike

    def looking(score, *rest):
        spoiled(score)
        return choose(score, *rest)

    monkeypatch.setattr(adaptive, "fits_kernels", lambda frames: False)
    monkeypatch.setattr(scan, "choose_unlike", looking)


def test_the_bars_see_a_launch_for_every_clip(monkeypatch):
    spoil(monkeypatch, lambda score: [row + 1 for row in score])
    assert push(1).launches != push(16).launches


@pytest.mark.parametrize(
    ("looks", "refusal"),
    [
        (lambda score: float(score.sum()), "item"),
        (lambda score: score[score > 0], "nonzero"),
        (lambda score: (score > 0).nonzero(), "nonzero"),
        (lambda score: bool((score > 0).all()), "item"),
        (lambda score: score.tolist(), "no data"),
        (lambda score: score.cpu(), "no data"),
    ],
    ids=["item", "mask", "nonzero", "bool", "tolist", "copy to the host"],
)
def test_a_value_that_is_read_cannot_be_read_on_meta(monkeypatch, looks, refusal):
    spoil(monkeypatch, looks)
    with pytest.raises(RuntimeError, match=f"meta.*{refusal}|{refusal}.*meta"):
        push(1)


@pytest.mark.parametrize(
    "looks",
    [
        lambda score: torch.tensor([1.0, 2.0]),
        lambda score: float(torch.ones(2).sum()),
        lambda score: torch.ones(3)[torch.ones(3) > 0],
    ],
    ids=["numbers of the host", "item", "mask"],
)
def test_the_counter_sees_waits_that_meta_would_let_pass(looks):
    with LaunchCounter() as counted:
        looks(torch.empty(3, device="meta"))
    assert counted.waits
