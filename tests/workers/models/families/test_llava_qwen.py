"""LLaVA-Video's own: newlines behind rows also where tokens are gone, what its config may say."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import random_frames, write_tiny_llava_video
from tests.scores import scores
from tests.workers.models.families.cases import QUESTION, LlavaVideoReference
from workers.errors import InvalidCheckpoint, UnsupportedModel
from workers.models import Places, VisualSegment, open_language_model, open_vision_encoder
from workers.models.runs import EndedRuns, PlainRuns, RowRuns


def places(frame, cell, columns=3):
    return Places(
        torch.tensor(frame, dtype=torch.float64), torch.tensor(cell, dtype=torch.long), (4, columns)
    )


def segment(frame, cell, **more):
    return VisualSegment("", torch.randn(len(cell), 4), places=places(frame, cell), **more)


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("frame", "cell", "expected"),
    [
        ([0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5], [3, 6]),  # two whole rows
        ([0, 0, 0], [1, 5, 9], [1, 2, 3]),  # what is left of three rows
        ([0, 0, 1, 1], [0, 1, 0, 1], [2, 4]),  # the same row of two frames
        ([0, 0, 1, 0], [0, 1, 5, 5], [2, 3, 4]),  # anchors come back after a distinct token
        ([], [], []),
    ],
)
def test_a_newline_stands_behind_what_is_left_of_every_row(frame, cell, expected):
    assert RowRuns(3).newlines(segment(frame, cell)).tolist() == expected


def test_positions_are_those_of_the_whole_run_with_its_newlines():
    kept = segment([0, 0, 1], [1, 5, 0], positions=torch.tensor([1, 5, 12]), num_positions=24)

    offsets, width = RowRuns(3).offsets(kept)

    # Rows of 3 and a newline: tokens 1 and 5 of the first frame, 0 of the second, each row's end.
    assert offsets.tolist() == [1, 3, 6, 7, 16, 19]
    assert width == 32


def test_a_placeholder_counts_the_rows_that_its_tokens_fill():
    assert RowRuns(3).newlines(VisualSegment("", torch.empty(7, 0))).tolist() == [3, 6, 7]


def test_a_part_of_the_tokens_reads_as_the_same_rows_cut_short(tmp_path):
    folder = write_tiny_llava_video(tmp_path / "m")
    reference, model = LlavaVideoReference(folder), open_language_model(folder)
    whole = reference.video(random_frames(2, size=120)).unflatten(0, (2, 7, 8))
    cells = [(0, 3), (0, 5), (2, 1), (6, 6)]
    tokens = torch.stack([whole[1, row, column] for row, column in cells])
    given = Places(
        torch.zeros(4, dtype=torch.float64),
        torch.tensor([row * 7 + column for row, column in cells]),
        (7, 7),
    )
    newline = reference.newline[None]
    expected_run = torch.cat([tokens[:2], newline, tokens[2:3], newline, tokens[3:], newline])
    reference.video = lambda frames: expected_run

    logits = scores(model, QUESTION, [VisualSegment("", tokens, places=given)])

    expected = reference.logits([None], [""])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("newline", "runs"), [("one_token", EndedRuns()), ("no_token", PlainRuns())]
)
def test_llava_onevision_as_first_published_ends_a_run_or_not(tmp_path, newline, runs):
    folder = write_tiny_llava_video(tmp_path / "m", newline=newline, pooling="bilinear")
    model, encoder = open_language_model(folder), open_vision_encoder(folder)

    assert model._writer.runs == runs
    assert (model.reading.row_newlines, encoder.pooling) == (0, "bilinear")
    assert "".join(model.stream_answer(QUESTION, [VisualSegment("", torch.randn(5, model.dim))]))


def test_the_newlines_of_a_frame_are_told_to_whoever_plans_a_prompt(tmp_path):
    assert open_language_model(write_tiny_llava_video(tmp_path / "m")).reading.row_newlines == 7


@pytest.mark.parametrize(
    ("half", "changes", "message"),
    [
        (open_vision_encoder, {"vision_config": None, "mm_vision_tower": "clip"}, "tower 'clip'"),
        (open_vision_encoder, {"mm_projector_type": "pool"}, "projector 'pool'"),
        (open_language_model, {"mm_spatial_pool_stride": 4}, "pools by 4"),
        (open_vision_encoder, {"mm_spatial_pool_mode": "max"}, "pools by 'max'"),
        (open_language_model, {"mm_newline_position": "frame"}, "mm_newline_position 'frame'"),
    ],
)
def test_what_the_adapter_does_not_know_is_named(tmp_path, half, changes, message):
    folder = write_tiny_llava_video(tmp_path / "m")
    edit(folder, **changes)

    with pytest.raises(UnsupportedModel, match=message):
        half(folder)


def test_halves_of_two_models_are_refused(tmp_path):
    folder = write_tiny_llava_video(tmp_path / "m")
    other = write_tiny_llava_video(tmp_path / "other", llm_dim=32)
    weights = load_file(folder / "model.safetensors")
    vision = load_file(other / "model.safetensors")
    weights |= {name: w for name, w in vision.items() if "vision_tower" in name or "mm_" in name}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    with pytest.raises(InvalidCheckpoint, match="do not fit the config"):
        open_vision_encoder(folder)


def test_a_vocabulary_without_room_for_the_placeholder(tmp_path):
    folder = write_tiny_llava_video(tmp_path / "m")
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    edit(folder, vocab_size=vocab_size - 2)

    with pytest.raises(InvalidCheckpoint, match="one more for visual tokens"):
        open_language_model(folder)
