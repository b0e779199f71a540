"""The recorded tower: its weights as a checkpoint, run by the adapter."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import write_tiny_checkpoint
from workers.models import open_vision_encoder

KEPT = 8


@pytest.fixture(scope="module")
def golden():
    return np.load(Path(__file__).parents[2] / "aot" / "golden" / "tower_tiny.npz")


@pytest.fixture(scope="module")
def folder(golden, tmp_path_factory):
    """A checkpoint of nine layers, of which `vision_feature_layer` -2 keeps the recorded eight."""
    folder = write_tiny_checkpoint(
        tmp_path_factory.mktemp("models") / "golden",
        image_size=384,
        patch_size=14,
        vision_layers=KEPT + 1,
        vision_feature_layer=-2,
    )
    weights = load_file(folder / "model.safetensors")
    for name in golden.files:
        if name.startswith("w.") and "post_layernorm" not in name:
            weights["vision_tower." + name[2:]] = torch.from_numpy(golden[name]).float()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def encode(golden, folder, layers):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_layers": layers}))
    encoder = open_vision_encoder(folder)
    encoder._half.model.multi_modal_projector = torch.nn.Identity()
    return encoder.encode(golden["resized_u8"].transpose(1, 2, 0)[None])


def test_features_are_the_last_kept_layers_without_layernorm(golden, folder):
    features = encode(golden, folder, [5, -2])

    expected = torch.from_numpy(golden["features"])
    scale = float(expected.std())  # entries near zero carry the rounding of those of size 1
    torch.testing.assert_close(features.tokens, expected, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("pair", [(0, 7), (1, 6), (2, 5), (3, 4)])
def test_attention_of_every_layer(golden, folder, pair):
    features = encode(golden, folder, list(pair))

    sums = torch.from_numpy(golden["attn_sum"]).mean(2)
    local, deep = sums[pair[0]], sums[pair[1]]
    torch.testing.assert_close(features.local_attention, local, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.global_attention, deep, rtol=1e-4, atol=1e-5)


def test_minus_two_counts_from_the_kept_layers(golden, folder):
    named = encode(golden, folder, [0, -2])

    expected = torch.from_numpy(golden["attn_sum"]).mean(2)[KEPT - 2]
    torch.testing.assert_close(named.global_attention, expected, rtol=1e-4, atol=1e-5)
