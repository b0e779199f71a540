"""LLaVA-OneVision on transformers' own classes, each half loaded without the other.

The vision half runs the SigLIP tower up to the layer the checkpoint's `vision_feature_layer`
names, without the tower's post-layernorm, and the projector. Pooling is the reducer's. The
language half reads pooled tokens through `mm_encoder_outputs`, which equals the pixel path token
for token, and appends the learned newline to each run, as the pixel path does to each video.

Only the needed half is read from disk: each is a model without the other's layers, and what has no
place in the model is skipped by transformers' own loading, which also renames older layouts.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionPreTrainedModel,
    SiglipVisionModel,
)
from transformers.models.llava_onevision.modeling_llava_onevision import (
    LlavaOnevisionMultiModalProjector,
)

from aot import FrameFeatures, Grid
from aot.pooling import pooled_grid
from aot.types import Pooling
from workers.errors import InvalidCheckpoint, UnsupportedModel
from workers.models.attention import PROBED_SDPA, ProbedLayers
from workers.models.base import ModelIdentity
from workers.models.catalog import TokenCost
from workers.models.checkpoint import Checkpoint
from workers.models.families.passes import encode_in_passes
from workers.models.language import CachedTokensLanguageModel
from workers.models.loading import (
    identify,
    load_config,
    load_half,
    make_reader,
    open_prompt_writer,
)
from workers.models.pixels import PixelSettings, read_pixel_settings
from workers.models.prompt import PromptWriter
from workers.models.reader import TokenReader
from workers.models.runs import EndedRuns
from workers.models.style import read_style
from workers.types import PLAIN_LAYOUT, PixelFormat

LOCAL_LAYER = 5
GLOBAL_LAYER = -2
REFERENCE_LAYERS = 26
"""The reference reads entries 5 and -2 of the 26 kept layers of SigLIP-so400m."""
KEY_MAPPING = {
    r"^vision_tower": "model.vision_tower",
    r"^multi_modal_projector": "model.multi_modal_projector",
}
"""Names of the vision half's weights on disk; the tower's own older names the library renames."""


class VisionHalf(LlavaOnevisionPreTrainedModel):
    """`LlavaOnevisionForConditionalGeneration` without its language model."""

    def __init__(self, config: LlavaOnevisionConfig) -> None:
        super().__init__(config)
        self.model = nn.Module()
        self.model.vision_tower = SiglipVisionModel(config.vision_config)  # type: ignore[arg-type]
        self.model.multi_modal_projector = LlavaOnevisionMultiModalProjector(config)
        self.post_init()


class LlavaOnevisionVision:
    """A `VisionEncoder`; open it by `open_vision_encoder`."""

    layout = PLAIN_LAYOUT

    def __init__(
        self,
        half: Any,
        identity: ModelIdentity,
        settings: PixelSettings,
        attention_layers: tuple[int, int],
        pooling: Pooling = "bilinear",
    ) -> None:
        vision = half.config.vision_config
        self.identity = identity
        self.pooling = pooling
        self.pixel_format: PixelFormat = settings.format
        side = vision.image_size // vision.patch_size
        self.grid: Grid = (side, side)
        self.dim: int = half.config.text_config.hidden_size
        self.attention_layers = attention_layers
        """The layers whose received attention is read: local, global."""
        self._half = half
        self._settings = settings
        layers = half.model.vision_tower.encoder.layers
        self._probed = ProbedLayers(*(layers[i].self_attn for i in attention_layers))

    def encode(
        self, pixels: UInt8[np.ndarray, "t h w 3"] | UInt8[Tensor, "t h w 3"]
    ) -> FrameFeatures:
        """See `VisionEncoder.encode`."""
        self._settings.check(tuple(pixels.shape))
        return encode_in_passes(pixels, self._encode_pass, self.grid, self._half.device)

    @torch.no_grad()
    def _encode_pass(self, pixels: np.ndarray | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tower, projector = self._half.model.vision_tower, self._half.model.multi_modal_projector
        self._probed.clear()
        embeddings = tower.embeddings(
            self._settings.normalise(pixels, self._half.device, self._half.dtype)
        )
        hidden = tower.encoder(inputs_embeds=embeddings).last_hidden_state
        return projector(hidden), *self._probed.take()


def open_vision(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype
) -> LlavaOnevisionVision:
    """Load the vision half of an opened checkpoint."""
    config, settings = _open_config(checkpoint)
    num_layers = _kept_layers(checkpoint, config)
    config.vision_config.num_hidden_layers = num_layers
    half = load_half(
        VisionHalf,
        checkpoint,
        config,
        device,
        dtype,
        attention=PROBED_SDPA,
        key_mapping=KEY_MAPPING,
    )
    layers = attention_layers(num_layers, checkpoint.config.get("attention_layers"))
    return LlavaOnevisionVision(half, identify(checkpoint, settings, dtype), settings, layers)


def open_language(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype
) -> CachedTokensLanguageModel:
    """Load the language half of an opened checkpoint."""
    config, settings = _open_config(checkpoint)
    reading, writer = read_style(checkpoint), _open_writer(checkpoint, config)
    config.vision_config.num_hidden_layers = 0  # of the tower, the embeddings stay, unused
    half = load_half(LlavaOnevisionForConditionalGeneration, checkpoint, config, device, dtype)
    newline = half.model.image_newline
    identity = identify(checkpoint, settings, dtype)
    return CachedTokensLanguageModel(half, writer, newline, identity, reading)


def open_reader(checkpoint: Checkpoint) -> TokenReader:
    """What reads tokens to a language model elsewhere."""
    config, settings = _open_config(checkpoint)
    writer = _open_writer(checkpoint, config)
    return make_reader(checkpoint, config, settings, writer, read_style(checkpoint), newline=True)


def measure(checkpoint: Checkpoint) -> TokenCost:
    """See `Family.measure`."""
    config, _ = _open_config(checkpoint)
    side = config.vision_config.image_size // config.vision_config.patch_size
    text = config.get_text_config()
    cells = math.prod(pooled_grid((side, side), "bilinear"))
    return TokenCost(cells, text.hidden_size, text.max_position_embeddings)


def attention_layers(num_layers: int, chosen: Sequence[int] | None = None) -> tuple[int, int]:
    """Layers whose received attention is read: local (shallow), global (deep).

    In a tower of 26 kept layers or more: entry 5 and the last but one. In a smaller one the
    shallow layer lies at the same share of the depth. A checkpoint may name its own, by
    `"attention_layers": [local, global]` in its config.json.
    """
    if chosen is None:
        share = min(1.0, (num_layers - 1) / (REFERENCE_LAYERS - 1))
        chosen = (round(LOCAL_LAYER * share), max(GLOBAL_LAYER, -num_layers))
    if len(chosen) != 2 or not all(-num_layers <= layer < num_layers for layer in chosen):
        raise InvalidCheckpoint(
            f"got attention_layers {list(chosen)}, expected two layers of the {num_layers} kept; "
            "mend config.json"
        )
    local_layer, global_layer = (layer % num_layers for layer in chosen)
    return local_layer, global_layer


def _open_writer(checkpoint: Checkpoint, config: Any) -> PromptWriter:
    return open_prompt_writer(checkpoint, config.video_token_index, runs=EndedRuns())


def _open_config(checkpoint: Checkpoint) -> tuple[Any, PixelSettings]:
    """Config and processor settings of a checkpoint whose tower this adapter can run."""
    checkpoint.require_vision()
    settings = read_pixel_settings(checkpoint)
    config = load_config(checkpoint, LlavaOnevisionConfig)
    vision = config.vision_config
    if vision.model_type != "siglip_vision_model":
        raise UnsupportedModel(
            f"{checkpoint.model_id} has a vision tower of type {vision.model_type!r}, "
            "expected siglip_vision_model; choose another checkpoint"
        )
    if config.vision_feature_select_strategy != "full":
        raise UnsupportedModel(
            f"{checkpoint.model_id} drops the first patch (vision_feature_select_strategy "
            f"{config.vision_feature_select_strategy!r}), expected 'full'; choose another"
        )
    size = (settings.format.height, settings.format.width)
    if size != (vision.image_size, vision.image_size):
        raise InvalidCheckpoint(
            f"{checkpoint.model_id}: the processor makes frames of {size}, the tower takes "
            f"{vision.image_size} squared; mend preprocessor_config.json"
        )
    vision.vision_use_head = False
    return config, settings


def _kept_layers(checkpoint: Checkpoint, config: Any) -> int:
    """Layers up to the one the features are taken from; `hidden_states` counts the embeddings."""
    layer, num_layers = config.vision_feature_layer, config.vision_config.num_hidden_layers
    if not isinstance(layer, int):
        raise UnsupportedModel(
            f"{checkpoint.model_id} joins features of layers {layer}, expected one; choose another"
        )
    kept = layer if layer >= 0 else num_layers + 1 + layer
    if not 1 <= kept <= num_layers:
        raise InvalidCheckpoint(
            f"{checkpoint.model_id}: vision_feature_layer {layer} is none of the {num_layers} "
            "layers; mend config.json"
        )
    return kept
