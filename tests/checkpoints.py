"""Tiny random checkpoints in the Hugging Face layout, so that the real loading code is tested.

A folder written here is what a hub repository of the family holds: config, safetensors, tokenizer,
image and video processor settings, chat template, generation config. The weights are random and
the answers are gibberish; what they prove is loading, shapes, parity and determinism.

    folder = write_tiny_checkpoint(tmp_path / "model")
    AutoModelForImageTextToText.from_pretrained(folder)       # works
    AutoTokenizer.from_pretrained(folder)                     # works
    AutoImageProcessor.from_pretrained(folder)                # works (PIL)
    AutoProcessor.from_pretrained(folder)                     # needs torchvision

Without torchvision the reference for pixels is `normalised_pixels` below.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from bench.random_checkpoint import (
    PIXEL_MEAN,
    PIXEL_STD,
    SPECIAL,
    CheckpointSize,
    write_random_checkpoint,
)

_WORDS = (
    "user assistant system what is the a an in on of and was there how many which first last "
    "colour color shape person car dog slide red blue green yellow white black circle square "
    "time when before after left right moved seen video frame yes no it does show happens at "
    "question answer door"
)
WORDS = (
    *_WORDS.split(),
    *(f"{number:02d}" for number in range(100)),
    *"0123456789",
    *"[]():.,?!-\"'",
)
# Vision first, then the text: the order of the published checkpoints' template.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'video' %}{{ '<video>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{{ '\\n' + part['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


TINY = CheckpointSize(
    vision_layers=4, vision_dim=32, vision_mlp_dim=48, llm_heads=4, llm_mlp_dim=96
)
"""112x112 pixels in patches of 8: a grid of 14x14, 7x7 after the pooling; tokens 64 wide."""


def write_tiny_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    max_new_tokens: int = 12,
    dtype: torch.dtype = torch.float32,
    **size: Any,
) -> Path:
    """Write a random `LlavaOnevisionForConditionalGeneration` and all that belongs to it.

    `size` takes fields of `CheckpointSize` that differ from `TINY`'s; about 0.1 M parameters. The
    same seed gives the same bytes.

    Returns the folder.
    """
    chosen = replace(TINY, **size)
    return write_random_checkpoint(
        folder,
        chosen,
        tokenizer=_word_tokenizer(chosen.context_length),
        seed=seed,
        telling=True,
        dtype=dtype,
        max_new_tokens=max_new_tokens,
    )


def write_tiny_llava_video(
    folder: Path,
    *,
    seed: int = 0,
    newline: str = "grid",
    pooling: str = "average",
    max_new_tokens: int = 12,
    **size: Any,
) -> Path:
    """A checkpoint as the LLaVA-NeXT repository writes them (`llava_qwen`): its own names of the
    weights, no processor, no token for pictures. 120x120 pixels in patches of 8 by default: a grid
    of 15x15, 7x7 after average pooling.
    """
    whole = write_tiny_checkpoint(
        folder / "whole", seed=seed, max_new_tokens=max_new_tokens, **{"image_size": 120, **size}
    )
    config = json.loads((whole / "config.json").read_text())
    text, tower = config["text_config"], config["vision_config"]
    wanted = {
        **{name: value for name, value in text.items() if name != "model_type"},
        "vocab_size": text["vocab_size"] + 2,
        "model_type": "llava_qwen",
        "architectures": ["LlavaQwenForCausalLM"],
        "mm_vision_tower": "tiny",
        "vision_config": tower,
        "mm_projector_type": "mlp2x_gelu",
        "mm_newline_position": newline,
        "mm_spatial_pool_mode": pooling,
        "mm_spatial_pool_stride": 2,
        "mm_vision_select_layer": -2,
    }
    (folder / "config.json").write_text(json.dumps(wanted, indent=2))
    weights = {_llava_name(k): v for k, v in load_file(whole / "model.safetensors").items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        spare = torch.full_like(weights[name][:2], 0.5)
        weights[name] = torch.cat([weights[name], spare])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    shutil.copy(whole / "generation_config.json", folder)
    shutil.rmtree(whole)
    _word_tokenizer(text["max_position_embeddings"], pictures=False).save_pretrained(folder)
    return folder


def _llava_name(name: str) -> str:
    """Of a tensor of transformers' LLaVA-OneVision, in the repository that trained it."""
    renamed = [
        (
            r"^(model\.)?vision_tower\.(vision_model\.)?",
            "model.vision_tower.vision_tower.vision_model.",
        ),
        (r"^(model\.)?multi_modal_projector\.linear_1", "model.mm_projector.0"),
        (r"^(model\.)?multi_modal_projector\.linear_2", "model.mm_projector.2"),
        (r"^(model\.)?image_newline", "model.image_newline"),
        (r"^(model\.)?language_model\.(model\.)?lm_head", "lm_head"),
        (r"^(model\.)?language_model\.(model\.)?", "model."),
    ]
    for pattern, target in renamed:
        if re.match(pattern, name):
            return re.sub(pattern, target, name)
    return name


def normalised_pixels(frames: UInt8[np.ndarray, "t h w 3"]) -> Float[Tensor, "1 t 3 h w"]:
    """`pixel_values_videos` of frames that have the model's size already: rescale, normalise."""
    pixels = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor(PIXEL_MEAN).view(3, 1, 1)
    std = torch.tensor(PIXEL_STD).view(3, 1, 1)
    return ((pixels - mean) / std)[None]


def random_frames(num_frames: int, size: int = 112, seed: int = 0) -> UInt8[np.ndarray, "t h w 3"]:
    """Blocks of random colours, so that patches differ from each other and across frames."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (num_frames, -(-size // 8), -(-size // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(blocks.repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size])


def _word_tokenizer(context_length: int, *, pictures: bool = True) -> PreTrainedTokenizerFast:
    """`pictures`: with tokens that stand for them."""
    special = SPECIAL if pictures else SPECIAL[:4]
    # Words keep their ids without the tokens for pictures.
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *dict.fromkeys(WORDS)))}
    if not pictures:
        vocabulary |= {
            f"<unused{index}>": vocabulary.pop(name) for index, name in enumerate(SPECIAL[4:])
        }
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    words.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    words.add_special_tokens([AddedToken(token, special=True) for token in special])
    extra = {"image_token": "<image>", "video_token": "<video>"} if pictures else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<|im_end|>",
        extra_special_tokens=extra,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
