"""Attention without forbidden pairs is the masked square; what is badly answered is asked more."""

import numpy as np
import pytest
import torch

from demo.attention import attend
from demo.crops import crop_scene, hide
from demo.curriculum import Phase, Progress, find_phase, pick, plan_phases, unlike
from demo.labels import IGNORE
from demo.pool import SeenScene
from demo.questions import KINDS, Question
from demo.scenes import generate_scene, scatter_scene
from demo.sequence import SLOT_LENGTH, block_mask, prefix_length
from demo.train_language import draw_window


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
    assert unlike([[one], [one]]) == [one]
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
    seen = SeenScene(scene, torch.zeros(8, 49, 4), visible, np.zeros((8, 49), np.int64))
    cuts = [draw_window(seen, frames, np.random.default_rng(k))[0] for k in range(20)]
    assert all(len(cut) == frames and cut[0] >= 0 and cut[-1] < 8 for cut in cuts)
    assert all(len(set(np.diff(cut))) <= 1 for cut in cuts)
    assert sum(5 in cut for cut in cuts) >= min(20, 20 * frames / 8 + 1)  # something shows there


def seen_scene():
    scene = generate_scene("surveillance", 4)
    owner = np.full((8, 49), -1)
    owner[:, [24, 25]] = 0
    return SeenScene(scene, torch.zeros(8, 49, 4), np.ones((8, len(scene.items))), owner)


def test_a_crop_keeps_a_rectangle_of_every_frame():
    for seed in range(20):
        _, outside = crop_scene(seen_scene(), np.random.default_rng(seed))
        for frame in ~outside.reshape(8, 7, 7):
            rows, columns = np.flatnonzero(frame.any(1)), np.flatnonzero(frame.any(0))
            assert frame.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_what_a_crop_cuts_is_neither_seen_nor_absent():
    whole = seen_scene()
    for seed in range(40):
        seen, outside = crop_scene(whole, np.random.default_rng(seed))
        shown = (~outside)[:, [24, 25]].sum(1)
        expected = np.choose(shown, [0.0, 0.3, 1.0])
        assert np.array_equal(seen.visible[:, 0], expected)
        assert (seen.owner[outside] == IGNORE).all()


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
