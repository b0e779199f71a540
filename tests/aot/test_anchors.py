"""Selection and pooling: counts, windows, ties, purity."""

import pytest
import torch

from aot import AOTConfig, count_anchors, pool_grid, pool_mask, pooled_grid, select_anchors


@pytest.mark.parametrize(
    ("wanted", "fraction", "got"),
    [(108, 0.5, 108), (126, 0.5, 126), (100, 0.5, 95), (176, 0.5, 169), (196, 0.5, 188),
     (205, 0.5, 202), (131, 0.4, 125)],
)  # fmt: skip
def test_the_reference_rounds_local_anchors_down(wanted, fraction, got):
    config = AOTConfig(anchors_per_frame=wanted, global_fraction=fraction)
    per_window, num_global = count_anchors((27, 27), config)
    assert 9 * per_window + num_global == got
    mask = select_anchors(torch.rand(3, 729), torch.rand(3, 729), (27, 27), config)
    assert mask.sum(1).tolist() == [got] * 3


@pytest.mark.parametrize("fraction", [1.0, 0.95])
def test_no_local_anchors_is_no_error(fraction):
    config = AOTConfig(anchors_per_frame=20, global_fraction=fraction)
    deep = torch.rand(2, 729)
    mask = select_anchors(torch.rand(2, 729), deep, (27, 27), config)
    per_window, num_global = count_anchors((27, 27), config)
    assert per_window == 0
    assert mask.sum(1).tolist() == [num_global] * 2


def test_small_windows_at_the_edges_give_what_they_have():
    config = AOTConfig(anchors_per_frame=24, window=4, global_fraction=0.0)
    mask = select_anchors(torch.rand(2, 25), torch.rand(2, 25), (5, 5), config)
    blocks = mask.view(2, 5, 5)
    assert (blocks[:, :4, :4].sum((1, 2)) == 6).all()
    assert (blocks[:, 4:, 4:].sum((1, 2)) == 1).all()  # one patch, asked for six


def test_ties_go_to_the_lowest_index():
    config = AOTConfig(anchors_per_frame=6, window=3, global_fraction=0.5)
    mask = select_anchors(torch.ones(1, 9), torch.ones(1, 9), (3, 3), config)
    assert mask[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_selection_leaves_the_maps_as_they_were():
    maps = torch.rand(2, 36), torch.rand(2, 36)
    before = [values.clone() for values in maps]
    select_anchors(*maps, (6, 6), AOTConfig(anchors_per_frame=16, window=3))
    assert all(torch.equal(*pair) for pair in zip(maps, before, strict=True))


def test_a_global_anchor_is_never_a_local_one_even_where_deep_attention_is_zero():
    config = AOTConfig(anchors_per_frame=16, window=3)
    mask = select_anchors(torch.rand(4, 36), torch.zeros(4, 36), (6, 6), config)
    assert mask.sum(1).tolist() == [16] * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_are_taken(dtype):
    config = AOTConfig(anchors_per_frame=16, window=3)
    maps = torch.rand(2, 36).to(dtype), torch.rand(2, 36).to(dtype)
    mask = select_anchors(*maps, (6, 6), config)
    assert torch.equal(mask, select_anchors(maps[0].float(), maps[1].float(), (6, 6), config))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("bilinear", (14, 14)), ("average", (13, 13)), ("max", (13, 13)), ("none", (27, 27))],
)
def test_pooled_grids_of_the_model_families(mode, expected):
    assert pooled_grid((27, 27), mode) == expected
    assert pool_grid(torch.rand(1, 729, 2), (27, 27), mode).shape[1] == expected[0] * expected[1]


@pytest.mark.parametrize("mode", ["bilinear", "average", "none"])
def test_pooling_keeps_a_constant_and_a_full_mask(mode):
    pooled = pool_grid(torch.full((1, 35, 2), 3.0), (7, 5), mode)
    torch.testing.assert_close(pooled, torch.full_like(pooled, 3.0))
    assert pool_mask(torch.ones(1, 35, dtype=torch.bool), (7, 5), mode).all()
