"""A clip's tokens: mass, columns, pushing in any groups, purity, the identity."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot import (
    AOTConfig,
    ClipCompressor,
    ClipState,
    ClipTokens,
    FrameFeatures,
    TokenKind,
    compress_clip,
    concatenate,
    merge_within_frame,
    pool_grid,
    pool_mask,
    select_anchors,
)
from tests.aot.support import features, part

GRID, CELLS = (6, 6), 9
SCATTERED = AOTConfig(anchors_per_frame=3, window=3, global_fraction=1.0)
"""So few anchors that many frames keep no cell."""
USUAL = AOTConfig(anchors_per_frame=16, window=3)


def push_in_groups(
    clip: FrameFeatures, cuts: list[int], config: AOTConfig
) -> tuple[ClipTokens, ClipState]:
    compressor, state, parts, start = ClipCompressor(config), None, [], 0
    for end in [*cuts, clip.tokens.shape[0]]:
        emitted, state = compressor.push(part(clip, start, end), state)
        parts, start = [*parts, emitted], end
    assert state is not None
    return concatenate([*parts, compressor.finish(state, clip.tokens.dtype)]), state


def assert_same(actual: ClipTokens, expected: ClipTokens) -> None:
    for name in ("frame", "cell", "kind"):
        assert getattr(actual, name).tolist() == getattr(expected, name).tolist()
    torch.testing.assert_close(actual.tokens, expected.tokens, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(actual.mass, expected.mass, rtol=1e-5, atol=1e-5)


@settings(max_examples=40)
@given(
    frames=st.integers(1, 9),
    cuts=st.sets(st.integers(1, 8)),
    seed=st.integers(0, 10_000),
    scattered=st.booleans(),
    rule=st.sampled_from(["quantile", "plan", "cost"]),
)
def test_mass_adds_up_to_the_cells_that_went_in(frames, cuts, seed, scattered, rule):
    constants = {"anchors_per_frame": 3 if scattered else 16, "window": 3, "keep_rule": rule}
    clip = features(frames, GRID, seed=seed, smooth=not scattered)
    tokens, _ = push_in_groups(clip, sorted(c for c in cuts if c < frames), AOTConfig(**constants))
    if len(tokens):  # a clip none of whose frames keeps a token gives none
        torch.testing.assert_close(tokens.mass.sum(), torch.tensor(float(frames * CELLS)))
        assert (tokens.mass > 0).all()


def test_frames_that_keep_nothing_are_there_in_these_tests():
    clip = features(9, GRID, smooth=False)
    maps = clip.local_attention, clip.global_attention
    kept = pool_mask(select_anchors(*maps, GRID, SCATTERED), GRID).any(dim=1)
    assert 0 < kept.sum() < 9


def test_a_clip_without_any_kept_token_gives_none_and_goes_on():
    clip = features(9, GRID, smooth=False)
    maps = clip.local_attention, clip.global_attention
    kept = pool_mask(select_anchors(*maps, GRID, SCATTERED), GRID).any(dim=1).tolist()
    empty, full = kept.index(False), kept.index(True)
    compressor = ClipCompressor(SCATTERED)
    emitted, state = compressor.push(part(clip, empty, empty + 1))
    assert len(emitted) == len(compressor.finish(state)) == 0
    emitted, state = compressor.push(part(clip, full, full + 1), state)
    assert set(emitted.frame.tolist()) == {1}
    assert set(emitted.kind.tolist()) == {TokenKind.KEYFRAME}
    torch.testing.assert_close(emitted.mass.sum(), torch.tensor(2.0 * CELLS))


def test_merged_anchors_are_counted_once():
    tokens = compress_clip(features(4, GRID), USUAL)
    mass = {kind: float(tokens.mass[tokens.kind == kind].sum()) for kind in TokenKind}
    assert mass[TokenKind.KEYFRAME] == pytest.approx(CELLS)
    assert mass[TokenKind.DISTINCT] + mass[TokenKind.MERGED] == pytest.approx(3 * CELLS)
    assert (tokens.kind == TokenKind.KEYFRAME).sum() == (tokens.kind == TokenKind.MERGED).sum()


def test_columns_tell_frame_cell_and_kind_in_reading_order():
    tokens = compress_clip(features(4, GRID), USUAL)
    kinds = tokens.kind.tolist()
    assert kinds == sorted(kinds)  # keyframe, distinct, merged
    later = tokens.kind == TokenKind.DISTINCT
    frames = tokens.frame[later].tolist()
    assert frames == sorted(frames)
    assert set(frames) == {1, 2, 3}
    assert set(tokens.frame[~later].tolist()) == {0}
    for frame in range(4):
        cells = tokens.cell[(tokens.frame == frame) & (tokens.kind != TokenKind.MERGED)]
        assert (cells.diff() > 0).all()
        assert 0 <= cells.min() <= cells.max() < CELLS
    assert tokens.grid == (3, 3)


def test_distinct_tokens_come_out_as_the_within_frame_stage_left_them():
    clip = features(3, GRID)
    maps = clip.local_attention, clip.global_attention
    anchors = select_anchors(*maps, GRID, USUAL)
    pooled = pool_grid(merge_within_frame(clip.tokens, anchors, GRID, USUAL), GRID)
    tokens = compress_clip(clip, USUAL)
    plain = tokens.kind != TokenKind.MERGED
    expected = pooled[tokens.frame[plain], tokens.cell[plain]]
    torch.testing.assert_close(tokens.tokens[plain], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cuts", [[], [1], [1, 2, 3, 4, 5, 6], [2, 3], [5]], ids=str)
@pytest.mark.parametrize("config", [USUAL, SCATTERED], ids=["usual", "scattered"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pushing_in_groups_changes_nothing(cuts, config, dtype):
    clip = features(7, GRID, smooth=config is USUAL, dtype=dtype)
    assert_same(push_in_groups(clip, cuts, config)[0], compress_clip(clip, config))


def test_neighbours_in_the_batch_change_nothing():
    compressor = ClipCompressor(USUAL)
    clips = [features(frames, GRID, seed=frames) for frames in (5, 1, 3, 8)]
    states = [None, None, compressor.push(features(2, GRID, seed=9))[1], None]
    together = compressor.push_many(clips, states)
    for clip, state, (emitted, after) in zip(clips, states, together, strict=True):
        alone, alone_after = compressor.push(clip, state)
        assert_same(emitted, alone)
        assert_same(compressor.finish(after), compressor.finish(alone_after))
        assert after.position == alone_after.position


def test_one_batch_for_an_accelerator_gives_what_clip_by_clip_gives(monkeypatch):
    clips = [features(frames, GRID, seed=frames) for frames in (3, 1, 4)]
    compressor = ClipCompressor(USUAL)
    apart = compressor.compress_clips(clips)
    monkeypatch.setattr("aot.seam.wants_one_batch", lambda tokens: True)
    for one, expected in zip(compressor.compress_clips(clips), apart, strict=True):
        assert_same(one, expected)


def test_a_push_writes_to_nothing_it_was_given():
    compressor = ClipCompressor(USUAL)
    clip = features(3, GRID)
    _, state = compressor.push(features(2, GRID, seed=1))
    values = [getattr(clip, n) for n in ("tokens", "local_attention", "global_attention")]
    values += [getattr(state, n) for n in ("anchors", "cell", "mass")]
    before = [value.clone() for value in values]
    first, after = compressor.push(clip, state)
    again, after_again = compressor.push(clip, state)
    assert all(torch.equal(*pair) for pair in zip(values, before, strict=True))
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(after.anchors, after_again.anchors)


def test_outputs_share_no_memory_with_inputs():
    clip = features(2, GRID)
    config = AOTConfig.for_retention(1.0, grid=GRID, pooling="none")
    tokens = compress_clip(clip, config)
    tokens.tokens.zero_()
    assert clip.tokens.abs().sum() > 0


def test_the_state_has_one_shape_whatever_it_holds():
    compressor = ClipCompressor(USUAL)
    emitted, state = compressor.push(features(8, GRID, dim=32))
    other = compressor.push(features(1, GRID, dim=32, seed=3))[1]
    shapes = [{name: v.shape for name, v in s.columns.items()} for s in (state, other)]
    assert shapes[0] == shapes[1]
    assert state.anchors.shape == (1, CELLS, 32)
    assert state.count.tolist() == [(emitted.kind == TokenKind.KEYFRAME).sum()]


@pytest.mark.parametrize("pooling", ["bilinear", "average", "none"])
def test_retention_one_is_the_identity(pooling):
    clip = features(3, (7, 5))
    config = AOTConfig.for_retention(1.0, grid=(7, 5), clip_frames=3, pooling=pooling)
    tokens = compress_clip(clip, config)
    expected = pool_grid(clip.tokens, (7, 5), pooling)
    assert torch.equal(tokens.tokens, expected.flatten(0, 1))
    assert tokens.frame.tolist() == [f for f in range(3) for _ in range(expected.shape[1])]
    assert tokens.cell.tolist() == list(range(expected.shape[1])) * 3
    assert tokens.mass.unique().tolist() == [1.0]
    assert TokenKind.MERGED not in tokens.kind.tolist()


def test_without_merging_the_state_holds_no_anchors():
    compressor = ClipCompressor(AOTConfig(anchors_per_frame=16, window=3, merge_frames=False))
    emitted, state = compressor.push(features(3, GRID))
    assert state.anchors.shape[1] == len(compressor.finish(state)) == 0
    torch.testing.assert_close(emitted.mass.sum(), torch.tensor(3.0 * CELLS))
    more, _ = compressor.push(features(1, GRID), state)
    assert set(more.kind.tolist()) == {TokenKind.DISTINCT}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_keep_their_dtype_and_the_kept_sets_of_float32(dtype):
    clip = features(4, GRID, dtype=dtype)
    wide = FrameFeatures(
        clip.tokens.float(), clip.local_attention.float(), clip.global_attention.float(), GRID
    )
    ours, exact = compress_clip(clip, USUAL), compress_clip(wide, USUAL)
    assert ours.tokens.dtype == dtype
    assert ours.cell.tolist() == exact.cell.tolist()
    torch.testing.assert_close(ours.tokens, exact.tokens.to(dtype))


def test_tokens_without_contiguous_memory_are_taken():
    clip = features(2, GRID, dim=16)
    sliced = FrameFeatures(
        clip.tokens[:, :, ::2], clip.local_attention, clip.global_attention, GRID
    )
    packed = FrameFeatures(
        clip.tokens[:, :, ::2].contiguous(), clip.local_attention, clip.global_attention, GRID
    )
    assert_same(compress_clip(sliced, USUAL), compress_clip(packed, USUAL))
