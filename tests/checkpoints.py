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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import (
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from bench.random_checkpoint import (
    PIXEL_MEAN,
    PIXEL_STD,
    SPECIAL,
    CheckpointSize,
    widen,
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


QWEN_SPECIAL = (
    *SPECIAL[:4],
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
QWEN_WORDS = ("seconds", "<", ">")
# Parts in their order, as the published checkpoints' template has them.
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_FRAME = (80, 112)
"""Pixels of a frame: 5x7 cells of 16."""


def write_tiny_qwen2_5_vl(folder: Path, *, seed: int = 0, max_new_tokens: int = 12) -> Path:
    """A random `Qwen2_5_VLForConditionalGeneration`; layers 1 and 3 of 5 see whole frames."""
    vision = {
        "depth": 5,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 8,
        "window_size": 32,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1, 3],
        "tokens_per_second": 2,
    }
    config = Qwen2_5_VLConfig(
        vision_config=vision, text_config=_qwen_text([2, 3, 3]), **_qwen_ids()
    )
    model = Qwen2_5_VLForConditionalGeneration
    return _write_qwen(folder, model, config, seed, max_new_tokens, (0.48, 0.46, 0.41))


def write_tiny_qwen3_vl(folder: Path, *, seed: int = 0, max_new_tokens: int = 12) -> Path:
    """A random `Qwen3VLForConditionalGeneration`, with the features of two layers beside its
    embeddings.
    """
    vision = {
        "depth": 5,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 8,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [1, 3],
    }
    text = _qwen_text([4, 2, 2], interleaved=True) | {"num_hidden_layers": 3}
    config = Qwen3VLConfig(vision_config=vision, text_config=text, **_qwen_ids())
    model = Qwen3VLForConditionalGeneration
    return _write_qwen(folder, model, config, seed, max_new_tokens, (0.5, 0.5, 0.5))


INTERN_SPECIAL = (*SPECIAL[:4], "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
INTERN_WORDS = ("frame", ":")
# As published: a line for a video, whose frames the processor writes.
INTERN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}<video>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_internvl(
    folder: Path, *, seed: int = 0, max_new_tokens: int = 12, llm_heads: int = 4
) -> Path:
    """A random `InternVLForConditionalGeneration`: 96x96 pixels, 6x6 tokens of 2x2 patches."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": [96, 96],
        "patch_size": [8, 8],
    }
    text = {
        "model_type": "qwen2",
        "vocab_size": len(_vocabulary(INTERN_SPECIAL)),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": llm_heads,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
    }
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=INTERN_SPECIAL.index("<IMG_CONTEXT>"),
        image_seq_length=36,
        tie_word_embeddings=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _word_tokenizer(32768, INTERN_SPECIAL, INTERN_TEMPLATE)
    _write_model(folder, InternVLForConditionalGeneration, config, tokenizer, seed, max_new_tokens)
    processor = {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "size": {"height": 96, "width": 96},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def _write_model(
    folder: Path,
    model_class: Any,
    config: Any,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    max_new_tokens: int,
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        widen(model)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _qwen_ids() -> dict[str, Any]:
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return {name: number for number, name in enumerate(names, 4)}


def _qwen_text(sections: list[int], *, interleaved: bool = False) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections}
    if interleaved:
        rope["mrope_interleaved"] = True
    return {
        "vocab_size": len(_vocabulary(QWEN_SPECIAL)),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 32768,
        "rope_parameters": rope,
        "tie_word_embeddings": False,
    }


def _write_qwen(
    folder: Path,
    model_class: Any,
    config: Any,
    seed: int,
    max_new_tokens: int,
    mean: tuple[float, float, float],
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _word_tokenizer(32768, QWEN_SPECIAL, QWEN_TEMPLATE)
    _write_model(folder, model_class, config, tokenizer, seed, max_new_tokens)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | {"frame_size": list(QWEN_FRAME)}))
    # As published: neither a size of frames nor an interpolation.
    processor = {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 8,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": list(mean),
        "image_std": [0.27, 0.26, 0.28],
        "image_processor_type": "Qwen2VLImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


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
    tokenizer = _word_tokenizer(text["max_position_embeddings"], pictures=False)
    tokenizer.save_pretrained(folder)
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


def _vocabulary(special: Sequence[str]) -> dict[str, int]:
    more = {QWEN_SPECIAL: QWEN_WORDS, INTERN_SPECIAL: INTERN_WORDS}
    words = (*WORDS, *more.get(tuple(special), ()))
    return {word: index for index, word in enumerate((*special, *dict.fromkeys(words)))}


def _word_tokenizer(
    context_length: int,
    special: Sequence[str] = SPECIAL,
    chat_template: str = CHAT_TEMPLATE,
    *,
    pictures: bool = True,
) -> PreTrainedTokenizerFast:
    """`pictures`: with LLaVA-OneVision's tokens that stand for them."""
    vocabulary = _vocabulary(special)
    if not pictures:  # words keep their ids
        unused = {f"<unused{name[1:]}": vocabulary.pop(name) for name in special[4:]}
        vocabulary, special = unused | vocabulary, special[:4]
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    words.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    words.add_special_tokens([AddedToken(token, special=True) for token in special])
    names = {
        "image_token": "<image>",
        "video_token": "<video>",
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<|im_end|>",
        extra_special_tokens={k: v for k, v in names.items() if v in special},
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
        chat_template=chat_template,
    )
