"""Checkpoints with random weights of any size, to measure with where no trained one is at hand.

What is written is a whole LLaVA-OneVision folder: config, safetensors, tokenizer, chat template,
processor settings. It costs what a trained one of its size costs, and answers gibberish.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

SPECIAL = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
PIXEL_MEAN = PIXEL_STD = (0.5, 0.5, 0.5)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% for part in message['content'] if part['type'] == 'video' %}<video>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}\n{{ part['text'] }}"
    "{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class CheckpointSize:
    """Widths and depths; the defaults are tiny."""

    image_size: int = 112
    patch_size: int = 8
    vision_layers: int = 2
    vision_dim: int = 64
    vision_heads: int = 2
    vision_mlp_dim: int = 128
    vision_feature_layer: int = -1
    llm_layers: int = 2
    llm_dim: int = 64
    llm_heads: int = 2
    llm_kv_heads: int = 2
    llm_mlp_dim: int = 128
    tie_embeddings: bool = False
    context_length: int = 32768
    vocab_size: int | None = None
    """Rows of the embeddings, at least the tokenizer's; None for just these."""

    @property
    def num_patches(self) -> int:
        """Of a picture, before any pooling."""
        return (self.image_size // self.patch_size) ** 2


def write_random_checkpoint(
    folder: Path,
    size: CheckpointSize,
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    seed: int = 0,
    telling: bool = False,
    dtype: torch.dtype = torch.float32,
    max_new_tokens: int | None = None,
) -> Path:
    """Write a checkpoint, the same bytes for the same arguments; return the folder.

    `telling`: weights so wide that attention is uneven and answers differ; the library's own are
    so narrow that every input looks alike, which costs the same and is all that a bench needs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer or _character_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaOnevisionForConditionalGeneration(
            _config(size, size.vocab_size or len(tokenizer))
        )
        if telling:
            widen(model)
    nn.Module.to(model, dtype=dtype)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_processors(folder, size)
    return folder


def widen(model: nn.Module) -> None:
    """Weights so wide that attention is uneven and answers differ."""
    for parameter in model.parameters():
        scale = 0.6 if parameter.ndim < 2 else 1.5 * parameter[0].numel() ** -0.5
        noise = torch.randn_like(parameter) * scale
        scales_a_norm = parameter.ndim == 1 and bool((parameter == 1).all())
        parameter.data = 1 + 0.1 * noise if scales_a_norm else noise


def _config(size: CheckpointSize, vocab_size: int) -> LlavaOnevisionConfig:
    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=size.vision_dim,
            intermediate_size=size.vision_mlp_dim,
            num_hidden_layers=size.vision_layers,
            num_attention_heads=size.vision_heads,
            image_size=size.image_size,
            patch_size=size.patch_size,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=vocab_size,
            hidden_size=size.llm_dim,
            intermediate_size=size.llm_mlp_dim,
            num_hidden_layers=size.llm_layers,
            num_attention_heads=size.llm_heads,
            num_key_value_heads=size.llm_kv_heads,
            max_position_embeddings=size.context_length,
            tie_word_embeddings=size.tie_embeddings,
        ),
        image_token_index=SPECIAL.index("<image>"),
        video_token_index=SPECIAL.index("<video>"),
        vision_feature_layer=size.vision_feature_layer,
        tie_word_embeddings=size.tie_embeddings,
        image_grid_pinpoints=[[size.image_size, size.image_size]],
    )


def _character_tokenizer() -> PreTrainedTokenizerFast:
    """A character each: about as many tokens a time mark as published vocabularies take."""
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *characters))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    words.decoder = decoders.Fuse()
    words.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<|im_end|>",
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
        chat_template=CHAT_TEMPLATE,
    )


def _write_processors(folder: Path, size: CheckpointSize) -> None:
    pixels = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": list(PIXEL_MEAN),
        "image_std": list(PIXEL_STD),
        "rescale_factor": 1 / 255,
        "resample": 3,  # bicubic
        "size": {"height": size.image_size, "width": size.image_size},
        "processor_class": "LlavaOnevisionProcessor",
    }
    image = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_grid_pinpoints": [[size.image_size, size.image_size]],
        "do_pad": True,
    }
    video = {"video_processor_type": "LlavaOnevisionVideoProcessor"}
    processor = {
        "processor_class": "LlavaOnevisionProcessor",
        "image_token": "<image>",
        "video_token": "<video>",
        "num_image_tokens": size.num_patches,
        "vision_feature_select_strategy": "full",
    }
    _write_json(folder / "preprocessor_config.json", pixels | image)
    _write_json(folder / "video_preprocessor_config.json", pixels | video)
    _write_json(folder / "processor_config.json", processor)


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
