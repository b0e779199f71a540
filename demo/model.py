"""The miniature's architecture: LLaVA-OneVision's own classes at a size that trains on one core.

SigLIP reads 112 pixels in patches of 8 (14 x 14), the projector goes to the language model's
width, the family's bilinear pooling leaves 7 x 7 = 49 tokens a frame, Qwen2 reads them. Nothing
here differs from a full checkpoint but the sizes and the word-level vocabulary.
"""

import json
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from demo.tokenizer import build_tokenizer, list_vocabulary

IMAGE_SIZE = 112
PATCH_SIZE = 8
PATCHES = IMAGE_SIZE // PATCH_SIZE
CELLS = PATCHES // 2
"""Rows and columns of the pooled grid."""
TOKENS_PER_FRAME = CELLS * CELLS
ATTENTION_LAYERS = (1, 3)
"""Local: entry 5 of 26, scaled to 5 layers. Global: the last but one, under the pooled objective."""


def build_config() -> LlavaOnevisionConfig:
    """Sizes of the miniature: 1.0 M parameters see, 2.3 M read."""
    word = {w: i for i, w in enumerate(list_vocabulary())}
    vision = SiglipVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(word),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=word["<|end|>"],
        pad_token_id=word["<pad>"],
    )
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=word["<image>"],
        video_token_index=word["<video>"],
        image_token_id=word["<image>"],
        video_token_id=word["<video>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
        tie_word_embeddings=True,
    )


def build_model(seed: int = 0) -> LlavaOnevisionForConditionalGeneration:
    """A fresh model, fp32, with the attention of the language half started as a matcher.

    W_K = W_Q lets a question find the token that is like it from the first step, and
    W_O = W_V^T hands on what was found unchanged; both are free to move.
    """
    torch.manual_seed(seed)
    config = build_config()
    config._attn_implementation = "sdpa"
    model = LlavaOnevisionForConditionalGeneration(config)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            attention = layer.self_attn
            for name in ("q_proj", "v_proj"):
                weight = getattr(attention, name).weight
                torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.o_proj.weight.copy_(attention.v_proj.weight.T)
    return model


def export_model(model: LlavaOnevisionForConditionalGeneration, folder: Path) -> int:
    """Write the checkpoint in the Hugging Face layout, bf16 safetensors; returns its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    state = {key: value.to(torch.bfloat16) for key, value in model.state_dict().items()}
    half = LlavaOnevisionForConditionalGeneration(model.config).bfloat16()
    half.load_state_dict(state)
    half.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=8,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_processors(folder)
    _extend_config(folder / "config.json")
    return sum(path.stat().st_size for path in folder.iterdir())


def load_model(folder: Path) -> LlavaOnevisionForConditionalGeneration:
    """Read an exported checkpoint in float32, in evaluation mode."""
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, attn_implementation="sdpa"
    )
    return model.eval().requires_grad_(False)


def _write_processors(folder: Path) -> None:
    """Pixel settings in the files a processor of the family reads, and ours too."""
    shared = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "LlavaOnevisionProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    }
    image = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_grid_pinpoints": [[IMAGE_SIZE, IMAGE_SIZE]],
    }
    video = {"video_processor_type": "LlavaOnevisionVideoProcessor"}
    processor = {
        "processor_class": "LlavaOnevisionProcessor",
        "image_token": "<image>",
        "video_token": "<video>",
        "num_image_tokens": PATCHES * PATCHES,
        "vision_feature_select_strategy": "full",
    }
    for name, value in (
        ("preprocessor_config.json", shared | image),
        ("video_preprocessor_config.json", shared | video),
        ("processor_config.json", processor),
    ):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")


def _extend_config(path: Path) -> None:
    """Name the layers whose attention is read, and how time marks were written in training."""
    config = json.loads(path.read_text())
    config["attention_layers"] = list(ATTENTION_LAYERS)
    config["time_marks"] = {"per": "frame", "format": "HH:MM:SS"}
    path.write_text(json.dumps(config, indent=2) + "\n")
