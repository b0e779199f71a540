"""Parity of both halves with transformers' own pixel path, on a tiny random checkpoint."""

import json
import shutil

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from aot import InvalidFeatures, pool_grid
from tests.checkpoints import normalised_pixels, random_frames, write_tiny_checkpoint
from tests.scores import scores
from workers.errors import InvalidCheckpoint, PromptTooLong
from workers.models import (
    LanguageModel,
    VisionEncoder,
    VisualSegment,
    open_language_model,
    open_vision_encoder,
)
from workers.models.checkpoint import open_checkpoint
from workers.models.families.llava_onevision import attention_layers
from workers.models.pixels import read_pixel_settings

QUESTION = "what is the first shape ?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def encoder(folder) -> VisionEncoder:
    return open_vision_encoder(folder)


@pytest.fixture(scope="module")
def model(folder) -> LanguageModel:
    return open_language_model(folder)


@pytest.fixture(scope="module")
def reference(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()


def pooled(features) -> torch.Tensor:
    """All tokens of a clip as the language model reads them at retention 1."""
    return pool_grid(features.tokens, features.grid, "bilinear").flatten(0, 1)


def pixel_inputs(folder, reference, frames, question=QUESTION) -> dict:
    """Inputs of the pixel path, as the checkpoint's processor makes them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    content = [{"type": "video"}, {"type": "text", "text": question}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    num_tokens = len(frames) * 49 + 1
    ids = tokenizer(text.replace("<video>", "<video>" * num_tokens), return_tensors="pt")
    return {"input_ids": ids["input_ids"], "pixel_values_videos": normalised_pixels(frames)}


def hidden_states(reference, frames):
    tower = reference.model.vision_tower
    with torch.no_grad():
        return tower(
            normalised_pixels(frames)[0], output_hidden_states=True, output_attentions=True
        )


def test_features_are_the_projected_last_hidden_state(encoder, reference):
    frames = random_frames(3)

    features = encoder.encode(frames)

    hidden = hidden_states(reference, frames).hidden_states[-1]
    expected = reference.model.multi_modal_projector(hidden)
    torch.testing.assert_close(features.tokens, expected, rtol=1e-4, atol=1e-4)


def test_attention_received_is_eager_attentions_column_sum(encoder, reference):
    frames = random_frames(3)

    features = encoder.encode(frames)

    attentions = hidden_states(reference, frames).attentions
    local_layer, global_layer = encoder.attention_layers
    expected_local = attentions[local_layer].sum(2).mean(1)
    expected_global = attentions[global_layer].sum(2).mean(1)
    torch.testing.assert_close(features.local_attention, expected_local, rtol=0, atol=1e-5)
    torch.testing.assert_close(features.global_attention, expected_global, rtol=0, atol=1e-5)
    assert not torch.allclose(features.local_attention, features.global_attention, atol=1e-2)


def test_cached_tokens_give_the_pixel_paths_logits(folder, encoder, model, reference):
    frames = random_frames(4)
    segment = VisualSegment("", pooled(encoder.encode(frames)))

    logits = scores(model, QUESTION, [segment])

    with torch.no_grad():
        expected = reference(**pixel_inputs(folder, reference, frames)).logits[0]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cached_tokens_give_the_pixel_paths_text(folder, encoder, model, reference, seed):
    frames = random_frames(4, seed=seed)
    segment = VisualSegment("", pooled(encoder.encode(frames)))

    answer = "".join(model.stream_answer(QUESTION, [segment]))

    inputs = pixel_inputs(folder, reference, frames)
    output = reference.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    expected = AutoTokenizer.from_pretrained(folder).decode(output, skip_special_tokens=True)
    assert answer == expected
    assert answer


def test_the_answer_comes_in_pieces(encoder, model):
    segment = VisualSegment("", pooled(encoder.encode(random_frames(2))))

    pieces = list(model.stream_answer(QUESTION, [segment]))

    assert len(pieces) > 1


def test_inputs_embeds_give_the_same_when_encoder_outputs_are_not_taken(encoder, folder):
    plain = open_language_model(folder)
    plain._half._supports_mm_encoder_outputs = lambda: False
    tokens = pooled(encoder.encode(random_frames(2)))
    segments = [VisualSegment("[00:12]", tokens[:40]), VisualSegment("[00:20]", tokens[40:])]
    model = open_language_model(folder)

    torch.testing.assert_close(
        scores(plain, QUESTION, segments), scores(model, QUESTION, segments), rtol=0, atol=1e-5
    )
    assert "".join(plain.stream_answer(QUESTION, segments)) == "".join(
        model.stream_answer(QUESTION, segments)
    )


def test_segments_are_several_videos_to_the_model(folder, encoder, model, reference):
    frames = random_frames(4)
    tokens = pooled(encoder.encode(frames)).unflatten(0, (2, 98))
    segments = [VisualSegment("[00:12]", tokens[0]), VisualSegment("[00:20]", tokens[1])]

    logits = scores(model, QUESTION, segments)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    run = "<video>" * 99
    prompt = f"<|im_start|>user [00:12]{run}\n[00:20]{run}\n{QUESTION}<|im_end|>"
    ids = tokenizer(prompt + "<|im_start|>assistant\n", return_tensors="pt")["input_ids"]
    pixels = normalised_pixels(frames)[0].unflatten(0, (2, 2))  # two videos of two frames
    with torch.no_grad():
        expected = reference(input_ids=ids, pixel_values_videos=pixels).logits[0]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def test_a_question_alone_is_answered(model):
    assert "".join(model.stream_answer(QUESTION, []))


def test_a_segment_without_tokens_leaves_its_mark(model):
    empty = VisualSegment("[00:12]", torch.zeros(0, model.dim))

    with_mark = model.count_tokens(QUESTION, [empty])

    assert with_mark == model.count_tokens(QUESTION, []) + len(["[", "00", ":", "12", "]"])


def test_count_is_the_length_of_what_the_model_reads(encoder, model):
    segment = VisualSegment("[00:12]", pooled(encoder.encode(random_frames(2))))

    count = model.count_tokens(QUESTION, [segment])

    assert count == len(scores(model, QUESTION, [segment]))
    assert count == model.count_tokens(QUESTION, []) + 5 + 98 + 1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("vision_dim", [32, 384])
def test_a_frame_is_encoded_the_same_in_any_company(tmp_path, vision_dim, threads):
    folder = write_tiny_checkpoint(tmp_path / "m", vision_dim=vision_dim, vision_layers=2)
    encoder, frames = open_vision_encoder(folder), random_frames(5)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = encoder.encode(frames)
        for i in (0, 2, 4):
            alone = encoder.encode(frames[i : i + 1])
            assert torch.equal(together.tokens[i], alone.tokens[0])
            assert torch.equal(together.local_attention[i], alone.local_attention[0])
            assert torch.equal(together.global_attention[i], alone.global_attention[0])
    finally:
        torch.set_num_threads(before)


def test_frames_share_passes_where_that_is_faster(encoder, monkeypatch):
    frames = random_frames(5)
    alone = encoder.encode(frames)
    monkeypatch.setattr("workers.models.families.passes.FRAMES_PER_PASS_CPU", 2)

    together = encoder.encode(frames)

    torch.testing.assert_close(together.tokens, alone.tokens, rtol=0, atol=1e-5)
    torch.testing.assert_close(together.global_attention, alone.global_attention, rtol=0, atol=1e-5)


def test_arrays_and_tensors_encode_alike(encoder):
    frames = random_frames(2)
    frames.flags.writeable = False  # as Ray's shared memory hands them out

    from_array = encoder.encode(frames)

    assert torch.equal(from_array.tokens, encoder.encode(torch.tensor(np.array(frames))).tokens)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 100, 112, 3), r"\(2, 100, 112, 3\).*pixel_format"), ((0, 112, 112, 3), "empty clip")],
)
def test_frames_that_do_not_fit_are_refused(encoder, shape, message):
    with pytest.raises(InvalidFeatures, match=message):
        encoder.encode(np.zeros(shape, dtype=np.uint8))


def test_tokens_of_another_width_are_refused(model):
    with pytest.raises(InvalidFeatures, match="32 wide, expected 64"):
        scores(model, QUESTION, [VisualSegment("", torch.zeros(3, 32))])


def test_a_prompt_beyond_the_context_is_refused(tmp_path):
    small = open_language_model(write_tiny_checkpoint(tmp_path / "m", context_length=64))
    segment = VisualSegment("", torch.zeros(80, small.dim))

    with pytest.raises(PromptTooLong, match="at most 64"):
        small.stream_answer(QUESTION, [segment])


def test_kept_positions_beyond_the_context_are_refused(tmp_path):
    small = open_language_model(write_tiny_checkpoint(tmp_path / "m", context_length=64))
    segment = VisualSegment("", torch.zeros(1, small.dim), torch.tensor([70]), 80)

    with pytest.raises(PromptTooLong, match="without their positions"):
        small.stream_answer(QUESTION, [segment])


def test_a_default_answer_is_cut_to_the_context(tmp_path):
    small = open_language_model(write_tiny_checkpoint(tmp_path / "m", context_length=64))
    length = small.count_tokens(QUESTION, [])
    segment = VisualSegment("", torch.zeros(64 - length - 1 - 3, small.dim))

    words = "".join(small.stream_answer(QUESTION, [segment])).split()

    assert 1 <= len(words) <= 3


def test_half_precision_tokens_come_in_the_models_dtype(folder):
    features = open_vision_encoder(folder, dtype="bfloat16").encode(random_frames(2))

    assert features.tokens.dtype == torch.bfloat16
    assert features.local_attention.dtype == torch.float32
    torch.testing.assert_close(features.local_attention.mean(1), torch.ones(2), atol=1e-3, rtol=0)


def test_the_halves_hold_only_their_own_weights(encoder, model, reference):
    def size(module):
        return sum(parameter.numel() for parameter in module.parameters())

    vision = size(reference.model.vision_tower) + size(reference.model.multi_modal_projector)
    layers = size(reference.model.vision_tower.encoder.layers)

    assert size(encoder._half) == vision
    assert size(model._half) == size(reference) - layers


def test_the_halves_are_what_the_protocols_ask(encoder, model):
    assert isinstance(encoder, VisionEncoder)
    assert isinstance(model, LanguageModel)
    assert encoder.identity == model.identity
    assert (encoder.dim, encoder.grid, encoder.pooling) == (64, (14, 14), "bilinear")


@pytest.mark.parametrize(
    ("num_layers", "expected"),
    [(26, (5, 24)), (27, (5, 25)), (8, (1, 6)), (4, (1, 2)), (2, (0, 0)), (1, (0, 0))],
)
def test_attention_layers_scale_with_the_depth(num_layers, expected):
    assert attention_layers(num_layers) == expected


@pytest.mark.parametrize("chosen", [[4, 0], [-5, 0], [1], [0, 1, 2]])
def test_attention_layers_outside_the_tower_are_refused(chosen):
    with pytest.raises(InvalidCheckpoint, match="of the 4 kept"):
        attention_layers(4, chosen)


def test_whole_runs_with_positions_read_as_without(encoder, model):
    tokens = pooled(encoder.encode(random_frames(2)))
    segments = [VisualSegment("[00:12]", tokens[:50]), VisualSegment("[00:20]", tokens[50:])]
    placed = [
        VisualSegment(s.mark, s.tokens, torch.arange(len(s.tokens)), len(s.tokens))
        for s in segments
    ]

    torch.testing.assert_close(
        scores(model, QUESTION, placed), scores(model, QUESTION, segments), rtol=0, atol=1e-5
    )


def test_kept_tokens_with_positions_are_the_full_run_with_the_others_masked(encoder, model):
    tokens = pooled(encoder.encode(random_frames(2)))
    kept = torch.randperm(len(tokens))[:30].sort().values
    full = VisualSegment("[00:12]", tokens)
    placed = VisualSegment("[00:12]", tokens[kept], kept, len(tokens))

    logits = scores(model, QUESTION, [placed])

    prompt = model._writer.write(QUESTION, [full])
    inputs = model._inputs(prompt, model._features([full]))
    places = (prompt.input_ids[0] == model._writer.video_token_id).nonzero()[:-1, 0]
    mask = torch.ones_like(prompt.input_ids)
    mask[0, places] = 0
    mask[0, places[kept]] = 1
    positions = torch.arange(mask.shape[1])[None]
    with torch.no_grad():
        masked = model._half(**inputs | {"attention_mask": mask, "position_ids": positions})
    torch.testing.assert_close(logits, masked.logits[0, mask[0].bool()], rtol=0, atol=1e-4)
    repacked = scores(model, QUESTION, [VisualSegment("[00:12]", tokens[kept])])
    assert not torch.allclose(logits, repacked, atol=1e-2)


def test_an_answer_with_positions_continues_them(encoder, model):
    tokens = pooled(encoder.encode(random_frames(2)))
    kept = torch.arange(0, len(tokens), 3)
    segment = VisualSegment("", tokens[kept], kept, len(tokens))

    answer = "".join(model.stream_answer(QUESTION, [segment], max_new_tokens=4))

    prompt = model._writer.write(QUESTION, [segment])
    inputs = model._inputs(prompt, model._features([segment]))
    ids, positions = inputs["input_ids"], inputs["position_ids"]
    for _ in range(4):  # token by token, without a cache
        step = inputs | {"input_ids": ids, "position_ids": positions}
        step["attention_mask"] = torch.ones_like(ids)
        with torch.no_grad():
            best = model._half(**step).logits[0, -1].argmax()
        ids = torch.cat([ids, best.view(1, 1)], dim=1)
        positions = torch.cat([positions, positions[:, -1:] + 1], dim=1)
    expected = model._writer.tokenizer.decode(ids[0, -4:], skip_special_tokens=True)
    assert answer == expected


@pytest.mark.parametrize(
    ("positions", "num_positions"), [(torch.arange(3), None), (None, 3), (torch.arange(2), 3)]
)
def test_positions_that_do_not_fit_are_refused(positions, num_positions):
    with pytest.raises((InvalidFeatures, TypeCheckError)):  # the shapes' own check may be first
        VisualSegment("", torch.zeros(3, 64), positions, num_positions)


def test_the_generation_configs_length_holds_unless_asked_otherwise(folder, model):
    tokenizer = model._writer.tokenizer

    def num_tokens(**options):
        return len(
            tokenizer("".join(model.stream_answer("how many ?", [], **options)))["input_ids"]
        )

    assert num_tokens(max_new_tokens=3) == 3
    assert num_tokens() == model._half.generation_config.max_new_tokens == 12


def test_a_generation_config_that_samples_is_followed(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "sampling")
    sampling = {"do_sample": True, "temperature": 30.0, "top_k": 0, "max_new_tokens": 12}
    settings = json.loads((copy / "generation_config.json").read_text()) | sampling
    (copy / "generation_config.json").write_text(json.dumps(settings))
    model = open_language_model(copy)

    answers = {"".join(model.stream_answer(QUESTION, [])) for _ in range(3)}

    assert len(answers) == 3


def test_pixels_are_those_of_the_checkpoints_own_processor(folder):
    frames = random_frames(2)
    settings = read_pixel_settings(open_checkpoint(folder))

    ours = settings.normalise(frames, torch.device("cpu"), torch.float32)

    processor = AutoImageProcessor.from_pretrained(folder)
    for frame, got in zip(frames, ours, strict=True):
        base = processor(Image.fromarray(frame), return_tensors="pt")["pixel_values"][0, 0]
        torch.testing.assert_close(got, base, rtol=0, atol=1e-6)
