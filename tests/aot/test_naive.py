"""The reduction against the same method written as plain loops."""

import pytest
import torch

from aot import AOTConfig, FrameFeatures, TokenKind, compress_clip
from tests.aot import naive
from tests.aot.support import features


def assert_same(clip: FrameFeatures, config: AOTConfig) -> None:
    ours, expected = compress_clip(clip, config), naive.compress_clip(clip, config)
    assert len(ours) == len(expected) > 0
    assert ours.cell.tolist() == [token.cell for token in expected]
    assert ours.frame.tolist() == [token.frame for token in expected]
    assert [TokenKind(kind).name for kind in ours.kind.tolist()] == [t.kind for t in expected]
    values = torch.stack([token.values for token in expected])
    torch.testing.assert_close(ours.tokens, values, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("pooling", ["bilinear", "average"])
@pytest.mark.parametrize(
    ("grid", "window"),
    [((6, 6), 3), ((5, 5), 9), ((4, 8), 4), ((7, 5), 3), ((3, 9), 2)],
    ids=lambda value: str(value),
)
def test_grids_and_windows(grid, window, pooling):
    num_tokens = grid[0] * grid[1]
    config = AOTConfig(anchors_per_frame=num_tokens // 2, window=window, pooling=pooling)
    assert_same(features(3, grid, dtype=torch.float64), config)


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 9])
def test_clip_lengths(frames):
    config = AOTConfig(anchors_per_frame=12, window=3, distinct_fraction=0.4)
    assert_same(features(frames, (6, 6), dtype=torch.float64), config)


@pytest.mark.parametrize(
    "constants",
    [
        {"distinct_fraction": 0.0},
        {"distinct_fraction": 1.0},
        {"global_fraction": 0.0},
        {"global_fraction": 1.0},
        {"spatial_scale": 3.0, "temporal_scale": 0.5},
        {"nearest_blend": 1.0},
        {"nearest_blend": 0.0, "position_weight": 0.0},
        {"tolerance": 1e-9, "max_iterations": 40},
        {"epsilon": 0.3, "time_sigma": 4.0},
        {"pooling": "none"},
        {"anchors_per_frame": None},
        {"anchors_per_frame": 36},
    ],
    ids=str,
)
def test_constants(constants):
    config = AOTConfig(**{"anchors_per_frame": 16, "window": 3} | constants)
    assert_same(features(3, (6, 6), dtype=torch.float64), config)


def test_scene_cut_inside_a_clip_takes_more_iterations_and_still_agrees():
    clip = features(5, (6, 6), dtype=torch.float64, change=0.05)
    other = features(5, (6, 6), dtype=torch.float64, change=0.05, seed=1)
    tokens = torch.cat([clip.tokens[:4], -other.tokens[4:]])
    maps = clip.local_attention, clip.global_attention
    assert_same(FrameFeatures(tokens, *maps, clip.grid), AOTConfig(anchors_per_frame=16, window=3))


def test_frames_that_keep_nothing_are_passed_over():
    clip = features(6, (6, 6), dtype=torch.float64, smooth=False)
    config = AOTConfig(anchors_per_frame=3, window=3, global_fraction=1.0)
    ours = compress_clip(clip, config)
    assert len(set(ours.frame.tolist())) < 6  # some frames are empty here
    assert_same(clip, config)
