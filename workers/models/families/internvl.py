"""InternVL on transformers' own classes (`-hf` checkpoints), each half loaded without the other.

A frame is read by itself: four patches are one token, 256 of them in 448 pixels squared, so that
nothing is left to pool. The tower has a CLS token; attention is what a patch receives from all,
CLS included, and a cell's is the mean of its patches. A video is its frames, each behind a few
words; the model was trained with a number there, and is given the time.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.internvl.modeling_internvl import (
    InternVLModel,
    InternVLMultiModalProjector,
    InternVLPreTrainedModel,
)

from aot import FrameFeatures, Grid
from aot.types import Pooling
from workers.errors import InvalidCheckpoint, UnsupportedModel
from workers.models.attention import PROBED_SDPA, ProbedLayers
from workers.models.base import ModelIdentity, ReadingStyle
from workers.models.catalog import TokenCost
from workers.models.checkpoint import Checkpoint
from workers.models.families.llava_onevision import KEY_MAPPING, attention_layers
from workers.models.families.passes import encode_in_passes
from workers.models.language import CachedTokensLanguageModel
from workers.models.loading import (
    identify,
    load_config,
    load_half,
    make_reader,
    open_prompt_writer,
    open_tokenizer,
)
from workers.models.pixels import PixelSettings, read_pixel_settings
from workers.models.prompt import PromptWriter
from workers.models.reader import TokenReader
from workers.models.style import read_style
from workers.types import PLAIN_LAYOUT, PixelFormat

READING = ReadingStyle(marks="frame", mark="Frame {}: ")
"""Where `Frame1: ` was trained."""
VIDEO = "<video>"
"""What the chat template writes for a video."""


class _VisionHalf(InternVLPreTrainedModel):
    """`InternVLForConditionalGeneration` without its language model."""

    def __init__(self, config: InternVLConfig) -> None:
        super().__init__(config)
        self.model = nn.Module()
        self.model.vision_tower = InternVLVisionModel(config.vision_config)  # type: ignore[arg-type]
        self.model.multi_modal_projector = InternVLMultiModalProjector(config)
        self.post_init()


class InternVision:
    """A `VisionEncoder`; open it by `open_vision_encoder`."""

    pooling: Pooling = "none"
    layout = PLAIN_LAYOUT

    def __init__(
        self,
        half: Any,
        identity: ModelIdentity,
        settings: PixelSettings,
        attention_layers: tuple[int, int],
    ) -> None:
        vision, ratio = half.config.vision_config, half.config.downsample_ratio
        self.identity = identity
        self.pixel_format: PixelFormat = settings.format
        self.attention_layers = attention_layers
        """The layers whose received attention is read: local, global."""
        self._side = round(1 / ratio)
        side = vision.image_size[0] // vision.patch_size[0] // self._side
        self.grid: Grid = (side, side)
        self.dim: int = half.config.text_config.hidden_size
        self._half, self._settings = half, settings
        layers = half.model.vision_tower.encoder.layer
        self._probed = ProbedLayers(*(layers[i].attention for i in attention_layers))

    def encode(
        self, pixels: UInt8[np.ndarray, "t h w 3"] | UInt8[Tensor, "t h w 3"]
    ) -> FrameFeatures:
        """See `VisionEncoder.encode`."""
        self._settings.check(tuple(pixels.shape))
        return encode_in_passes(pixels, self._encode_pass, self.grid, self._half.device)

    @torch.no_grad()
    def _encode_pass(self, pixels: np.ndarray | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model, side = self._half.model, self.grid[0] * self._side
        values = self._settings.normalise(pixels, self._half.device, self._half.dtype)
        self._probed.clear()
        hidden = model.vision_tower(pixel_values=values).last_hidden_state[:, 1:]
        local_received, global_received = self._probed.take()
        shuffled = InternVLModel.pixel_shuffle(
            self._half, hidden.unflatten(1, (side, side)), self._half.config.downsample_ratio
        )
        return (
            model.multi_modal_projector(shuffled.flatten(1, 2)),
            self._of_cells(local_received[:, 1:]),
            self._of_cells(global_received[:, 1:]),
        )

    def _of_cells(self, received: Float[Tensor, "t p"]) -> Float[Tensor, "t n"]:
        rows, columns = self.grid
        patches = received.reshape(-1, rows, self._side, columns, self._side)
        return patches.mean((2, 4)).flatten(1)


def open_vision(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> InternVision:
    """Load the vision half of an opened checkpoint."""
    config, settings = _open_config(checkpoint)
    chosen = checkpoint.config.get("attention_layers")
    layers = attention_layers(config.vision_config.num_hidden_layers, chosen)
    half = load_half(
        _VisionHalf,
        checkpoint,
        config,
        device,
        dtype,
        attention=PROBED_SDPA,
        key_mapping=KEY_MAPPING,
    )
    return InternVision(half, identify(checkpoint, settings, dtype), settings, layers)


def open_language(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype
) -> CachedTokensLanguageModel:
    """Load the language half of an opened checkpoint."""
    config, settings = _open_config(checkpoint)
    reading, writer = read_style(checkpoint, READING), _open_writer(checkpoint, config)
    config.vision_config.num_hidden_layers = 0  # of the tower, the embeddings stay, unused
    half = load_half(InternVLForConditionalGeneration, checkpoint, config, device, dtype)
    identity = identify(checkpoint, settings, dtype)
    return CachedTokensLanguageModel(half, writer, None, identity, reading, as_output=_as_images)


def open_reader(checkpoint: Checkpoint) -> TokenReader:
    """What reads tokens to a language model elsewhere."""
    config, settings = _open_config(checkpoint)
    writer = _open_writer(checkpoint, config)
    return make_reader(checkpoint, config, settings, writer, read_style(checkpoint, READING))


def measure(checkpoint: Checkpoint) -> TokenCost:
    """See `Family.measure`."""
    config, _ = _open_config(checkpoint)
    vision, text = config.vision_config, config.get_text_config()
    side = round(vision.image_size[0] // vision.patch_size[0] * config.downsample_ratio)
    return TokenCost(side**2, text.hidden_size, text.max_position_embeddings)


def _open_config(checkpoint: Checkpoint) -> tuple[Any, PixelSettings]:
    """Config and processor settings of a checkpoint whose tower this adapter can run."""
    checkpoint.require_vision()
    settings = read_pixel_settings(checkpoint)
    config = load_config(checkpoint, InternVLConfig)
    vision = config.vision_config
    if config.vision_feature_layer != -1 or config.vision_feature_select_strategy != "default":
        raise UnsupportedModel(
            f"{checkpoint.model_id} takes features of layer {config.vision_feature_layer} by "
            f"{config.vision_feature_select_strategy!r}, expected -1 and 'default'; choose another"
        )
    size = (settings.format.height, settings.format.width)
    if size != tuple(vision.image_size) or size[0] != size[1]:
        raise InvalidCheckpoint(
            f"{checkpoint.model_id}: the processor makes frames of {size}, the tower takes squares "
            f"of {vision.image_size}; mend preprocessor_config.json"
        )
    return config, settings


def _open_writer(checkpoint: Checkpoint, config: Any) -> PromptWriter:
    return open_prompt_writer(
        checkpoint,
        config.image_token_id,
        bracket_ids=_image_brackets(checkpoint),
        rendered=VIDEO,
    )


def _image_brackets(checkpoint: Checkpoint) -> tuple[int, int]:
    """The tokens that begin and end a frame, as the tokenizer's config names them."""
    tokenizer = open_tokenizer(checkpoint)
    names = ("start_image_token", "end_image_token")
    start, end = (getattr(tokenizer, f"{name}_id", None) for name in names)
    if start is None or end is None:
        raise InvalidCheckpoint(
            f"{checkpoint.model_id}: the tokenizer names no {' and no '.join(names)}, expected the "
            "tokens around a frame; use the tokenizer that came with the checkpoint"
        )
    return start, end


def _as_images(tokens: Float[Tensor, "n d"]) -> dict[str, Any]:
    output: Any = BaseModelOutputWithPooling(pooler_output=tokens[None])  # type: ignore[arg-type]
    return {"image": output}
