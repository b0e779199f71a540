"""Coloured shapes get directions of their own, and refining an aligned model keeps its words."""

import pytest
import torch

from demo.labels import IGNORE, PAIRS
from demo.model import build_model
from demo.train_align import draw_codes, pair_labels, train_align


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


@pytest.mark.parametrize("keep", [False, True])
def test_refining_moves_no_word_and_no_layer_but_the_last(tmp_path, keep):
    model = build_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_align(model, tmp_path, steps=2, scenes_per_step=2, keep=keep)
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    moved = ("vision_tower.encoder.layers.4.", "multi_modal_projector.")
    assert any("layers.4." in name for name in changed)
    if keep:
        assert all(any(part in name for part in moved) for name in changed)
    else:
        assert "model.language_model.embed_tokens.weight" in changed
        assert not any("vision_tower.encoder.layers.3." in name for name in changed)
