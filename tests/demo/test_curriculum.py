"""Attention without forbidden pairs is the masked square; what is badly answered is asked more."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from demo.miniature.attention import attend
from demo.miniature.sequence import SLOT_LENGTH, prefix_length
from demo.training.batches import draw_window
from demo.training.crops import (
    BLANK,
    CONTENT_KEPT,
    FRAMES_LEFT_OUT,
    LARGEST,
    PARTLY,
    REST_KEPT,
    TELLING,
    View,
    crop_scene,
    draw_inside,
    hide,
    pack,
)
from demo.training.curriculum import (
    Phase,
    Progress,
    find_phase,
    leave_out_repeated,
    pick,
    plan_phases,
)
from demo.training.pool import SeenScene
from demo.world.labels import IGNORE
from demo.world.questions import KINDS, Question
from demo.world.scenes import generate_scene, scatter_scene
from tests.demo.masks import block_mask


@pytest.mark.parametrize(("frames", "slots"), [(1, 1), (3, 4)])
def test_attention_is_that_of_the_masked_square(frames, slots):
    generator = torch.Generator().manual_seed(frames)
    length = prefix_length(frames) + slots * SLOT_LENGTH
    query, key, value = (torch.randn(2, 3, length, 8, generator=generator) for _ in range(3))
    exact = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=block_mask(frames, slots), scale=0.3
    )
    ours = attend(query, key, value, prefix=prefix_length(frames), scaling=0.3)
    assert torch.allclose(ours, exact, atol=1e-5)


def test_phases_follow_each_other_and_the_last_goes_on():
    phases = (Phase((1,), 2, 4), Phase((3,), 3, 4))
    assert [find_phase(phases, step).frames for step in (0, 1, 2, 4, 9)] == [
        (1,), (1,), (3,), (3,), (3,),
    ]  # fmt: skip
    assert sum(p.steps for p in plan_phases(2.0)) == 2 * sum(p.steps for p in plan_phases())


def test_the_first_fresh_kinds_of_a_family_are_pushed():
    progress = Progress()
    progress.right[KINDS.index("exist")] = 1.0
    weights = progress.weights
    assert weights["exist"] < weights["count"] < weights["colour"] == weights["shape"]


def test_running_means_move_towards_what_was_right():
    progress = Progress()
    progress.update([["exist", None], ["exist", "count"]], torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert 0 < progress.right[KINDS.index("exist")] < 0.1
    assert progress.right[KINDS.index("count")] == 0


def test_questions_worth_a_guess_seldom_get_a_slot():
    rng = np.random.default_rng(0)
    easy, hard = Question("count", "easy", "1", 1.0), Question("count", "hard", "1", 0.2)
    picks = [pick([easy, hard], 1, {"count": 1.0}, rng)[0] for _ in range(200)]
    assert 0 < picks.count(easy) < 60


def test_empty_slots_are_none_and_equal_questions_count_once():
    one = Question("count", "how many", "1", 0.2)
    assert leave_out_repeated([[one], [one]]) == [one]
    assert pick([one], 3, {"count": 1.0}, np.random.default_rng(0)) == [one, None, None]


def test_scattered_objects_stand_apart_and_stay():
    for seed in range(20):
        items = scatter_scene(seed, 1.0).items
        centres = np.array([item.path[0] for item in items])
        gaps = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        assert (gaps[~np.eye(len(items), dtype=bool)] >= 0.27).all()
        assert all(item.path[0] == item.path[1] and item.end_s == 1.0 for item in items)


@pytest.mark.parametrize("frames", [1, 3, 8])
def test_windows_are_evenly_spaced_frames_of_the_scene(frames):
    scene = generate_scene("surveillance", 4)
    visible = np.zeros((8, len(scene.items)))
    visible[5] = 1.0
    seen = SeenScene(
        scene, torch.zeros(8, 49, 4), visible, np.zeros((8, 49), np.int64), np.zeros((8, 49))
    )
    cuts = [draw_window(seen, frames, np.random.default_rng(k))[0] for k in range(20)]
    assert all(len(cut) == frames and cut[0] >= 0 and cut[-1] < 8 for cut in cuts)
    assert all(len(set(np.diff(cut))) <= 1 for cut in cuts)
    assert sum(5 in cut for cut in cuts) >= min(20, 20 * frames / 8 + 1)  # something shows there


def seen_scene():
    scene = generate_scene("surveillance", 4)
    owner = np.full((8, 49), -1)
    owner[:, [24, 25]] = 0
    share = np.where(np.arange(49) == 24, TELLING, 0.5 * TELLING) * (owner == 0)
    return SeenScene(scene, torch.zeros(8, 49, 4), np.ones((8, len(scene.items))), owner, share)


def draws(view, seen, count):
    return [draw_inside(seen, view, np.random.default_rng(seed)) for seed in range(count)]


def test_rectangles_do_not_look_at_what_they_crop():
    other = replace(seen_scene(), owner=np.zeros((8, 49), np.int64))
    pairs = zip(*(draws(View.RECTANGLES, s, 20) for s in (seen_scene(), other)), strict=True)
    assert all(np.array_equal(one, two) for one, two in pairs)


def test_rectangles_show_at_most_half_of_a_frame_and_seldom_nothing():
    cells = np.stack(draws(View.RECTANGLES, seen_scene(), 200)).sum(-1)
    assert cells.max() <= LARGEST
    assert 0 < (cells == 0).mean() < BLANK


def test_sparse_views_show_more_of_the_items_than_of_the_rest():
    seen = seen_scene()
    seen.owner[:, 26] = IGNORE
    inside = np.stack(draws(View.SPARSE, seen, 400))
    items, beside, rest = inside[..., [24, 25]], inside[..., 26], inside[..., :24]
    share = np.mean(CONTENT_KEPT) * (1 - np.mean(FRAMES_LEFT_OUT))
    assert items.mean() == pytest.approx(share, abs=0.05)
    assert beside.mean() == pytest.approx(share / 2, abs=0.05)
    assert 0 < rest.mean() < np.mean(REST_KEPT)


def test_a_whole_view_leaves_the_scene_as_it_is():
    seen = seen_scene()
    whole = crop_scene(seen, draws(View.WHOLE, seen, 1)[0])
    assert np.array_equal(whole.visible, seen.visible)
    assert np.array_equal(whole.owner, seen.owner)


@pytest.mark.parametrize("view", [View.RECTANGLES, View.SPARSE])
def test_an_item_is_seen_by_the_cell_that_tells_it_and_else_neither_seen_nor_absent(view):
    whole = seen_scene()
    for inside in draws(view, whole, 40):
        seen = crop_scene(whole, inside)
        expected = np.where(inside[:, 24], 1.0, np.where(inside[:, 25], PARTLY, 0.0))
        assert np.array_equal(seen.visible[:, 0], expected)
        assert (seen.owner[~inside] == IGNORE).all()


def test_steps_are_shared_among_the_views():
    phase = Phase((8,), 1, 1, rectangles=0.25, sparse=0.5)
    drawn = [phase.view(k / 100) for k in range(100)]
    assert [drawn.count(view) for view in View] == [25, 25, 50]


def test_packing_leaves_out_what_is_hidden_and_keeps_the_order():
    outside = torch.zeros(2, 2, 49, dtype=torch.bool)
    outside[0, 1, 5:9] = True
    outside[1, 0] = True
    hidden = hide(outside)
    index, blank = pack(hidden)
    assert index.shape[1] == prefix_length(2) - 4
    assert not blank[0].any()
    assert blank[1].sum() == 50 - 4  # the newline goes with the last of its frame's tokens
    for row in range(2):
        assert torch.equal(index[row][~blank[row]], (~hidden[row]).nonzero()[:, 0])


def test_cells_outside_the_crop_do_not_reach_an_answer():
    generator = torch.Generator().manual_seed(0)
    outside = torch.zeros(1, 2, 49, dtype=torch.bool)
    outside[0, 1, 5:9] = True
    hidden = hide(outside)
    places = hidden[0].nonzero()[:, 0]
    assert places.tolist() == [prefix_length(1) + 3 + cell for cell in range(5, 9)]
    length = prefix_length(2) + SLOT_LENGTH
    query, key, value = (torch.randn(1, 2, length, 8, generator=generator) for _ in range(3))
    given = {"prefix": prefix_length(2), "scaling": 0.3, "hidden": hidden}
    before = attend(query, key, value, **given)
    key[:, :, places], value[:, :, places] = 9.0, 9.0
    after = attend(query, key, value, **given)
    assert torch.allclose(before, after)
    assert not torch.allclose(before, attend(query, key, value, **{**given, "hidden": None}))
