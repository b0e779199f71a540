"""What checkpoints cost: read from a config as loaded halves have it, and told of known ones."""

import json
import math

import pytest

from aot.pooling import pooled_grid
from tests.checkpoints import write_tiny_checkpoint
from tests.workers.models.families.cases import CASES
from workers.errors import UnsupportedModel
from workers.models import (
    FAMILIES,
    TokenCost,
    is_downloaded,
    known_checkpoints,
    measure_model,
    open_language_model,
    open_vision_encoder,
)
from workers.models.catalog import NEAREST, nearest_family

WRITERS = {"llava_onevision": write_tiny_checkpoint, **{case.name: case.write for case in CASES}}


@pytest.mark.parametrize("family", sorted(WRITERS))
def test_a_cost_is_that_of_the_loaded_halves(family, tmp_path):
    folder = WRITERS[family](tmp_path / "m")
    encoder, model = open_vision_encoder(folder), open_language_model(folder)

    found, cost = measure_model(folder)

    assert found == family
    assert cost == TokenCost(
        cells=math.prod(pooled_grid(encoder.grid, encoder.pooling)),
        width=encoder.dim,
        context_length=model.context_length,
        frames=encoder.layout.frames,
        row_newlines=model.reading.row_newlines,
    )


def test_every_family_has_a_case_and_a_known_checkpoint():
    assert set(WRITERS) == set(FAMILIES) == {known.family for known in known_checkpoints()}


def test_an_hour_costs_its_tokens():
    cost = TokenCost(cells=350, width=10, context_length=7000, frames=2)

    assert cost.tokens_per_frame == 175
    assert cost.bytes_per_hour(0.1, 2.0) == pytest.approx(175 * 2 * 3600 * 0.1 * (2 * 10 + 9))
    assert cost.context_hours(0.1, 1.0) == pytest.approx(7000 / (17.5 * 3600))


def test_newlines_take_of_the_context_at_most_one_a_token():
    cost = TokenCost(cells=169, width=10, context_length=1000, row_newlines=13)

    assert cost.context_hours(1.0, 1.0) == pytest.approx(1000 / (182 * 3600))
    assert cost.context_hours(0.01, 1.0) == pytest.approx(1000 / (2 * 1.69 * 3600))


@pytest.mark.parametrize(
    ("model_type", "nearest"),
    [
        ("qwen2_vl", "qwen2_5_vl"),
        ("qwen3_vl_moe", "qwen3_vl"),
        ("llava_next_video", "llava_qwen"),
        ("qwen2_5_omni", "qwen2_5_vl"),  # by its name
        ("something_else", "llava_onevision"),
    ],
)
def test_another_family_is_told_the_nearest(tmp_path, model_type, nearest):
    assert nearest_family(model_type) == nearest
    folder = write_tiny_checkpoint(tmp_path / "m")
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"model_type": model_type}
    path.write_text(json.dumps(config))

    with pytest.raises(UnsupportedModel, match=f"the nearest is {nearest}, such as .+/.+;"):
        open_vision_encoder(folder)


def test_nearest_families_are_families():
    assert set(NEAREST.values()) <= set(FAMILIES)
    assert not set(NEAREST) & set(FAMILIES)


def test_downloaded_is_what_the_hubs_cache_has(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert not is_downloaded("somebody/model")
    repository = tmp_path / "models--somebody--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "model.safetensors").write_bytes(b"")
    assert is_downloaded("somebody/model")
