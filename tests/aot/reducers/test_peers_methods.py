"""What each peer is for: the attended, the alike, the changed, the still."""

import pytest
import torch

from aot import AOTConfig, FrameFeatures
from aot.reducers.cells import CellBatch, CellFeatures, count_clip, count_frame
from aot.reducers.peers import PEERS
from aot.reducers.peers_spatial import average_into, merge_clip, zip_frames
from aot.reducers.peers_temporal import cut_segments, merge_segments, prune_static

GRID = (4, 5)
CELLS = 20


def make_cells(tokens, attention=None):
    flat = torch.ones(tokens.shape[:2]) if attention is None else attention
    return CellFeatures(tokens, flat, flat, GRID, tokens.dtype)


def draw(frames=6, dim=8, seed=0):
    return torch.randn(frames, CELLS, dim, generator=torch.Generator().manual_seed(seed))


def still(frames=6):
    return draw(1).expand(frames, -1, -1).clone()


@pytest.mark.parametrize("retention", [0.03, 0.07, 0.1, 0.33, 1.0])
def test_frames_add_up_to_the_clip(retention):
    counts = [count_frame(retention, 49, position) for position in range(8)]
    assert sum(counts) == count_clip(retention, 8 * 49)
    assert max(counts) - min(counts) <= 1


def zip_frame(tokens, attention, dominant, contextual):
    """What is kept of one frame: cells, tokens, masses."""
    cells = CellBatch(tokens[None], attention[None], attention[None], GRID)
    counts = (torch.tensor([[count]]) for count in (dominant, contextual))
    result = zip_frames(cells, *counts, most=contextual + 2)
    kept = result.kept[0, 0]
    return kept.nonzero()[:, 0].tolist(), result.tokens[0, 0][kept], result.mass[0, 0][kept]


def test_visionzip_keeps_the_most_attended():
    attention = torch.zeros(1, CELLS)
    attention[0, [3, 8, 13]] = torch.tensor([5.0, 7.0, 6.0])
    tokens = draw(1)
    cell, kept, mass = zip_frame(tokens, attention, 3, 2)
    assert {3, 8, 13} < set(cell)
    assert len(cell) == 5
    for dominant in (3, 8, 13):
        assert torch.equal(kept[cell.index(dominant)], tokens[0, dominant])
        assert mass[cell.index(dominant)] == 1


def test_visionzip_averages_the_rest_into_the_contextual_tokens():
    tokens = draw(1)
    cell, kept, mass = zip_frame(tokens, torch.ones(1, CELLS), 3, 3)
    assert cell == [0, 1, 2, 3 + 2, 3 + 8, 3 + 14]  # evenly spaced among the other 17
    assert torch.allclose((kept * mass[:, None]).sum(dim=0), tokens[0].sum(dim=0), atol=1e-5)
    assert mass.sum() == CELLS


def test_members_go_to_the_target_they_are_most_like():
    tokens = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.2, 3.0]])
    members, targets = torch.arange(4), torch.tensor([0, 1])
    merged, mass = average_into(tokens, torch.ones(4), members, targets)
    assert mass.tolist() == [2, 2]
    assert torch.allclose(merged, torch.tensor([[0.95, 0.05], [0.1, 2.0]]))


@pytest.mark.parametrize("step_share", [0.05, 0.5])
def test_tome_keeps_the_sum_of_all_tokens(step_share):
    tokens = draw()
    kept = merge_clip(make_cells(tokens), 17, step_share)
    total = (kept.tokens * kept.mass[:, None]).sum(dim=0)
    assert torch.allclose(total, tokens.flatten(0, 1).sum(dim=0), atol=1e-4)
    assert len(kept.cell) == 17


def test_tome_merges_equal_tokens_before_others():
    tokens = draw(1)
    tokens[0, 1::2] = tokens[0, 0::2]
    kept = merge_clip(make_cells(tokens), 10, 0.5)
    assert torch.allclose(kept.mass, torch.full((10,), 2.0))
    assert torch.allclose(kept.tokens, tokens[0, 1::2], atol=1e-6)


def test_temporal_difference_keeps_what_changed():
    tokens = still()
    tokens[3, 7] = -tokens[3, 7]
    kept = prune_static(make_cells(tokens), 12, first_share=5 / 6)
    later = [(int(f), int(c)) for f, c in zip(kept.frame, kept.cell, strict=True) if f > 0]
    # It changed when it came, and again when it went.
    assert sorted(later) == [(3, 7), (4, 7)]


def test_temporal_difference_gives_the_first_frame_its_share():
    kept = prune_static(make_cells(draw()), 20, first_share=0.25)
    assert int((kept.frame == 0).sum()) == 5


def test_segments_end_where_the_picture_changes():
    tokens = torch.cat([still(3), -still(4)])
    assert cut_segments(make_cells(tokens), 0.8) == [(0, 3), (3, 7)]


def test_holitom_merges_still_cells_over_their_segment():
    tokens = torch.cat([still(3), -still(3)])
    kept = merge_segments(make_cells(tokens), 40, 0.8, 0.0)
    assert sorted(set(kept.frame.tolist())) == [0, 3]
    assert kept.mass.tolist() == [3.0] * 40


def test_holitom_keeps_attended_cells_of_what_moves():
    attention = torch.ones(6, CELLS)
    attention[4, 11] = 9
    kept = merge_segments(make_cells(draw(), attention), 6, 0.8, 0.0)
    assert (4, 11) in list(zip(kept.frame.tolist(), kept.cell.tolist(), strict=True))


def test_holitom_meets_the_budget_of_a_still_clip():
    kept = merge_segments(make_cells(still()), 60, 0.8, 0.2)
    assert len(kept.cell) == 60


def compress(name, retention, tokens, **constants):
    flat = torch.ones(tokens.shape[:2])
    clip = FrameFeatures(tokens, flat, flat, GRID)
    config = AOTConfig(pooling="none", **constants)
    return PEERS[name](retention, config).compress_clips([clip])[0]


def test_frame_skip_spreads_whole_frames():
    tokens = compress("frame_skip", 0.25, draw(8), clip_frames=8)
    kept = torch.bincount(tokens.frame, minlength=8)
    assert kept.tolist() == [0, 0, CELLS, 0, 0, 0, CELLS, 0]


def test_mean_pool_of_one_cell_is_the_mean_of_the_frame():
    tokens = draw(1)
    kept = compress("mean_pool", 1 / CELLS, tokens)
    assert torch.allclose(kept.tokens, tokens[0].mean(dim=0, keepdim=True), atol=1e-6)
    assert kept.mass.tolist() == [CELLS]
