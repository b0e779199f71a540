"""The contract of every reducer, and what the simple ones do."""

import pytest
import torch

from aot import (
    REDUCERS,
    AOTError,
    Reducer,
    TokenKind,
    concatenate,
    make_reducer,
    pool_grid,
)
from tests.aot.support import features, part

GRID, CELLS, FRAMES = (8, 8), 16, 4


@pytest.fixture(params=sorted(REDUCERS))
def reducer(request) -> Reducer:
    return make_reducer(request.param, 0.25, grid=GRID, clip_frames=FRAMES)


def whole_clips_only(reducer: Reducer) -> bool:
    try:
        reducer.push_many([features(2, GRID, dim=16)], [None])
    except AOTError as error:
        return error.code == "NotIncremental"
    return False


def test_it_is_a_reducer(reducer):
    assert isinstance(reducer, Reducer)


def test_columns_agree_with_each_other(reducer):
    clip = features(FRAMES, GRID, dim=16)
    [tokens] = reducer.compress_clips([clip])
    assert 0 < len(tokens) <= 2 * FRAMES * CELLS
    assert tokens.tokens.shape == (len(tokens), 16)
    assert tokens.tokens.dtype == clip.tokens.dtype
    assert torch.isfinite(tokens.tokens).all()
    assert tokens.grid == (4, 4)
    assert 0 <= int(tokens.frame.min()) <= int(tokens.frame.max()) < FRAMES
    assert 0 <= int(tokens.cell.min()) <= int(tokens.cell.max()) < CELLS
    assert set(tokens.kind.tolist()) <= set(TokenKind)
    assert (tokens.mass > 0).all()


def test_mass_adds_up_to_what_went_in(reducer):
    [tokens] = reducer.compress_clips([features(FRAMES, GRID, dim=16)])
    torch.testing.assert_close(tokens.mass.sum().float(), torch.tensor(float(FRAMES * CELLS)))


def test_pushes_give_what_the_whole_clip_gives(reducer):
    if whole_clips_only(reducer):
        pytest.skip("this reducer says that it needs whole clips")
    clip = features(FRAMES, GRID, dim=16)
    [whole] = reducer.compress_clips([clip])
    state, parts = None, []
    for start, end in ((0, 1), (1, 3), (3, FRAMES)):
        [(emitted, state)] = reducer.push_many([part(clip, start, end)], [state])
        parts.append(emitted)
    pushed = concatenate([*parts, reducer.finish(state)])
    assert pushed.cell.tolist() == whole.cell.tolist()
    assert pushed.frame.tolist() == whole.frame.tolist()
    torch.testing.assert_close(pushed.tokens, whole.tokens, rtol=1e-5, atol=1e-5)


def test_clips_do_not_see_each_other(reducer):
    clips = [features(FRAMES, GRID, dim=16, seed=seed) for seed in range(3)]
    for alone, together in zip(
        [reducer.compress_clips([clip])[0] for clip in clips],
        reducer.compress_clips(clips),
        strict=True,
    ):
        assert alone.cell.tolist() == together.cell.tolist()
        torch.testing.assert_close(alone.tokens, together.tokens, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(REDUCERS))
@pytest.mark.parametrize("retention", [0.1, 0.25, 0.5])
def test_measured_retention_follows_the_dial(name, retention):
    grid, cells = (16, 16), 64
    reducer = make_reducer(name, retention, grid=grid, clip_frames=8)
    clips = [features(8, grid, dim=16, seed=seed) for seed in range(3)]
    kept = sum(len(tokens) for tokens in reducer.compress_clips(clips)) / (3 * 8 * cells)
    assert kept == pytest.approx(1.0 if name == "none" else retention, rel=0.35)


def test_none_is_the_identity():
    clip = features(FRAMES, GRID)
    [tokens] = make_reducer("none", grid=GRID).compress_clips([clip])
    assert torch.equal(tokens.tokens, pool_grid(clip.tokens, GRID).flatten(0, 1))
    assert tokens.mass.unique().tolist() == [1.0]


def test_uniform_spreads_its_cells_evenly():
    clip = features(1, GRID)
    [tokens] = make_reducer("uniform", 0.25, grid=GRID).compress_clips([clip])
    assert tokens.cell.tolist() == [2, 6, 10, 14]
    assert tokens.mass.tolist() == [4.0] * 4


def test_random_is_decided_by_its_seed():
    clip = features(2, GRID)
    chosen = [
        make_reducer("random", 0.25, grid=GRID, seed=seed).compress_clips([clip])[0].cell.tolist()
        for seed in (1, 1, 2)
    ]
    assert chosen[0] == chosen[1] != chosen[2]


def test_an_empty_clip_is_refused(reducer):
    with pytest.raises(AOTError, match="0 frames"):
        reducer.compress_clips([part(features(1, GRID, dim=16), 0, 0)])


def test_features_that_are_not_finite_are_refused(reducer):
    clip = features(2, GRID, dim=16)
    clip.tokens[1, 3, 0] = float("nan")
    with pytest.raises(AOTError, match="NaN or infinity"):
        reducer.compress_clips([clip])
