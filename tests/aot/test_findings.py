"""Findings about the published code that no other test covers (docs/method.md lists them all)."""

import pytest
import torch

from aot import (
    AOTConfig,
    FrameFeatures,
    FrameTokens,
    TokenKind,
    compress_clip,
    merge_across_frames,
    merge_within_frame,
    select_anchors,
)
from aot.clip_batch import Schedule, StepTokens
from aot.matching import find_thinnest, prepare_frames
from tests.aot.support import features

GRID = (6, 6)
CONFIG = AOTConfig(anchors_per_frame=16, window=3)


def test_zero_tokens_and_whole_zero_frames_stay_finite():
    clip = features(3, GRID)
    clip.tokens[1] = 0.0
    clip.tokens[2, ::2] = 0.0
    tokens = compress_clip(clip, CONFIG)
    assert torch.isfinite(tokens.tokens).all()
    torch.testing.assert_close(tokens.mass.sum(), torch.tensor(27.0))


def test_opposite_tokens_in_float16_get_a_plan():
    """Their cost of 2.7 makes exp(-27), zero in float16: a row of zeros, then NaN."""
    direction = torch.randn(8)
    sign = torch.ones(36)
    sign[18:] = -1
    tokens = (sign[:, None] * direction).half()[None]
    anchors = torch.zeros(1, 36, dtype=torch.bool)
    anchors[0, :4] = True
    merged = merge_within_frame(tokens, anchors, GRID, CONFIG)
    assert torch.isfinite(merged).all()
    assert not torch.equal(merged[anchors], tokens[anchors])


def test_tokens_tied_at_the_quantile_are_all_merged():
    """Equal vectors, as grid newlines are, have equal shares up to rounding."""
    first, repeated = torch.randn(6, 16), torch.randn(1, 16)
    novel = torch.randn(2, 16)
    frames = [
        FrameTokens(rows, torch.arange(len(rows)), torch.ones(len(rows)))
        for rows in (first, torch.cat([repeated.expand(9, -1), novel]))
    ]
    for fraction in (0.3, 0.5, 0.7):
        clip = merge_across_frames(frames, AOTConfig(distinct_fraction=fraction))
        distinct = clip.cell[clip.kind == TokenKind.DISTINCT].tolist()
        assert set(distinct) <= {9, 10} or set(distinct) >= set(range(9))


def test_as_many_anchors_as_tokens_selects_and_merges_nothing():
    clip = features(2, GRID)
    config = AOTConfig(anchors_per_frame=36, window=3)  # windows alone would give 16 + 18
    maps = clip.local_attention, clip.global_attention
    anchors = select_anchors(*maps, GRID, config)
    assert anchors.all()
    assert torch.equal(merge_within_frame(clip.tokens, anchors, GRID, config), clip.tokens)


def test_the_scale_of_each_stage_has_its_own_name():
    clip = features(3, GRID, change=1.0)
    usual = compress_clip(clip, CONFIG).tokens
    for name in ("spatial_scale", "temporal_scale"):
        other = compress_clip(clip, AOTConfig(anchors_per_frame=16, window=3, **{name: 50.0}))
        assert other.tokens.shape == usual.shape
        assert not torch.allclose(other.tokens, usual, atol=1e-3)


def test_a_single_frame_is_reduced_and_nothing_comes_twice():
    tokens = compress_clip(features(1, GRID), CONFIG)
    assert set(tokens.kind.tolist()) == {TokenKind.KEYFRAME}
    assert len(set(tokens.cell.tolist())) == len(tokens)


def test_the_clock_is_the_position_in_the_clip():
    """Later frames are matched more sharply; a wider time kernel puts that off."""
    clip = features(2, GRID, change=1.0)
    still = FrameFeatures(clip.tokens, clip.local_attention, clip.global_attention, GRID)
    near = compress_clip(still, CONFIG).tokens
    late = compress_clip(still, AOTConfig(anchors_per_frame=16, window=3, time_sigma=0.3)).tokens
    assert not torch.allclose(near[-4:], late[-4:], atol=1e-4)


@pytest.mark.parametrize(("gap", "kept"), [(1e-5, [0]), (1e-7, [0]), (1e-13, []), (0.0, [])])
def test_near_ties_at_the_quantile_are_told_from_ties(gap, kept):
    """The reference keeps what lies below by any difference; rounding makes one of 1e-14."""
    best = torch.tensor([[0.3 * (1 - gap), 0.3, 0.5, 0.6]], dtype=torch.float64)
    present = torch.ones(1, 1, 4, dtype=torch.bool)
    steps = Schedule(
        starts=~present[:, :, 0],
        follows=present[:, :, 0],
        position=torch.ones(1, 1, dtype=torch.int64),
        passed=torch.zeros(1, dtype=torch.int64),
        keyframe=torch.zeros(1, dtype=torch.int64),
        end=torch.full((1,), 2),
    )
    batch = StepTokens(torch.ones(1, 1, 4, 2), torch.zeros(1, 1, 4).long(), best[None], present)
    frame = prepare_frames(batch, steps, AOTConfig(distinct_fraction=1 / 3)).at(0)
    assert find_thinnest(best, frame)[0].nonzero()[:, 0].tolist() == kept
