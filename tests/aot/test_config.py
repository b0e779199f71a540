"""Constants: the range of each, and what `for_retention` makes of one number."""

from dataclasses import fields
from statistics import mean

import pytest

from aot import AOTConfig, ClipCompressor, InvalidConfig, pooled_grid
from tests.aot.support import features

WRONG = {
    "anchors_per_frame": [0, -1, 1.5, True],
    "global_fraction": [-0.1, 1.1, float("nan")],
    "window": [0, 2.5, None],
    "position_weight": [-1.0, float("inf"), 50.0],
    "nearest_blend": [-0.1, 1.5],
    "epsilon": [0.0, -0.1, float("nan"), 0.01],
    "max_iterations": [0, 1e9],
    "tolerance": [-1e-9, "0.01"],
    "spatial_scale": [-1.0],
    "distinct_fraction": [-0.1, 1.01, None],
    "time_sigma": [0.0],
    "temporal_scale": [-1.0],
    "clip_frames": [0, 40_000, 4.0],
    "merge_frames": [1, "yes", None],
    "pooling": ["max", "cubic", None],
    "pool_stride": [0],
    "pool_threshold": [0.0, 1.1],
    "keep_rule": ["absolute", None],
    "keep_threshold": [-0.1, 3.0],
}


def test_every_constant_is_checked_here():
    assert set(WRONG) == {field.name for field in fields(AOTConfig)}


def unchecked(name: str, value: object) -> AOTConfig:
    """What a program gets, which runs without the tests' own checks of types."""
    config = object.__new__(AOTConfig)
    for field in fields(AOTConfig):
        object.__setattr__(config, field.name, field.default)
    object.__setattr__(config, name, value)
    config.__post_init__()
    return config


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_constant_outside_its_range_is_refused_by_name(name, value):
    with pytest.raises(InvalidConfig) as caught:
        unchecked(name, value)
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("retention", [0.0, -0.1, 1.01, float("nan")])
def test_retention_outside_its_range_is_refused(retention):
    with pytest.raises(InvalidConfig, match="retention must be above 0 and at most 1, got"):
        AOTConfig.for_retention(retention)


@pytest.mark.parametrize("grid", [(27, 27), (14, 14), (24, 24), (7, 12)], ids=str)
@pytest.mark.parametrize("frames", [1, 4, 8])
@pytest.mark.parametrize(
    ("retention", "band"), [(0.05, 0.45), (0.1, 0.35), (0.25, 0.25), (0.5, 0.15)]
)
def test_measured_retention_is_near_the_nominal_one(grid, frames, retention, band):
    """The band is relative, for the mean over scattered and clustered attention."""
    config = AOTConfig.for_retention(retention, grid=grid, clip_frames=frames)
    rows, columns = pooled_grid(grid)
    clips = [
        features(frames, grid, dim=4, seed=seed, smooth=smooth)
        for seed in range(4)
        for smooth in (False, True)
    ]
    kept = mean(len(tokens) for tokens in ClipCompressor(config).compress_clips(clips))
    one_token = 1 / (rows * columns)
    assert kept / (frames * rows * columns) == pytest.approx(retention, rel=band, abs=one_token)


def test_retention_rises_with_the_dial():
    anchors = [AOTConfig.for_retention(step / 20).anchors_per_frame for step in range(1, 11)]
    assert anchors == sorted(anchors)
    assert anchors[0] < anchors[-1]


def test_a_given_count_stays_and_the_other_follows():
    few = AOTConfig.for_retention(0.15, anchors_per_frame=108)
    many = AOTConfig.for_retention(0.15, anchors_per_frame=180)
    assert (few.anchors_per_frame, many.anchors_per_frame) == (108, 180)
    assert few.distinct_fraction > many.distinct_fraction
    kept = AOTConfig.for_retention(0.15, distinct_fraction=0.9)
    assert kept.distinct_fraction == 0.9
    assert kept.anchors_per_frame < AOTConfig.for_retention(0.15).anchors_per_frame


def test_other_constants_pass_through():
    config = AOTConfig.for_retention(0.1, time_sigma=2.0, pooling="average", clip_frames=4)
    assert (config.time_sigma, config.pooling, config.clip_frames) == (2.0, "average", 4)
