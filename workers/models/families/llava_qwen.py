"""Checkpoints of the LLaVA-NeXT repository: LLaVA-Video, and LLaVA-OneVision as first published.

They are the parts of transformers' LLaVA-OneVision under other names (`model_type: llava_qwen`),
and are read into those classes. What differs is told by the config: how a frame is pooled (average
for LLaVA-Video) and where the learned newline stands (behind every row for LLaVA-Video). There is
neither a processor nor a token for video: both are constants of the repository that trained them.
"""

import math
from typing import Any

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from aot.pooling import pooled_grid
from aot.types import Pooling
from workers.errors import InvalidCheckpoint, UnsupportedModel, one_line
from workers.models.attention import PROBED_SDPA
from workers.models.base import ReadingStyle
from workers.models.catalog import TokenCost
from workers.models.checkpoint import Checkpoint
from workers.models.families.llava_onevision import (
    LlavaOnevisionVision,
    VisionHalf,
    attention_layers,
)
from workers.models.language import CachedTokensLanguageModel
from workers.models.loading import identify, load_half, make_reader, open_tokenizer
from workers.models.pixels import PixelSettings
from workers.models.prompt import PromptWriter
from workers.models.reader import TokenReader
from workers.models.runs import EndedRuns, PlainRuns, RowRuns, RunFormat
from workers.models.style import read_style
from workers.types import PixelFormat

TOWERS = {
    "google/siglip-so400m-patch14-384": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 26,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    },
}
"""Vision towers by name, with the layers that the repository keeps of them; a checkpoint may bring
its own `vision_config`."""
POOLINGS: tuple[Pooling, ...] = ("bilinear", "average")
PLACEHOLDER = "<image>"
CHAT_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The repository's conversation `qwen_1_5`."""
KEY_MAPPING = {
    r"^model\.vision_tower\.vision_tower\.vision_model": "model.vision_tower",
    r"^model\.mm_projector\.0": "model.multi_modal_projector.linear_1",
    r"^model\.mm_projector\.2": "model.multi_modal_projector.linear_2",
    r"^model\.(embed_tokens|layers|norm)\.": r"model.language_model.\1.",
}


def open_vision(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype
) -> LlavaOnevisionVision:
    """Load the vision half of an opened checkpoint."""
    config = _open_config(checkpoint)
    half = load_half(
        VisionHalf,
        checkpoint,
        config,
        device,
        dtype,
        attention=PROBED_SDPA,
        key_mapping=KEY_MAPPING,
    )
    vision, settings = config.vision_config, _pixel_settings(config)
    layers = attention_layers(vision.num_hidden_layers, checkpoint.config.get("attention_layers"))
    identity = identify(checkpoint, settings, dtype)
    return LlavaOnevisionVision(half, identity, settings, layers, _pooling(checkpoint))


def open_language(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype
) -> CachedTokensLanguageModel:
    """Load the language half of an opened checkpoint."""
    config = _open_config(checkpoint)
    settings, runs = _pixel_settings(config), _runs(checkpoint, config)
    reading, writer = _reading(checkpoint, config), _open_writer(checkpoint, config, runs)
    config.vision_config.num_hidden_layers = 0  # of the tower, the embeddings stay, unused
    half = load_half(
        LlavaOnevisionForConditionalGeneration,
        checkpoint,
        config,
        device,
        dtype,
        key_mapping=KEY_MAPPING,
    )
    newline = None if isinstance(runs, PlainRuns) else half.model.image_newline
    return CachedTokensLanguageModel(
        half, writer, newline, identify(checkpoint, settings, dtype), reading
    )


def open_reader(checkpoint: Checkpoint) -> TokenReader:
    """What reads tokens to a language model elsewhere."""
    config = _open_config(checkpoint)
    runs = _runs(checkpoint, config)
    writer = _open_writer(checkpoint, config, runs)
    return make_reader(
        checkpoint,
        config,
        _pixel_settings(config),
        writer,
        _reading(checkpoint, config),
        newline=not isinstance(runs, PlainRuns),
    )


def measure(checkpoint: Checkpoint) -> TokenCost:
    """See `Family.measure`."""
    config = _open_config(checkpoint)
    text, grid = config.get_text_config(), _read_grid(checkpoint, config)
    return TokenCost(
        math.prod(grid),
        text.hidden_size,
        text.max_position_embeddings,
        row_newlines=_reading(checkpoint, config).row_newlines,
    )


def as_onevision(
    given: dict[str, Any],
    model_id: str,
    config_class: type[LlavaOnevisionConfig] = LlavaOnevisionConfig,
) -> Any:
    """The config of LLaVA-OneVision that describes the parts of a `config.json`.

    Raises:
        UnsupportedModel, InvalidCheckpoint: it describes others, or none.
    """
    tower = given.get("vision_config") or TOWERS.get(str(given.get("mm_vision_tower")))
    if not isinstance(tower, dict):
        raise UnsupportedModel(
            f"{model_id} has the vision tower {given.get('mm_vision_tower')!r}, "
            f"expected one of {', '.join(TOWERS)}; choose another checkpoint"
        )
    if given.get("mm_projector_type") != "mlp2x_gelu":
        raise UnsupportedModel(
            f"{model_id} has a projector {given.get('mm_projector_type')!r}, expected "
            "mlp2x_gelu; choose another checkpoint"
        )
    if given.get("mm_spatial_pool_stride", 2) != 2:
        raise UnsupportedModel(
            f"{model_id} pools by {given['mm_spatial_pool_stride']}, expected 2; "
            "choose another checkpoint"
        )
    try:
        text = {**given, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
        config = config_class(
            vision_config=SiglipVisionConfig(**{**tower, "vision_use_head": False}),
            text_config=Qwen2Config.from_dict(text),
            projector_hidden_act="gelu",
            vision_feature_layer=-1,
            tie_word_embeddings=bool(given.get("tie_word_embeddings", False)),
        )
    except Exception as error:  # the library's validation raises many types
        raise InvalidCheckpoint(
            f"{model_id}: config.json does not describe a llava_qwen "
            f"({one_line(error)}); fetch the checkpoint again"
        ) from error
    return config


def _open_config(checkpoint: Checkpoint) -> Any:
    return as_onevision(checkpoint.config, checkpoint.model_id)


def _pixel_settings(config: Any) -> PixelSettings:
    """As the repository's `SigLipImageProcessor` has them."""
    side, half = config.vision_config.image_size, (0.5, 0.5, 0.5)
    return PixelSettings(PixelFormat(side, side, "bicubic"), 1 / 255, half, half)


def _pooling(checkpoint: Checkpoint) -> Pooling:
    name = checkpoint.config.get("mm_spatial_pool_mode", "bilinear")
    for pooling in POOLINGS:
        if name == pooling:
            return pooling
    raise UnsupportedModel(
        f"{checkpoint.model_id} pools by {name!r}, expected {' or '.join(POOLINGS)}; "
        "choose another checkpoint"
    )


def _read_grid(checkpoint: Checkpoint, config: Any) -> tuple[int, int]:
    """Rows and columns that the language model reads of a frame."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return pooled_grid((side, side), _pooling(checkpoint))


def _runs(checkpoint: Checkpoint, config: Any) -> RunFormat:
    """Newlines as `mm_newline_position` says; the repository's own default is one a video."""
    position = checkpoint.config.get("mm_newline_position", "one_token")
    if position == "grid":
        return RowRuns(_read_grid(checkpoint, config)[1])
    if position == "one_token":
        return EndedRuns()
    if position == "no_token":
        return PlainRuns()
    raise UnsupportedModel(
        f"{checkpoint.model_id} has mm_newline_position {position!r}, expected grid, one_token or "
        "no_token; choose another checkpoint"
    )


def _reading(checkpoint: Checkpoint, config: Any) -> ReadingStyle:
    is_grid = isinstance(_runs(checkpoint, config), RowRuns)
    rows = _read_grid(checkpoint, config)[0] if is_grid else 0
    return read_style(checkpoint, ReadingStyle(row_newlines=rows))


def _open_writer(checkpoint: Checkpoint, config: Any, runs: RunFormat) -> PromptWriter:
    """Tokenizer and conversation; the placeholder takes an id that no text has."""
    tokenizer = open_tokenizer(checkpoint)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.add_tokens([PLACEHOLDER], special_tokens=True)
    token_id = tokenizer.convert_tokens_to_ids(PLACEHOLDER)
    if token_id >= config.text_config.vocab_size:
        raise InvalidCheckpoint(
            f"{checkpoint.model_id}: the tokenizer has {token_id} tokens and the model "
            f"{config.text_config.vocab_size} embeddings, expected one more for visual tokens; "
            "fetch the checkpoint again"
        )
    config.video_token_index = config.video_token_id = token_id
    return PromptWriter(tokenizer, PLACEHOLDER, token_id, runs)
