"""The method's launches on an accelerator, counted on `meta` tensors: see `test_launches`."""

import pytest
import torch

from aot import (
    AOTConfig,
    ClipCompressor,
    FeatureBatch,
    NotSettled,
    make_reducer,
    matching,
    spatial,
    stack_clips,
    transport,
    unpack,
)
from aot.kernels import has_triton
from tests.aot.launches import LaunchCounter, count_launches, turn_kernels_off
from tests.aot.support import features

GRID, FRAMES, WIDTH = (27, 27), 8, 896
needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton is not installed")


def batch(clips: int, frames: int = FRAMES) -> FeatureBatch:
    shape = (clips, frames, GRID[0] * GRID[1])
    tokens = torch.empty(*shape, WIDTH, device="meta")
    maps = (torch.empty(shape, device="meta") for _ in range(2))
    return FeatureBatch(tokens, *maps, grid=GRID)


def method(**constants) -> ClipCompressor:
    made = make_reducer("aot", 0.1, grid=GRID, clip_frames=FRAMES, **constants)
    assert isinstance(made, ClipCompressor)
    return made


def push(clips: int, **constants) -> LaunchCounter:
    reducer, given = method(**constants), batch(clips)
    return count_launches(lambda: reducer.push_batch(given))


def push_onto_states(clips: int, frames: int = FRAMES) -> LaunchCounter:
    reducer, given = method(), batch(clips, frames)
    _, state = reducer.push_batch(batch(clips))
    return count_launches(lambda: reducer.push_batch(given, state))


def compress(clips: int) -> LaunchCounter:
    reducer, given = method(), batch(clips)
    return count_launches(lambda: reducer.compress_batch(given))


@needs_triton
def test_a_push_takes_few_launches_with_the_kernels():
    pushed = push(1)
    assert pushed.launches <= 360
    assert pushed.by_operator["scale_kernel"] == FRAMES  # within all frames, then one a later frame
    assert push_onto_states(1, frames=1).launches <= 230
    assert compress(1).launches <= 390


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "plain"])
@pytest.mark.parametrize("measure", [push, push_onto_states, compress])
def test_more_clips_are_no_more_launches_and_the_host_waits_for_nothing(
    monkeypatch, measure, kernels
):
    if not kernels:
        turn_kernels_off(monkeypatch)
    alone, many = measure(1), measure(16)
    assert alone.launches == many.launches
    assert not many.waits


@pytest.mark.parametrize(
    "constants",
    [
        {"keep_rule": "plan"},
        {"keep_rule": "cost"},
        {"merge_frames": False},
        {"anchors_per_frame": None},
        {"pooling": "average"},
        {"pooling": "none"},
        {"window": 4},
    ],
    ids=str,
)
def test_every_rule_runs_without_a_look_at_a_value(constants):
    assert not push(2, **constants).waits


@pytest.fixture
def unrolled(monkeypatch):
    """Transports as on an accelerator without the kernels: `unrolled` iterations, nobody asks."""
    scale = transport.scale_kernel

    def scale_unasked(*columns, unrolled, **limits):
        rounds = min(unrolled, limits["max_iterations"])
        return transport.iterate(*columns, rounds=rounds, asks=False, **limits)

    for module in (matching, spatial):
        assert module.scale_kernel is scale
        monkeypatch.setattr(module, "scale_kernel", scale_unasked)


CONFIG = AOTConfig(anchors_per_frame=40, window=4)


def clips():
    return [features(3, (12, 12), seed=seed) for seed in range(2)]


def test_unrolled_transports_give_what_those_that_stop_give(unrolled):
    packed = ClipCompressor(CONFIG).compress_batch(stack_clips(clips()))
    assert packed.settled is not None
    assert packed.settled.all()


def test_a_transport_that_was_left_too_early_is_told(unrolled):
    packed = ClipCompressor(CONFIG, unrolled=1).compress_batch(stack_clips(clips()))
    with pytest.raises(NotSettled, match=r"unrolled=config\.max_iterations"):
        unpack(packed)


def test_callers_with_single_clips_are_given_the_whole_result(monkeypatch, request):
    expected = ClipCompressor(CONFIG).compress_clips(clips())
    request.getfixturevalue("unrolled")
    short = ClipCompressor(CONFIG, unrolled=1)
    for ours, theirs in zip(short.compress_clips(clips()), expected, strict=True):
        assert torch.equal(ours.cell, theirs.cell)
        torch.testing.assert_close(ours.tokens, theirs.tokens)
    [(emitted, _)] = short.push_many(clips()[:1], [None])
    assert len(emitted)
