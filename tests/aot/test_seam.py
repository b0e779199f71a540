"""Clips side by side: states that stack and travel, tokens packed and unpacked."""

import pytest
import torch

from aot import ClipCompressor, ClipState, InvalidFeatures, concatenate, make_reducer
from aot.clip_batch import AnchorState
from aot.packing import join_packed, stack_clips, unpack
from aot.types import ClipTokens
from tests.aot.support import features, part

GRID = (8, 8)
LENGTHS = (3, 1, 4)


@pytest.fixture
def reducer() -> ClipCompressor:
    made = make_reducer("aot", 0.25, grid=GRID, clip_frames=4)
    assert isinstance(made, ClipCompressor)
    return made


def clips(lengths=LENGTHS):
    return [features(length, GRID, seed=seed) for seed, length in enumerate(lengths)]


def assert_same(one: ClipTokens, other: ClipTokens) -> None:
    for name in ("frame", "cell", "kind"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    torch.testing.assert_close(one.tokens, other.tokens, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one.mass, other.mass, rtol=1e-5, atol=1e-5)


def test_clips_of_any_lengths_side_by_side_give_what_each_gives_alone(reducer):
    together = unpack(reducer.compress_batch(stack_clips(clips())))
    for clip, tokens in zip(clips(), together, strict=True):
        assert_same(tokens, reducer.compress_clips([clip])[0])


def test_open_clips_side_by_side_go_on_as_each_does_alone(reducer):
    """Each at another position of its clip, one of them only opened."""
    begun = [reducer.push(clip)[1] for clip in clips((2, 1))]
    opened = reducer.open_state(1, (4, 4), 8, torch.float32, torch.device("cpu"))
    states, more = [*begun, opened], clips((2, 3, 1))
    packed, after = reducer.push_batch(stack_clips(more), ClipState.stack(states))
    ends = unpack(reducer.finish_batch(after))
    for tokens, end, clip, state in zip(unpack(packed), ends, more, states, strict=True):
        alone, last = reducer.push(clip, state)
        assert_same(tokens, alone)
        assert_same(end, reducer.finish(last))
    assert after.position.tolist() == [4, 4, 1]


def test_a_state_travels_as_plain_tensors(reducer):
    _, state = reducer.push(features(2, GRID))
    again = AnchorState.from_tensors(state.tensors())
    assert again.grid == state.grid
    assert again.width == state.width
    assert all(torch.equal(again.columns[name], value) for name, value in state.columns.items())
    with pytest.raises(InvalidFeatures, match=r"expected .*'keyframe'"):
        AnchorState.from_tensors({"position": state.position})


def test_states_split_again_into_what_was_stacked_and_own_no_more(reducer):
    states = [reducer.push(clip)[1] for clip in clips()]
    parts = AnchorState.stack(states).split()
    for state, again in zip(states, parts, strict=True):
        assert all(torch.equal(again.columns[name], v) for name, v in state.columns.items())
        assert again.anchors.untyped_storage().nbytes() == state.anchors.numel() * 4


def test_states_of_two_models_do_not_stack(reducer):
    states = [reducer.push(features(1, GRID, dim=dim))[1] for dim in (8, 4)]
    with pytest.raises(InvalidFeatures, match="one kind, grid and width"):
        ClipState.stack(states)


def test_joined_rows_follow_the_last_row_of_the_clip(reducer):
    batch = stack_clips(clips())
    first, state = reducer.push_batch(batch)
    last = reducer.finish_batch(state)
    for joined, *parts in zip(
        unpack(join_packed(first, last)), unpack(first), unpack(last), strict=True
    ):
        assert_same(joined, concatenate(parts))


def test_unpacked_tokens_own_no_more_than_themselves(reducer):
    for tokens in unpack(reducer.compress_batch(stack_clips(clips()))):
        assert tokens.tokens.untyped_storage().nbytes() == tokens.tokens.numel() * 4


def test_the_clip_whose_features_are_not_finite_is_named(reducer):
    packed = reducer.compress_batch(stack_clips(clips()))
    object.__setattr__(packed, "finite", torch.tensor([True, False, True]))
    with pytest.raises(InvalidFeatures, match="clip 1 of 3"):
        unpack(packed)


def test_pushing_frame_by_frame_through_plain_tensors_changes_nothing(reducer):
    clip = features(4, GRID)
    state, parts = None, []
    for frame in range(4):
        tokens, state = reducer.push(part(clip, frame, frame + 1), state)
        parts.append(tokens)
        state = AnchorState.from_tensors(state.tensors())
    assert_same(concatenate([*parts, reducer.finish(state)]), reducer.compress_clips([clip])[0])
