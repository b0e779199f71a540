"""Coloured shapes get directions of their own; refining moves the vision half and nothing else."""

import numpy as np
import pytest
import torch

from demo.miniature.model import build_model
from demo.training.align import draw_codes, pair_labels, train_align
from demo.training.refine import THINGS, mean_of, name_things, touch_loss, train_refine
from demo.training.tower import dense_loss
from demo.world.labels import IGNORE, PAIRS


def test_codes_stand_at_right_angles_to_each_other_and_to_the_words():
    torch.manual_seed(0)
    words = torch.randn(25, 192)
    codes = draw_codes(words, 33)
    assert torch.allclose(codes @ codes.T, torch.eye(33), atol=1e-5)
    assert (codes @ words.T).abs().max() < 1e-4


def test_a_pair_is_what_colour_and_shape_say():
    labels = {
        "colour": torch.tensor([[0, IGNORE, 1, 8]]),
        "shape": torch.tensor([[0, IGNORE, 1, 4]]),
    }
    assert pair_labels(labels).tolist() == [[0, IGNORE, 1, len(PAIRS)]]
    assert PAIRS[0].split() == ["red", "circle"]


def test_alignment_moves_words_projector_and_the_last_layer_alone(tmp_path):
    model = build_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_align(model, tmp_path, steps=2, scenes_per_step=2)
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    moved = (
        "vision_tower.encoder.layers.4.",
        "multi_modal_projector.",
        "embed_tokens",
        "lm_head",
        "newline",
    )
    assert changed
    assert all(any(part in name for part in moved) for name in changed)


def test_a_thing_is_a_coloured_shape_or_a_letter():
    labels = {
        "colour": torch.tensor([[0, 2, 0, IGNORE]]),
        "shape": torch.tensor([[0, 1, 0, IGNORE]]),
        "letter": torch.tensor([[0, 0, 12, IGNORE]]),
    }
    assert name_things(labels).tolist() == [[0, 5, THINGS - 1, IGNORE]]


def test_refining_trains_the_heads_first_then_the_vision_half_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("demo.training.refine.SETTLE", 1)
    model = build_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def changed():
        state = model.state_dict()
        return {name for name, value in state.items() if not torch.equal(value, before[name])}

    train_refine(model, tmp_path, steps=1, scenes_per_step=2)
    assert not changed()
    train_refine(model, tmp_path, steps=3, scenes_per_step=2)
    assert any("vision_tower.encoder.layers.0." in name for name in changed())
    assert not any("language_model" in name for name in changed())
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_where_nothing_was_told_rightly_nothing_is_held():
    values = torch.tensor([[2.0, 4.0]], requires_grad=True)
    assert mean_of(values, torch.zeros(1, 2, dtype=torch.bool)).item() == 0
    assert mean_of(values, torch.ones(1, 2, dtype=torch.bool)).item() == 3


def test_background_weighs_what_it_is_given():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]])
    target = torch.tensor([[0, 1, IGNORE]])
    of_background, of_content = (
        float(torch.nn.functional.cross_entropy(logits[0, k], target[0, k])) for k in (0, 1)
    )
    for weight in (0.5, 4.0):
        loss, right = dense_loss(logits, target, weight)
        assert float(loss) == pytest.approx(of_content + weight * of_background)
        assert float(right) == 1.0


def test_a_touched_cell_may_show_its_item_or_nothing():
    logits = torch.tensor([[[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0], [0, 0, 9.0]]])
    thing, touching = torch.tensor([[IGNORE, IGNORE, 0, IGNORE]]), torch.tensor([[1, 1, 1, 0]])
    assert touch_loss(logits, thing, touching) < 1e-3
    assert touch_loss(logits, thing, torch.tensor([[2, 2, 0, 0]])) == pytest.approx(
        (9 - np.log(2)) / 2, abs=1e-2
    )
    assert touch_loss(logits, torch.zeros(1, 4, dtype=torch.long), touching) == 0
