"""Checkpoints with random weights of any size, to measure with where no trained one is at hand.

What is written is a whole LLaVA-OneVision folder: config, safetensors, tokenizer, chat template,
processor settings. It costs what a trained one of its size costs, and answers gibberish.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

SPECIAL = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
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
    llm_layers: int = 2
    llm_dim: int = 64
    llm_heads: int = 2
    llm_kv_heads: int = 2
    llm_mlp_dim: int = 128


def write_random_checkpoint(folder: Path, size: CheckpointSize) -> Path:
    """Write a checkpoint in float32, the same for the same size; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaOnevisionForConditionalGeneration(_config(size, len(tokenizer)))
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_processors(folder, size.image_size)
    return folder


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
            max_position_embeddings=32768,
        ),
        image_token_index=SPECIAL.index("<image>"),
        video_token_index=SPECIAL.index("<video>"),
        vision_feature_layer=-1,
        image_grid_pinpoints=[[size.image_size, size.image_size]],
    )


def _tokenizer() -> PreTrainedTokenizerFast:
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


def _write_processors(folder: Path, image_size: int) -> None:
    pixels = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "rescale_factor": 1 / 255,
        "resample": 3,
        "size": {"height": image_size, "width": image_size},
    }
    names = {
        "preprocessor_config.json": {"image_processor_type": "LlavaOnevisionImageProcessor"},
        "video_preprocessor_config.json": {"video_processor_type": "LlavaOnevisionVideoProcessor"},
    }
    for name, kind in names.items():
        (folder / name).write_text(json.dumps(pixels | kind))
