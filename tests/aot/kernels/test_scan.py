"""The scan by kernels, in Triton's interpreter, against the scan in plain torch."""

from collections.abc import Sequence

import pytest
import torch

from aot import AOTConfig, ClipTokens, FrameFeatures, concatenate, stack_clips, unpack
from aot.reducers import adaptive
from aot.reducers.adaptive import AdaptiveReducer, AdaptiveRule
from tests.aot.support import features, part

GRID = (12, 12)

pytest.importorskip("triton", reason="Triton is not installed")


def clips(number=2, frames=6, change=0.6):
    return [features(frames, GRID, 16, seed=seed, change=change) for seed in range(number)]


def reduce(
    reducer: AdaptiveReducer, given: Sequence[FrameFeatures], cuts: Sequence[int]
) -> list[ClipTokens]:
    """Clips of one length side by side, pushed in groups of frames that end at the cuts."""
    state, parts, start = None, [], 0
    for end in cuts:
        pushed, state = reducer.push_batch(
            stack_clips([part(clip, start, end) for clip in given]), state
        )
        parts, start = [*parts, unpack(pushed)], end
    assert state is not None
    return [
        concatenate(rows) for rows in zip(*parts, unpack(reducer.finish_batch(state)), strict=True)
    ]


def assert_same(monkeypatch, given, cuts=None, retention=0.2, clip_frames=8, **constants):
    config = AOTConfig(clip_frames=clip_frames)
    reducer = AdaptiveReducer(config, retention, AdaptiveRule(**constants))
    results = []
    for kernels in (True, False):
        monkeypatch.setattr(adaptive, "fits_kernels", lambda frames, kernels=kernels: kernels)
        if cuts is None:
            results.append(unpack(reducer.compress_batch(stack_clips(given))))
        else:
            results.append(reduce(reducer, given, cuts))
    for ours, expected in zip(*results, strict=True):
        assert len(expected)
        for name in ("frame", "cell", "kind", "mass"):
            assert torch.equal(getattr(ours, name), getattr(expected, name)), name
        torch.testing.assert_close(ours.tokens, expected.tokens, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "constants",
    [
        {},
        {"spread": 0.0},
        {"spread": 1.0, "novelty_floor": 0.0},
        {"keep_mode": "absolute"},
        {"powers": {"attention": 0.5, "local": 1.0, "contrast": 1.0, "novelty": 2.0}},
        {"powers": {"attention": 1.0}},
        {"patience": 1.0, "merge_similarity": 0.3},
    ],
    ids=["default", "no spread", "full spread", "absolute", "powers", "no novelty", "no patience"],
)
def test_the_kernels_keep_what_the_loop_keeps(monkeypatch, constants):
    assert_same(monkeypatch, clips(), **constants)


def test_everything_is_kept_at_retention_one(monkeypatch):
    assert_same(monkeypatch, clips(1, frames=2), retention=1.0)


def test_clips_of_different_lengths(monkeypatch):
    given = [features(frames, GRID, 16, seed=frames, change=0.6) for frames in (3, 1, 5)]
    assert_same(monkeypatch, given)


def test_pushes_onto_states(monkeypatch):
    assert_same(monkeypatch, clips(), cuts=[1, 2, 6])


def test_cells_that_forget_their_oldest_anchor(monkeypatch):
    given = clips(frames=7, change=1.5)
    assert_same(monkeypatch, given, memory=2)
    assert_same(monkeypatch, given, memory=2, cuts=[4, 5, 7])


def test_clips_that_begin_beside_clips_that_go_on(monkeypatch):
    reducer = AdaptiveReducer(AOTConfig(clip_frames=8), 0.2)
    given = clips(2, frames=3)
    monkeypatch.setattr(adaptive, "fits_kernels", lambda frames: False)
    _, begun = reducer.push(given[0])
    opened = reducer.open_state(1, (6, 6), 16, torch.float32, torch.device("cpu"))
    state = begun.stack([begun, opened])
    results = []
    for kernels in (True, False):
        monkeypatch.setattr(adaptive, "fits_kernels", lambda frames, kernels=kernels: kernels)
        packed, after = reducer.push_batch(stack_clips(given), state)
        results.append((unpack(packed), after))
    (ours, after), (expected, wanted) = results
    for one, other in zip(ours, expected, strict=True):
        assert torch.equal(one.frame, other.frame)
        assert torch.equal(one.cell, other.cell)
    for name in ("position", "spent", "filled", "mass", "emitted", "owed"):
        assert torch.equal(getattr(after, name), getattr(wanted, name)), name
    anchors = [state.columns["anchors"] for state in (after, wanted)]
    torch.testing.assert_close(*anchors, rtol=1e-5, atol=1e-5)


def test_a_push_by_kernels_writes_to_nothing_it_was_given(monkeypatch):
    monkeypatch.setattr(adaptive, "fits_kernels", lambda frames: True)
    reducer = AdaptiveReducer(AOTConfig(clip_frames=8), 0.2)
    [clip] = clips(1, frames=3)
    _, state = reducer.push_batch(stack_clips([clip]))
    before = {name: value.clone() for name, value in state.columns.items()}
    reducer.push_batch(stack_clips([clip]), state)
    assert all(torch.equal(state.columns[name], value) for name, value in before.items())
