"""The miniature's architecture: LLaVA-OneVision's own classes at a size that trains on one core.

SigLIP reads 112 pixels in patches of 8 (14 x 14), the projector goes to the language model's
width, the family's bilinear pooling leaves 7 x 7 = 49 tokens a frame, Qwen2 reads them. Nothing
here differs from a full checkpoint but the sizes and the word-level vocabulary.
"""

import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from demo.miniature.tokenizer import build_tokenizer, list_vocabulary
from demo.world.scenes import COLOURS, LETTERS, SHAPES

IMAGE_SIZE = 112
PATCH_SIZE = 8
PATCHES = IMAGE_SIZE // PATCH_SIZE
CELLS = PATCHES // 2
"""Rows and columns of the pooled grid."""
TOKENS_PER_FRAME = CELLS * CELLS
ATTENTION_LAYERS = (1, 3)
"""Local: entry 5 of 26, scaled to 5 layers. Global: the last but one, which is pooled."""


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
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
        tie_word_embeddings=True,
    )


def build_model(seed: int = 0) -> LlavaOnevisionForConditionalGeneration:
    """A fresh model, fp32, its attention started as a matcher, its patches knowing their place.

    W_K = W_Q lets a token find those like it from the first step (a question the thing it names, a
    patch its neighbours, whose sine positions are alike), and W_O = W_V^T hands on what was found
    unchanged. All of it is free to move.
    """
    torch.manual_seed(seed)
    config = build_config()
    config._attn_implementation = "sdpa"
    model = LlavaOnevisionForConditionalGeneration(config)
    layers = [*model.model.language_model.layers, *model.model.vision_tower.encoder.layers]
    with torch.no_grad():
        for layer in layers:
            attention = layer.self_attn
            out = attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj
            for projection in (attention.q_proj, attention.v_proj):
                torch.nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            out.weight.copy_(attention.v_proj.weight.T)
        positions = model.model.vision_tower.embeddings.position_embedding.weight
        positions.copy_(0.5 * _sine_positions(PATCHES, positions.shape[1]))
    return model


def _sine_positions(side: int, dim: int) -> Float[Tensor, "n d"]:
    """Sines and cosines of row and column: near patches are alike, far ones are not."""
    rates = 20.0 ** -(torch.arange(dim // 4) / (dim // 4))
    angles = torch.arange(side)[:, None] * rates
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = axis[:, None].expand(side, side, -1)
    columns = axis[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


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
    for path in folder.iterdir():
        path.chmod(0o644)
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
    """Name the layers whose attention is read, and how tokens were read in training."""
    config = json.loads(path.read_text())
    config["attention_layers"] = list(ATTENTION_LAYERS)
    for half in ("text_config", "vision_config"):
        config[half].pop("dtype", None)  # of a model read in another one to be trained on
    config["time_marks"] = {"per": "frame", "format": "HH:MM:SS", "keep_positions": True}
    config["relevance"] = [
        {"ask": "was {} shown ?", "of": [f"slide {letter}" for letter in LETTERS]},
        {"ask": "was there a {} ?", "of": [f"{c} {s}" for c in COLOURS for s in SHAPES]},
        {"ask": "was there a {answer} {} ?", "of": list(SHAPES)},
        {"ask": "was there a {} {answer} ?", "of": list(COLOURS)},
    ]
    path.write_text(json.dumps(config, indent=2) + "\n")
