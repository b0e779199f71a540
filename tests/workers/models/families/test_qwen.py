"""Qwen-VL's own: temporal patches, true places of what is left, and what a checkpoint may say."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from aot import InvalidFeatures
from pipeline.store.arrow import decode_clip, encode_clip
from tests.checkpoints import random_frames, write_tiny_qwen2_5_vl, write_tiny_qwen3_vl
from tests.scores import scores
from tests.workers.models.families.cases import QUESTION, Qwen3Reference, QwenReference
from workers.compress import CompressSettings
from workers.compress.batch import compress_each
from workers.compress.worker import reducer_for
from workers.errors import InvalidCheckpoint
from workers.models import Places, VisualSegment, open_language_model, open_vision_encoder
from workers.models.families.qwen2_5_vl import full_attention_layers
from workers.models.mrope import mrope_positions
from workers.reading import read_clip, stream_time
from workers.types import Clip, TokenLayout

WRITERS = {"qwen2_5_vl": write_tiny_qwen2_5_vl, "qwen3_vl": write_tiny_qwen3_vl}
REFERENCES = {"qwen2_5_vl": QwenReference, "qwen3_vl": Qwen3Reference}


@pytest.fixture(scope="module", params=sorted(WRITERS))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return WRITERS[family](tmp_path_factory.mktemp("models") / family)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def edit(path, **changes):
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def frames_of(num_frames, seed=0):
    return np.ascontiguousarray(random_frames(num_frames, size=112, seed=seed)[:, :80])


def compress(folder, frames, retention=1.0, clip_frames=None):
    encoder = open_vision_encoder(folder)
    pts_s = np.arange(len(frames), dtype=np.float64)
    clip = Clip("lobby", 0, 0, frames, pts_s, float(len(frames)))
    settings = CompressSettings(
        str(folder), retention=retention, clip_frames=clip_frames or len(frames)
    )
    [result] = compress_each(encoder, reducer_for(encoder, settings), [clip])
    return result


def read(model, clip):
    style = model.reading
    return read_clip(clip, marks=style.marks, mark=style.mark, time_text=stream_time(style.times))


def test_a_token_names_the_first_frame_of_its_patch(folder):
    clip = compress(folder, frames_of(5))

    assert clip.tokens.frame.unique().tolist() == [0, 2, 4]
    assert clip.tokens.grid == (5, 7)
    assert clip.stats.tokens_in == clip.stats.tokens_out == 3 * 35
    assert clip.layout.frames == 2


def test_a_patch_that_is_not_full_is_refused(folder):
    with pytest.raises(InvalidFeatures, match="got 3 frames, expected a multiple of 2"):
        open_vision_encoder(folder).encode(frames_of(3))


def test_retention_counts_patches_and_not_frames(folder):
    clip = compress(folder, frames_of(16), retention=0.25)

    assert clip.stats.tokens_in == 8 * 35
    assert 0.15 < clip.stats.retention < 0.35


def test_a_stored_token_has_all_its_parts(folder):
    clip = compress(folder, frames_of(4))
    model = open_language_model(folder)

    record = decode_clip(encode_clip(clip, fingerprint="f"), key="lobby/0/0")

    assert record.clip.layout == clip.layout
    assert record.clip.tokens.tokens.shape[1] == model.dim
    near = scores(model, QUESTION, read(model, record.clip))
    torch.testing.assert_close(
        near, scores(model, QUESTION, read(model, clip)), rtol=0, atol=near.abs().max() * 0.1
    )


def test_deepstack_features_lie_beside_the_embedding(tmp_path):
    encoder = open_vision_encoder(write_tiny_qwen3_vl(tmp_path / "m"))

    assert encoder.layout == TokenLayout(frames=2, parts=(64, 64, 64))
    assert encoder.dim == 192


def test_what_is_left_stands_where_it_stood(family, folder):
    """A part of the tokens reads as the whole video with the others masked."""
    clip = compress(folder, frames_of(4))
    kept = torch.randperm(70)[:40].sort().values
    columns = ("tokens", "frame", "cell", "mass", "kind")
    part = replace(clip.tokens, **{name: getattr(clip.tokens, name)[kept] for name in columns})
    model = open_language_model(folder)

    logits = scores(model, QUESTION, read(model, replace(clip, tokens=part)))

    reference = REFERENCES[family](folder)
    marks = [segment.mark for segment in read(model, clip)]
    inputs = reference.inputs([frames_of(4)], marks)
    places = (inputs["input_ids"][0] == reference.model.config.video_token_id).nonzero()[:, 0]
    position_ids, _ = reference.model.model.get_rope_index(
        **{k: v for k, v in inputs.items() if k != "pixel_values_videos"}
    )
    mask = torch.ones_like(inputs["input_ids"])
    mask[0, places] = 0
    mask[0, places[kept]] = 1
    with torch.no_grad():
        whole = reference.model(**inputs | {"attention_mask": mask, "position_ids": position_ids})
    expected = whole.logits[0, mask[0].bool()]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def test_positions_number_time_rows_and_columns_apart():
    places = Places(torch.tensor([0.0, 2.0, 2.0]), torch.tensor([0, 4, 5]), (2, 3))
    run = VisualSegment("", torch.zeros(3, 1), places=places)

    got = mrope_positions(torch.tensor([False, True, False]), torch.tensor([1, 3, 1]), [run], 2.0)

    assert got[:, 0].tolist() == [
        [0, 1, 2, 3, 4],
        [0, 1, 5, 5, 4],  # two positions a second; text goes on behind the grid's longer side
        [0, 1, 2, 2, 4],
        [0, 1, 2, 3, 4],
    ]


def test_times_below_a_position_by_rounding_are_not_a_position_early():
    places = Places(torch.tensor([0.1 * 3 * 10]) - 1e-9, torch.tensor([0]), (1, 1))
    run = VisualSegment("", torch.zeros(1, 1), places=places)

    assert mrope_positions(torch.tensor([True]), torch.tensor([1]), [run], 1.0)[1, 0, 0] == 3


def test_frames_have_one_size_unless_the_checkpoint_names_another(copy):
    assert open_vision_encoder(copy).grid == (5, 7)
    edit(copy / "config.json", frame_size=None)

    encoder = open_vision_encoder(copy)

    assert encoder.grid == (14, 25)
    assert (encoder.pixel_format.height, encoder.pixel_format.width) == (14 * 16, 25 * 16)


@pytest.mark.parametrize("size", [[80], [80, 100], [0, 16], "80x112", [80.0, 112]])
def test_a_size_of_no_whole_cells_is_refused(copy, size):
    edit(copy / "config.json", frame_size=size)
    with pytest.raises(InvalidCheckpoint, match="in multiples of 16"):
        open_vision_encoder(copy)


@pytest.mark.parametrize("half", [open_vision_encoder, open_language_model])
def test_a_missing_processor(copy, half):
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(
        InvalidCheckpoint, match=r"lack or garble 'image_mean'.*preprocessor_config"
    ):
        half(copy)


def test_a_processor_of_another_tower(copy):
    edit(copy / "preprocessor_config.json", patch_size=14)
    with pytest.raises(InvalidCheckpoint, match="patch_size 14, the tower 8"):
        open_vision_encoder(copy)


def test_attention_is_read_where_the_tower_sees_whole_frames():
    class Vision:
        depth, fullatt_block_indexes = 32, (7, 15, 23, 31)

    assert full_attention_layers(Vision) == (7, 23)
    assert full_attention_layers(Vision, [15, 31]) == (15, 31)
    with pytest.raises(InvalidCheckpoint, match="beyond a window"):
        full_attention_layers(Vision, [5, 23])
