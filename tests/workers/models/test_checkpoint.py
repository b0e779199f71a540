"""What a checkpoint must be before it is loaded, and the error for each way it is not."""

import json
import shutil
import socket
import threading
import time

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tests.checkpoints import random_frames, write_tiny_checkpoint
from tests.scores import scores
from workers.errors import (
    InvalidCheckpoint,
    ModelError,
    ModelNotFound,
    NoVisionTower,
    UnsafeWeights,
    UnsupportedModel,
)
from workers.models import open_language_model, open_vision_encoder
from workers.models.checkpoint import open_checkpoint

OPENERS = pytest.mark.parametrize("opener", [open_vision_encoder, open_language_model])


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "pristine")


@pytest.fixture
def folder(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "tiny")


def edit(path, **changes):
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def rewrite(folder, change):
    path = folder / "model.safetensors"
    weights = {new: tensor for name, tensor in load_file(path).items() if (new := change(name))}
    save_file(weights, path, metadata={"format": "pt"})


def one_line(error) -> bool:
    return "\n" not in str(error.value) and len(str(error.value)) < 500


@OPENERS
def test_no_such_folder(opener, tmp_path):
    with pytest.raises(ModelNotFound, match="no folder") as error:
        opener(tmp_path / "absent")
    assert one_line(error)


@OPENERS
def test_a_folder_without_a_checkpoint(opener, tmp_path):
    with pytest.raises(ModelNotFound, match=r"config\.json") as error:
        opener(tmp_path)
    assert one_line(error)


def test_a_hub_id_offline_fails_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(ModelNotFound, match=r"'nobody/no-model'.*path of a folder") as error:
        open_vision_encoder("nobody/no-model")
    assert one_line(error)


def test_a_cached_hub_id_opens_offline_at_its_revision(monkeypatch, pristine, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--somebody--tiny"
    shutil.copytree(pristine, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    encoder = open_vision_encoder("somebody/tiny")

    assert (encoder.identity.model_id, encoder.identity.revision) == ("somebody/tiny", commit)
    assert encoder.identity.digest() == open_vision_encoder(pristine).identity.digest()


def test_a_hub_that_never_answers_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr("workers.models.checkpoint.HUB_TIMEOUT_S", 0.2)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        start_s = time.monotonic()

        with pytest.raises(ModelNotFound):
            open_vision_encoder("nobody/no-model")
        silent.settimeout(1)
        silent.accept()[0].close()  # it was asked

    assert time.monotonic() - start_s < 20  # without a limit it waits for ever


@OPENERS
def test_pickle_weights(opener, folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")

    with pytest.raises(UnsafeWeights, match=r"pytorch_model\.bin.*safetensors") as error:
        opener(folder)
    assert one_line(error)


def test_pickle_weights_beside_safetensors_are_not_read(folder):
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04 not even a pickle")

    assert len(open_vision_encoder(folder).encode(random_frames(1)).tokens) == 1


@OPENERS
def test_no_weights(opener, folder):
    (folder / "model.safetensors").unlink()

    with pytest.raises(UnsafeWeights, match="no weights"):
        opener(folder)


@OPENERS
@pytest.mark.parametrize("damage", ["cut off", "garbled header", "empty", "text"])
def test_damaged_safetensors(opener, folder, damage):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut off": whole[: len(whole) // 2],
            "garbled header": whole[:8] + b"\xff" * 64 + whole[72:],
            "empty": b"",
            "text": b"<html>404</html>",
        }[damage]
    )

    with pytest.raises(InvalidCheckpoint, match=r"model\.safetensors is damaged") as error:
        opener(folder)
    assert one_line(error)


@OPENERS
def test_a_missing_shard(opener, folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(InvalidCheckpoint, match=r"1 of 2 weight files.*model-00001"):
        opener(folder)


@pytest.mark.parametrize(
    ("opener", "lost"),
    [
        (open_vision_encoder, "multi_modal_projector.linear_2.weight"),
        (open_vision_encoder, "vision_tower.encoder.layers.1.mlp.fc1.bias"),
        (open_language_model, "language_model.model.norm.weight"),
        (open_language_model, "image_newline"),
    ],
)
def test_a_missing_weight_is_not_made_up(opener, lost, folder):
    rewrite(folder, lambda name: None if name == lost else name)

    with pytest.raises(InvalidCheckpoint, match=lost.split(".")[-2 if "." in lost else 0]):
        opener(folder)


def test_a_weight_of_another_shape(folder):
    edit(folder / "config.json", projector_hidden_act="relu")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["intermediate_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(InvalidCheckpoint, match="do not fit the config") as error:
        open_vision_encoder(folder)
    assert one_line(error)


def test_weights_without_a_vision_tower(folder):
    rewrite(folder, lambda name: None if name.startswith("vision_tower") else name)

    with pytest.raises(NoVisionTower, match="no weights of a vision tower"):
        open_vision_encoder(folder)


@OPENERS
def test_a_config_without_a_vision_half(opener, folder):
    edit(folder / "config.json", vision_config=None)

    with pytest.raises(NoVisionTower, match="no vision_config"):
        opener(folder)


@OPENERS
def test_a_text_model(opener, folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": 64}))

    with pytest.raises(NoVisionTower, match="qwen2 without a vision tower"):
        opener(folder)


@OPENERS
@pytest.mark.parametrize("model_type", ["never_heard_of", "qwen2_vl", None])
def test_a_type_without_an_adapter(opener, folder, model_type):
    edit(folder / "config.json", model_type=model_type)

    with pytest.raises(UnsupportedModel, match=f"{model_type}.*llava_onevision") as error:
        opener(folder)
    assert one_line(error)


def test_code_of_the_checkpoints_own_is_not_run(folder):
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    edit(folder / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModel": "evil.M"})
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]})

    open_vision_encoder(folder)
    open_language_model(folder)


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
@OPENERS
def test_a_config_that_is_not_json(opener, folder, text):
    (folder / "config.json").write_text(text)

    with pytest.raises(InvalidCheckpoint, match=r"config\.json") as error:
        opener(folder)
    assert one_line(error)


def test_a_config_of_wrong_types(folder):
    edit(folder / "config.json", text_config="qwen2")

    with pytest.raises(InvalidCheckpoint, match=r"config\.json does not describe") as error:
        open_vision_encoder(folder)
    assert one_line(error)


def test_a_missing_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()

    with pytest.raises(InvalidCheckpoint, match="tokenizer") as error:
        open_language_model(folder)
    assert one_line(error)


def test_a_damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")

    with pytest.raises(InvalidCheckpoint, match="tokenizer") as error:
        open_language_model(folder)
    assert one_line(error)


def test_a_video_token_the_tokenizer_does_not_have(folder):
    edit(folder / "config.json", video_token_index=9)

    with pytest.raises(InvalidCheckpoint, match="token 9 is 'what'"):
        open_language_model(folder)


def test_a_missing_chat_template(folder):
    (folder / "chat_template.jinja").unlink()

    with pytest.raises(InvalidCheckpoint, match="chat template"):
        open_language_model(folder)


def test_the_older_place_of_the_chat_template(folder, pristine):
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))

    older, newer = open_language_model(folder), open_language_model(pristine)

    assert torch.equal(scores(older, "what ?", []), scores(newer, "what ?", []))


def deeper_tower(name):
    return name.replace("vision_tower.", "vision_tower.vision_model.")


def as_in_memory(name):
    name = name.replace("language_model.lm_head", "lm_head")
    name = name.replace("language_model.model", "language_model")
    return name if name.startswith("lm_head") else "model." + name


@pytest.mark.parametrize("rename", [deeper_tower, as_in_memory])
def test_other_layouts_of_the_weights_names(folder, pristine, rename):
    """Published checkpoints of several ages name the same weights differently."""
    rewrite(folder, rename)

    frames = random_frames(1)
    other, known = open_vision_encoder(folder), open_vision_encoder(pristine)
    assert torch.equal(other.encode(frames).tokens, known.encode(frames).tokens)
    other, known = open_language_model(folder), open_language_model(pristine)
    assert torch.equal(scores(other, "what ?", []), scores(known, "what ?", []))


def test_tied_embeddings(tmp_path):
    model = open_language_model(write_tiny_checkpoint(tmp_path / "tied", tie_embeddings=True))

    head, embedding = model._half.get_output_embeddings(), model._half.get_input_embeddings()
    assert head.weight.data_ptr() == embedding.weight.data_ptr()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"size": {"shortest_edge": 112}}, UnsupportedModel, "shortest_edge"),
        ({"size": {"height": 112, "width": 96}}, InvalidCheckpoint, r"\(112, 96\).*112 squared"),
        ({"resample": 0}, UnsupportedModel, "filter 0"),
    ],
)
def test_pixel_settings_that_cannot_be_met(folder, changes, error, message):
    edit(folder / "video_preprocessor_config.json", **changes)

    with pytest.raises(error, match=message):
        open_vision_encoder(folder)


def test_missing_pixel_settings(folder):
    (folder / "preprocessor_config.json").unlink()
    edit(folder / "video_preprocessor_config.json", image_mean=None)

    with pytest.raises(InvalidCheckpoint, match="'image_mean'"):
        open_vision_encoder(folder)


def test_pixel_settings_in_the_newer_single_file(folder, pristine):
    image = json.loads((folder / "preprocessor_config.json").read_text())
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (folder / name).unlink()
    edit(folder / "processor_config.json", video_processor=image)

    assert open_vision_encoder(folder).identity == _identity(pristine, folder.name)


def test_settings_for_video_win_over_those_for_images(folder):
    edit(folder / "preprocessor_config.json", resample=2)
    assert open_vision_encoder(folder).pixel_format.resample == "bicubic"

    edit(folder / "video_preprocessor_config.json", resample=2)
    assert open_vision_encoder(folder).pixel_format.resample == "bilinear"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "int8"}, "float32, bfloat16"), ({"device": "tpu9"}, "'tpu9'")],
)
@OPENERS
def test_no_such_device_or_dtype(opener, pristine, options, message):
    with pytest.raises(ModelError, match=message) as error:
        opener(pristine, **options)
    assert one_line(error)


def test_a_copy_has_the_same_digest_and_other_weights_another(pristine, folder, tmp_path):
    other = write_tiny_checkpoint(tmp_path / "other", seed=1)

    identity = open_vision_encoder(pristine).identity

    assert open_vision_encoder(folder).identity.digest() == identity.digest()
    assert open_vision_encoder(other).identity.digest() != identity.digest()
    assert not identity.same_model(open_language_model(other).identity)


def test_the_digest_tells_dtype_and_processor_apart(pristine, folder):
    edit(folder / "video_preprocessor_config.json", image_mean=[0.4, 0.5, 0.5])
    identity = open_vision_encoder(pristine).identity

    half = open_vision_encoder(pristine, dtype="bfloat16").identity

    assert half.digest() != identity.digest()
    assert half.same_model(identity)
    assert not open_vision_encoder(folder).identity.same_model(identity)


def test_sampled_digest_sees_a_change_of_every_weight(monkeypatch, pristine, folder):
    monkeypatch.setattr("workers.models.checkpoint.WHOLE_DIGEST_BYTES", 0)
    before = open_checkpoint(folder).weights_digest()
    assert before == open_checkpoint(pristine).weights_digest()

    path = folder / "model.safetensors"
    changed = {name: tensor + 1e-3 for name, tensor in load_file(path).items()}
    save_file(changed, path, metadata={"format": "pt"})

    assert open_checkpoint(folder).weights_digest() != before


def test_loading_leaves_the_librarys_log_settings_alone(pristine):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    open_vision_encoder(pristine)

    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_two_threads_load_and_encode(pristine):
    frames, got = random_frames(1), {}
    expected = open_vision_encoder(pristine).encode(frames).tokens

    def run(i: int) -> None:
        got[i] = open_vision_encoder(pristine).encode(frames).tokens

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert all(torch.equal(got[i], expected) for i in range(2))


def test_two_threads_load_one_after_the_other(pristine, monkeypatch):
    """transformers changes its own classes while it loads, and is not made for two at once."""
    loading, most = [], []
    load = PreTrainedModel.from_pretrained.__func__

    def watched(cls, *args, **options):
        loading.append(cls)
        time.sleep(0.05)
        most.append(len(loading))
        try:
            return load(cls, *args, **options)
        finally:
            loading.pop()

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(watched))
    tie_weights = PreTrainedModel.tie_weights
    threads = [threading.Thread(target=open_vision_encoder, args=(pristine,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1, 1, 1]
    assert PreTrainedModel.tie_weights is tie_weights


def _identity(folder, name):
    from dataclasses import replace

    return replace(open_vision_encoder(folder).identity, model_id=name)
