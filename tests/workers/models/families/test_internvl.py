"""InternVL's own: which patches make a cell, and what a checkpoint may say."""

import json

import pytest
import torch
from transformers.models.internvl.modeling_internvl import InternVLModel

from tests.checkpoints import write_tiny_internvl
from workers.errors import InvalidCheckpoint, UnsupportedModel
from workers.models import open_language_model, open_vision_encoder


@pytest.fixture
def folder(tmp_path):
    return write_tiny_internvl(tmp_path / "m")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_cells_attention_is_that_of_the_patches_its_token_is_made_of(folder):
    encoder = open_vision_encoder(folder)
    number = torch.arange(144.0)  # of each patch
    shuffled = _shuffle(encoder, number)

    patches = shuffled.unflatten(1, (4, -1))[..., 0]  # numbers of the four patches of every cell

    torch.testing.assert_close(encoder._of_cells(number[None])[0], patches.mean(1))


def _shuffle(encoder, number):
    channels = number.view(1, 12, 12, 1).expand(1, 12, 12, 32).contiguous()
    return InternVLModel.pixel_shuffle(encoder._half, channels, 0.5).flatten(0, 2)


def test_a_frame_is_a_square_of_cells(folder):
    encoder = open_vision_encoder(folder)

    assert (encoder.grid, encoder.dim, encoder.pooling) == ((6, 6), 64, "none")


def test_features_of_another_layer_are_refused(folder):
    edit(folder / "config.json", vision_feature_layer=-2)
    with pytest.raises(UnsupportedModel, match="layer -2"):
        open_vision_encoder(folder)


def test_a_processor_of_another_size_is_refused(folder):
    edit(folder / "preprocessor_config.json", size={"height": 64, "width": 64})
    with pytest.raises(InvalidCheckpoint, match=r"frames of \(64, 64\)"):
        open_vision_encoder(folder)


def test_a_tokenizer_that_names_no_brackets_is_refused(folder):
    edit(folder / "tokenizer_config.json", start_image_token=None, extra_special_tokens={})
    with pytest.raises(InvalidCheckpoint, match="start_image_token"):
        open_language_model(folder)
