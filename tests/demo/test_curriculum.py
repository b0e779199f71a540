"""Attention without forbidden pairs is the masked square; what is badly answered is asked more."""

import numpy as np
import pytest
import torch

from demo.attention import attend
from demo.curriculum import Phase, Progress, find_phase, pick, plan_phases, unlike
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
