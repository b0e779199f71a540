"""The seam's contract on every peer: budgets met exactly, mass kept, pushes where causal."""

import pytest
import torch

from aot import AOTConfig, ClipTokens, FrameFeatures, InvalidConfig, NotIncremental, make_reducer
from aot.pooling import pool_grid
from aot.reducers.frames import FrameReducer
from aot.reducers.peers import PEERS

GRID = (10, 12)
CELLS = 5 * 6
CAUSAL = ("frame_skip", "mean_pool", "visionzip")
WHOLE = ("tome", "temporal_difference", "holitom")
EXACT = ("frame_skip", "visionzip", *WHOLE, "random", "uniform", "adaptive")
ALL = (*PEERS, "random", "uniform", "adaptive", "none")
RETENTIONS = (0.5, 0.25, 0.15, 0.1, 0.05)


def draw_clip(frames=8, seed=0, dtype=torch.float32, dim=16):
    """A still background with noise, and a few cells that change at every frame."""
    generator = torch.Generator().manual_seed(seed)
    number = GRID[0] * GRID[1]
    still = torch.randn(1, number, dim, generator=generator)
    tokens = still + 0.1 * torch.randn(frames, number, dim, generator=generator)
    for frame in range(frames):
        tokens[frame, 7 * frame : 7 * frame + 4] = torch.randn(4, dim, generator=generator)
    maps = torch.rand(2, frames, number, generator=generator) * 2
    return FrameFeatures(tokens.to(dtype), maps[0], maps[1], GRID)


def reducer(name, retention=0.1):
    return make_reducer(name, retention, grid=GRID)


def cut(clip, start, end):
    return FrameFeatures(
        clip.tokens[start:end],
        clip.local_attention[start:end],
        clip.global_attention[start:end],
        clip.grid,
    )


def same(one: ClipTokens, other: ClipTokens) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("tokens", "frame", "cell", "mass", "kind")
    )


def pushed(name, clip, sizes, retention=0.1):
    """Tokens of every push, one list entry each."""
    made, state, start, parts = reducer(name, retention), None, 0, []
    for size in sizes:
        [(tokens, state)] = made.push_many([cut(clip, start, start + size)], [state])
        parts.append(tokens)
        start += size
    return parts, made.finish(state)


@pytest.mark.parametrize("retention", RETENTIONS)
@pytest.mark.parametrize("name", EXACT)
def test_budget_is_met_to_the_token(name, retention):
    [tokens] = reducer(name, retention).compress_clips([draw_clip()])
    assert len(tokens) == round(retention * 8 * CELLS)


@pytest.mark.parametrize("retention", RETENTIONS)
def test_mean_pool_comes_near_the_budget(retention):
    [tokens] = reducer("mean_pool", retention).compress_clips([draw_clip()])
    assert abs(len(tokens) - retention * 8 * CELLS) <= 3


@pytest.mark.parametrize("name", ALL)
def test_all_tokens_are_kept_as_they_are_at_retention_one(name):
    clip = draw_clip(3)
    [tokens] = reducer(name, 1.0).compress_clips([clip])
    pooled = pool_grid(clip.tokens, GRID, "bilinear").flatten(0, 1)
    assert torch.allclose(tokens.tokens, pooled, atol=1e-6)
    assert torch.equal(tokens.frame * CELLS + tokens.cell, torch.arange(3 * CELLS))


@pytest.mark.parametrize("name", ALL)
def test_mass_adds_up_to_what_went_in(name):
    [tokens] = reducer(name, 0.15).compress_clips([draw_clip()])
    assert float(tokens.mass.sum()) == pytest.approx(8 * CELLS, rel=1e-5)
    assert bool((tokens.mass > 0).all())


@pytest.mark.parametrize("name", ALL)
def test_the_same_clip_gives_the_same_tokens(name):
    first, second = reducer(name), reducer(name)
    [one], [other] = first.compress_clips([draw_clip()]), second.compress_clips([draw_clip()])
    assert same(one, other)


@pytest.mark.parametrize("name", ALL)
def test_a_clip_does_not_depend_on_its_neighbours(name):
    clips = [draw_clip(seed=1), draw_clip(3, seed=2), draw_clip(seed=3)]
    together = reducer(name).compress_clips(clips)
    alone = [reducer(name).compress_clips([clip])[0] for clip in clips]
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_tokens_have_the_dtype_of_the_features_and_a_place_in_the_clip(name):
    [tokens] = reducer(name, 0.25).compress_clips([draw_clip(dtype=torch.bfloat16)])
    assert tokens.tokens.dtype == torch.bfloat16
    assert tokens.grid == (5, 6)
    assert 0 <= int(tokens.frame.min()) <= int(tokens.frame.max()) < 8
    assert 0 <= int(tokens.cell.min()) <= int(tokens.cell.max()) < CELLS


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_short_clips_are_reduced_too(name, frames):
    [tokens] = reducer(name, 0.5).compress_clips([draw_clip(frames)])
    assert 0 <= len(tokens) <= frames * CELLS


@pytest.mark.parametrize("name", [*CAUSAL, "random", "uniform", "adaptive"])
@pytest.mark.parametrize("sizes", [[1] * 8, [3, 1, 4], [7, 1]])
def test_pushes_of_any_size_give_the_same_tokens(name, sizes):
    clip = draw_clip()
    whole, last = pushed(name, clip, [8])
    parts, end = pushed(name, clip, sizes)
    for column in ("tokens", "frame", "cell", "mass", "kind"):
        joined = torch.cat([getattr(part, column) for part in parts])
        assert torch.equal(joined, getattr(whole[0], column)), column
    assert same(end, last)


@pytest.mark.parametrize("name", [*CAUSAL, "random", "uniform", "adaptive"])
def test_what_is_emitted_does_not_depend_on_later_frames(name):
    clip, other = draw_clip(seed=0), draw_clip(seed=5)
    mixed = FrameFeatures(
        *(
            torch.cat([getattr(cut(clip, 0, 5), column), getattr(cut(other, 5, 8), column)])
            for column in ("tokens", "local_attention", "global_attention")
        ),
        GRID,
    )
    before, after = (pushed(name, c, [5, 3])[0] for c in (clip, mixed))
    assert same(before[0], after[0])
    if name in ("visionzip", "mean_pool", "adaptive"):
        assert not same(before[1], after[1])


@pytest.mark.parametrize("name", WHOLE)
def test_who_needs_the_whole_clip_says_so(name):
    with pytest.raises(NotIncremental, match="use compress_clips"):
        reducer(name).push_many([draw_clip()], [None])


@pytest.mark.parametrize("name", PEERS)
def test_features_must_be_finite(name):
    clip = draw_clip()
    clip.tokens[3, 4, 5] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        reducer(name).compress_clips([clip])


@pytest.mark.parametrize(
    ("name", "constant"),
    [
        ("visionzip", "contextual_share"),
        ("tome", "step_share"),
        ("temporal_difference", "first_share"),
        ("holitom", "static_similarity"),
    ],
)
def test_shares_are_checked(name, constant):
    with pytest.raises(InvalidConfig, match=constant):
        PEERS[name](0.1, AOTConfig(), **{constant: 1.5})


def test_frame_reducers_hold_no_tokens_between_pushes():
    made = reducer("visionzip")
    assert isinstance(made, FrameReducer)
    [(_, state)] = made.push_many([draw_clip(3)], [None])
    assert set(state.columns) == {"position"}
    assert state.position.tolist() == [3]
