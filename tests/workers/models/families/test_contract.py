"""What every family keeps: both halves together are the model, whatever its tokens pass through."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import random_frames
from tests.scores import scores
from tests.workers.models.families.cases import CASES, QUESTION
from workers.compress import CompressSettings
from workers.compress.batch import compress_each
from workers.compress.worker import reducer_for
from workers.errors import InvalidCheckpoint, NoVisionTower, UnsafeWeights, UnsupportedModel
from workers.models import (
    FAMILIES,
    LanguageModel,
    VisionEncoder,
    open_language_model,
    open_vision_encoder,
)
from workers.reading import read_clip, stream_time
from workers.types import Clip, CompressedClip

STARTS_S = (12.0, 20.0)


@pytest.fixture(scope="module", params=CASES, ids=repr)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def folder(case, tmp_path_factory):
    return case.write(tmp_path_factory.mktemp("models") / case.name)


@pytest.fixture(scope="module")
def reference(case, folder):
    return case.open_reference(folder)


@pytest.fixture(scope="module")
def encoder(folder) -> VisionEncoder:
    return open_vision_encoder(folder)


@pytest.fixture(scope="module")
def model(folder) -> LanguageModel:
    return open_language_model(folder)


def frames_of(case, num_frames: int, seed: int = 0) -> np.ndarray:
    height, width = case.size
    square = random_frames(num_frames, size=max(case.size), seed=seed)
    return np.ascontiguousarray(square[:, :height, :width])


def compressed(folder, encoder, frames, start_s=0.0, retention=1.0) -> CompressedClip:
    """A clip at one frame a second through the reducer."""
    pts_s = start_s + np.arange(len(frames), dtype=np.float64)
    clip = Clip("lobby", 0, 0, frames, pts_s, start_s + len(frames))
    settings = CompressSettings(str(folder), retention=retention, clip_frames=len(frames))
    [result] = compress_each(encoder, reducer_for(encoder, settings), [clip])
    assert isinstance(result, CompressedClip)
    return result


def read(model, clip, *, marked=True):
    style = model.reading
    segments = read_clip(
        clip, marks=style.marks, mark=style.mark if marked else "{}",
        time_text=stream_time(style.times) if marked else lambda time_s: "",
    )  # fmt: skip
    return segments


def test_features_are_the_models_own(case, encoder, reference):
    frames = frames_of(case, 4)

    features = encoder.encode(frames)

    torch.testing.assert_close(features.tokens, reference.features(frames), rtol=1e-4, atol=1e-4)


def test_attention_received_is_eager_attentions(case, encoder, reference):
    frames = frames_of(case, 4)

    features = encoder.encode(frames)

    for layer, received in zip(
        encoder.attention_layers,
        (features.local_attention, features.global_attention),
        strict=True,
    ):
        expected = reference.attention(frames, layer)
        torch.testing.assert_close(received, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(features.local_attention, features.global_attention, atol=1e-2)
    if not case.has_cls:
        assert torch.allclose(features.global_attention.mean(1), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_one_clip_gives_the_pixel_paths_logits_and_text(
    case, folder, encoder, model, reference, seed
):
    frames = frames_of(case, 4, seed)
    segments = read(model, compressed(folder, encoder, frames), marked=any(case.first_marks))
    marks = case.first_marks

    logits = scores(model, QUESTION, segments)

    torch.testing.assert_close(logits, reference.logits([frames], marks), rtol=0, atol=1e-4)
    answer = "".join(model.stream_answer(QUESTION, segments))
    assert answer == reference.text([frames], marks)
    assert answer


def test_several_clips_with_time_marks_give_the_pixel_paths_logits_and_text(
    case, folder, encoder, model, reference
):
    clips = [frames_of(case, 4, seed=3), frames_of(case, 3, seed=4)]
    segments = [
        segment
        for start_s, frames in zip(STARTS_S, clips, strict=True)
        for segment in read(model, compressed(folder, encoder, frames, start_s))
    ]

    logits = scores(model, QUESTION, segments)

    torch.testing.assert_close(logits, reference.logits(clips, case.marks), rtol=0, atol=1e-4)
    answer = "".join(model.stream_answer(QUESTION, segments))
    assert answer == reference.text(clips, case.marks)


def test_few_tokens_are_answered_from(case, folder, encoder, model):
    clip = compressed(folder, encoder, frames_of(case, 8), retention=0.1)
    segments = read(model, clip)

    assert 0 < clip.stats.retention < 0.3
    assert model.count_tokens(QUESTION, segments) == len(scores(model, QUESTION, segments))
    assert "".join(model.stream_answer(QUESTION, segments))


def test_the_halves_are_what_the_protocols_ask(encoder, model):
    assert isinstance(encoder, VisionEncoder)
    assert isinstance(model, LanguageModel)
    assert encoder.identity == model.identity
    assert encoder.dim == model.dim


def test_a_clip_is_encoded_the_same_in_any_company(case, encoder):
    frames = frames_of(case, 6)
    together, size = encoder.encode(frames), encoder.layout.frames

    alone = encoder.encode(frames[2 * size : 3 * size])

    assert torch.equal(together.tokens[2], alone.tokens[0])
    assert torch.equal(together.local_attention[2], alone.local_attention[0])


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


TOWERS = ("vision_tower", "visual.")
HALVES = pytest.mark.parametrize("half", [open_vision_encoder, open_language_model])


@HALVES
@pytest.mark.parametrize("inner", [False, True])
def test_quantised_weights_are_refused(copy, half, inner):
    path, given = copy / "config.json", {"quantization_config": {"quant_method": "awq"}}
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | ({"text_config": given} if inner else given)))
    with pytest.raises(UnsupportedModel, match=r"quantised \(awq\)"):
        half(copy)


@HALVES
def test_a_weight_that_is_not_there_is_not_made_up(copy, half):
    path = copy / "model.safetensors"
    weights = load_file(path)
    for name in ("layers.1.", "blocks.1.", "layer.1."):  # of either half, as the family names them
        weights = {k: v for k, v in weights.items() if name not in k}
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(InvalidCheckpoint, match="lacks"):
        half(copy)


@HALVES
def test_weights_as_pickle_are_refused(copy, half):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UnsafeWeights, match=r"pytorch_model\.bin"):
        half(copy)


@HALVES
def test_a_missing_processor_is_named(case, copy, half):
    if case.name == "llava_qwen":
        pytest.skip("its repository's checkpoints bring none; what it does is known")
    for path in copy.glob("*processor_config.json"):
        path.unlink()
    with pytest.raises(InvalidCheckpoint, match=r"preprocessor_config\.json"):
        half(copy)


def test_a_language_model_of_another_width_does_not_fit(copy):
    path = copy / "model.safetensors"
    weights = {
        name: weight[..., :-2].contiguous()
        if "layers.0" in name and not any(tower in name for tower in TOWERS)
        else weight
        for name, weight in load_file(path).items()
    }
    save_file(weights, path, {"format": "pt"})
    open_vision_encoder(copy)
    with pytest.raises(InvalidCheckpoint, match="do not fit the config"):
        open_language_model(copy)


@HALVES
@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_that_names_another_family_is_one_typed_error(case, copy, half, family):
    if family == case.name:
        pytest.skip("its own")
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": family}))
    with pytest.raises((InvalidCheckpoint, UnsupportedModel, NoVisionTower)) as error:
        half(copy)
    assert "copy" in str(error.value)
    assert "; " in str(error.value)  # what to do


@HALVES
def test_a_family_without_an_adapter_is_told_the_nearest(copy, half):
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "qwen2_vl"}))
    with pytest.raises(UnsupportedModel, match="the nearest is qwen2_5_vl"):
        half(copy)
