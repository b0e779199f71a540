"""`aot models`: the list, one checkpoint, and what is wrong with another."""

import json

from workers.models import known_checkpoints


def test_the_list_tells_what_every_known_checkpoint_costs(run):
    ran = run("models", "--json", "--retention", "0.2", "--fps", "2")

    assert (ran.json["retention"], ran.json["fps"]) == (0.2, 2.0)
    assert [row["model"] for row in ran.json["models"]] == [
        known.model_id for known in known_checkpoints()
    ]
    first, cost = ran.json["models"][0], known_checkpoints()[0].cost
    assert first["bytes_per_hour"] == round(cost.bytes_per_hour(0.2, 2.0))
    assert first["context_hours"] > 0


def test_the_list_for_people_has_a_line_each(run):
    lines = run("models").out.splitlines()

    assert len(lines) == len(known_checkpoints()) + 1
    assert lines[0].split()[0] == "MODEL"


def test_a_checkpoint_of_ones_own_is_measured(run, model_folder):
    ran = run("models", model_folder, "--json")

    [row] = ran.json["models"]
    assert (row["family"], row["tokens_per_frame"], row["downloaded"]) == (
        "llava_onevision",
        49,
        True,
    )


def test_a_checkpoint_of_another_family_is_an_error_with_the_nearest(run, tmp_path, model_folder):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(model_folder / "model.safetensors")
    config = json.loads((model_folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "qwen2_vl"}))

    ran = run("models", folder)

    assert ran.code == 1
    assert "UnsupportedModel" in ran.err
    assert "the nearest is qwen2_5_vl" in ran.err


def test_a_retention_that_cannot_be(run):
    ran = run("models", "--retention", "0")

    assert ran.code == 2
    assert "retention 0" in ran.err
