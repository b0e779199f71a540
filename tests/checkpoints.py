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
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

SPECIAL = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
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
PIXEL_MEAN = (0.5, 0.5, 0.5)
PIXEL_STD = (0.5, 0.5, 0.5)
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


def write_tiny_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    image_size: int = 112,
    patch_size: int = 8,
    vision_layers: int = 4,
    vision_dim: int = 32,
    vision_heads: int = 2,
    vision_mlp_dim: int = 48,
    vision_feature_layer: int = -1,
    llm_layers: int = 2,
    llm_dim: int = 64,
    llm_heads: int = 4,
    llm_kv_heads: int = 2,
    llm_mlp_dim: int = 96,
    tie_embeddings: bool = False,
    context_length: int = 32768,
    max_new_tokens: int = 12,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a random `LlavaOnevisionForConditionalGeneration` and all that belongs to it.

    The defaults are 112x112 pixels in patches of 8: a grid of 14x14, 7x7 after the pooling, and
    tokens 64 wide; about 0.1 M parameters. The same seed gives the same bytes.

    Returns the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(context_length)
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=vision_dim,
            intermediate_size=vision_mlp_dim,
            num_hidden_layers=vision_layers,
            num_attention_heads=vision_heads,
            image_size=image_size,
            patch_size=patch_size,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=llm_dim,
            intermediate_size=llm_mlp_dim,
            num_hidden_layers=llm_layers,
            num_attention_heads=llm_heads,
            num_key_value_heads=llm_kv_heads,
            max_position_embeddings=context_length,
            tie_word_embeddings=tie_embeddings,
        ),
        image_token_index=SPECIAL.index("<image>"),
        video_token_index=SPECIAL.index("<video>"),
        vision_feature_layer=vision_feature_layer,
        tie_word_embeddings=tie_embeddings,
        image_grid_pinpoints=[[image_size, image_size]],
    )
    model = _random_model(config, seed)
    model.to(dtype=dtype)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_processors(folder, image_size, (image_size // patch_size) ** 2)
    return folder


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


def _random_model(
    config: LlavaOnevisionConfig, seed: int
) -> LlavaOnevisionForConditionalGeneration:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaOnevisionForConditionalGeneration(config).eval()
        # The library's own initialisation is so narrow that attention is uniform and every answer
        # the same; wider weights make differences visible.
        for parameter in model.parameters():
            scale = 0.6 if parameter.ndim < 2 else 1.5 * parameter[0].numel() ** -0.5
            noise = torch.randn_like(parameter) * scale
            parameter.data = 1 + 0.1 * noise if _is_norm_scale(parameter) else noise
    return model


def _is_norm_scale(parameter: Tensor) -> bool:
    return parameter.ndim == 1 and bool((parameter == 1).all())


def _tokenizer(context_length: int) -> PreTrainedTokenizerFast:
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


def _write_processors(folder: Path, image_size: int, num_image_tokens: int) -> None:
    shared = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": list(PIXEL_MEAN),
        "image_std": list(PIXEL_STD),
        "rescale_factor": 1 / 255,
        "resample": 3,  # bicubic
        "size": {"height": image_size, "width": image_size},
        "processor_class": "LlavaOnevisionProcessor",
    }
    image = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_grid_pinpoints": [[image_size, image_size]],
        "do_pad": True,
    }
    video = {"video_processor_type": "LlavaOnevisionVideoProcessor"}
    processor = {
        "processor_class": "LlavaOnevisionProcessor",
        "image_token": "<image>",
        "video_token": "<video>",
        "num_image_tokens": num_image_tokens,
        "vision_feature_select_strategy": "full",
    }
    _write_json(folder / "preprocessor_config.json", shared | image)
    _write_json(folder / "video_preprocessor_config.json", shared | video)
    _write_json(folder / "processor_config.json", processor)


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
