"""Qwen3-VL on transformers' own classes, each half loaded without the other.

Beside its embedding, a token has features of several layers of the tower, which the language model
adds to it behind its first layers (DeepStack). All of them lie side by side in a token's row, so
that a merged token is merged in every part, and are told apart by the layout. Every layer of the
tower attends to the whole frame. A video is read as its temporal patches, each behind its time in
seconds: `<12.5 seconds>`.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    BaseModelOutputWithDeepstackFeatures,
    Qwen3VLPreTrainedModel,
    Qwen3VLVisionModel,
)

from workers.models.attention import PROBED_SDPA
from workers.models.base import ReadingStyle
from workers.models.catalog import TokenCost
from workers.models.checkpoint import Checkpoint
from workers.models.families.llava_onevision import attention_layers
from workers.models.families.qwen_vision import (
    PatchVision,
    measure_patches,
    read_patch_settings,
)
from workers.models.language import CachedTokensLanguageModel
from workers.models.loading import identify, load_config, load_half, open_prompt_writer
from workers.models.style import read_style
from workers.types import TokenLayout

READING = ReadingStyle(marks="frame", mark="<{}>", times="seconds", frames_per_mark=2)
"""As the model was trained: a time before every temporal patch."""


class _VisionHalf(Qwen3VLPreTrainedModel):
    """`Qwen3VLForConditionalGeneration` without its language model."""

    def __init__(self, config: Qwen3VLConfig) -> None:
        super().__init__(config)
        self.model = nn.Module()
        self.model.visual = Qwen3VLVisionModel._from_config(config.vision_config)
        self.post_init()


class Qwen3Vision(PatchVision):
    """A `VisionEncoder`; open it by `open_vision_encoder`."""

    def _tokens(self, output: Any) -> Float[Tensor, "n d"]:
        return torch.cat([output.pooler_output, *output.deepstack_features], dim=1)

    def _in_raster_order(self, cells: Float[Tensor, "t n"]) -> Float[Tensor, "t n"]:
        return cells


def open_vision(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Qwen3Vision:
    """Load the vision half of an opened checkpoint."""
    config, settings, layout = _open_config(checkpoint)
    chosen = checkpoint.config.get("attention_layers")
    layers = attention_layers(config.vision_config.depth, chosen)
    half = load_half(_VisionHalf, checkpoint, config, device, dtype, attention=PROBED_SDPA)
    return Qwen3Vision(half, identify(checkpoint, settings, dtype), settings, layers, layout)


def open_language(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype
) -> CachedTokensLanguageModel:
    """Load the language half of an opened checkpoint."""
    config, settings, layout = _open_config(checkpoint)
    reading = read_style(checkpoint, READING)
    writer = open_prompt_writer(
        checkpoint,
        config.video_token_id,
        bracket_ids=(config.vision_start_token_id, config.vision_end_token_id),
        positions_per_s=1.0,
        separator="",
    )
    config.vision_config.depth = 0  # of the tower, embeddings and mergers stay, unused
    half = load_half(Qwen3VLForConditionalGeneration, checkpoint, config, device, dtype)

    def as_videos(tokens: Float[Tensor, "n d"]) -> dict[str, Any]:
        embedding, *layers = tokens.split(list(layout.parts), dim=1)
        output: Any = BaseModelOutputWithDeepstackFeatures(
            pooler_output=[embedding],  # type: ignore[arg-type]
            deepstack_features=[[layer] for layer in layers],  # type: ignore[arg-type]
        )
        return {"video": output}

    identity = identify(checkpoint, settings, dtype)
    return CachedTokensLanguageModel(
        half, writer, None, identity, reading, layout=layout, as_output=as_videos
    )


def measure(checkpoint: Checkpoint) -> TokenCost:
    """See `Family.measure`."""
    config, settings, layout = _open_config(checkpoint)
    return measure_patches(config, settings, layout)


def _open_config(checkpoint: Checkpoint) -> tuple[Any, Any, TokenLayout]:
    checkpoint.require_vision()
    config = load_config(checkpoint, Qwen3VLConfig)
    vision = config.vision_config
    settings = read_patch_settings(checkpoint, vision)
    parts = (vision.out_hidden_size,) * (1 + len(vision.deepstack_visual_indexes))
    layout = TokenLayout(vision.temporal_patch_size, parts if len(parts) > 1 else ())
    return config, settings, layout
