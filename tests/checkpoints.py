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

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
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


def _word_tokenizer(context_length: int) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *dict.fromkeys(WORDS)))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    words.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    words.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<|im_end|>",
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
