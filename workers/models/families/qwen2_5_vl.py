"""Qwen2.5-VL on transformers' own classes, each half loaded without the other.

Most layers of its tower attend within windows of 112 pixels; what a patch receives there says
nothing of the rest of the frame, so that attention is read in layers with full attention. The
language half numbers time, rows and columns apart; time by the clock, `tokens_per_second` positions
a second, so that a token stands at its true time whatever is left around it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLPreTrainedModel,
)
from transformers.vision_utils import get_vision_window_index

from workers.errors import InvalidCheckpoint
from workers.models.attention import PROBED_SDPA
from workers.models.catalog import TokenCost
from workers.models.checkpoint import Checkpoint
from workers.models.families.qwen_vision import (
    PatchVision,
    measure_patches,
    read_patch_settings,
)
from workers.models.language import CachedTokensLanguageModel
from workers.models.loading import identify, load_config, load_half, open_prompt_writer
from workers.models.style import read_style
from workers.types import TokenLayout

KEY_MAPPING = {r"^visual\.": "model.visual."}


class _VisionHalf(Qwen2_5_VLPreTrainedModel):
    """`Qwen2_5_VLForConditionalGeneration` without its language model."""

    def __init__(self, config: Qwen2_5_VLConfig) -> None:
        super().__init__(config)
        self.model = nn.Module()
        self.model.visual = Qwen2_5_VisionTransformerPretrainedModel._from_config(
            config.vision_config
        )
        self.post_init()


class Qwen25Vision(PatchVision):
    """A `VisionEncoder`; open it by `open_vision_encoder`."""

    def _tokens(self, output: Any) -> Float[Tensor, "n d"]:
        return output.pooler_output

    def _in_raster_order(self, cells: Float[Tensor, "t n"]) -> Float[Tensor, "t n"]:
        """Layers have the cells window by window."""
        vision = self._vision
        rows, columns = (side * vision.spatial_merge_size for side in self.grid)
        order, _ = get_vision_window_index(
            torch.tensor([[1, rows, columns]]),
            vision.spatial_merge_size,
            vision.window_size,
            vision.patch_size,
        )
        return cells[:, order.argsort().to(cells.device)]


def open_vision(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Qwen25Vision:
    """Load the vision half of an opened checkpoint."""
    config, settings, layout = _open_config(checkpoint)
    chosen = checkpoint.config.get("attention_layers")
    layers = full_attention_layers(config.vision_config, chosen)
    half = load_half(
        _VisionHalf,
        checkpoint,
        config,
        device,
        dtype,
        attention=PROBED_SDPA,
        key_mapping=KEY_MAPPING,
    )
    return Qwen25Vision(half, identify(checkpoint, settings, dtype), settings, layers, layout)


def open_language(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype
) -> CachedTokensLanguageModel:
    """Load the language half of an opened checkpoint."""
    config, settings, layout = _open_config(checkpoint)
    reading = read_style(checkpoint)
    writer = open_prompt_writer(
        checkpoint,
        config.video_token_id,
        bracket_ids=(config.vision_start_token_id, config.vision_end_token_id),
        positions_per_s=float(config.vision_config.tokens_per_second),
    )
    config.vision_config.depth = 0  # of the tower, embeddings and merger stay, unused
    half = load_half(Qwen2_5_VLForConditionalGeneration, checkpoint, config, device, dtype)
    identity = identify(checkpoint, settings, dtype)
    return CachedTokensLanguageModel(
        half, writer, None, identity, reading, layout=layout, as_output=_as_videos
    )


def full_attention_layers(vision: Any, chosen: Sequence[int] | None = None) -> tuple[int, int]:
    """Layers whose received attention is read: the first with full attention, and the last but for
    the tower's last layer. A checkpoint may name its own, `"attention_layers": [local, global]`.
    """
    full = sorted(vision.fullatt_block_indexes)
    if chosen is None:
        inner = [layer for layer in full if layer < vision.depth - 1] or full
        return inner[0], inner[-1]
    if len(chosen) != 2 or not set(chosen) <= set(full):
        raise InvalidCheckpoint(
            f"got attention_layers {list(chosen)}, expected two of {full}, where the tower attends "
            "beyond a window; mend config.json"
        )
    return chosen[0], chosen[1]


def measure(checkpoint: Checkpoint) -> TokenCost:
    """See `Family.measure`."""
    config, settings, layout = _open_config(checkpoint)
    return measure_patches(config, settings, layout)


def _open_config(checkpoint: Checkpoint) -> tuple[Any, Any, TokenLayout]:
    checkpoint.require_vision()
    config = load_config(checkpoint, Qwen2_5_VLConfig)
    settings = read_patch_settings(checkpoint, config.vision_config)
    return config, settings, TokenLayout(frames=config.vision_config.temporal_patch_size)


def _as_videos(tokens: Float[Tensor, "n d"]) -> dict[str, Any]:
    output: Any = BaseModelOutputWithPooling(pooler_output=[tokens])  # type: ignore[arg-type]
    return {"video": output}
