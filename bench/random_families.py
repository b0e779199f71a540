"""The vision half of every family in its published widths, with random weights and fewer layers.

For benchmarks alone. A folder written here has what the vision half of a checkpoint is opened by;
its language model has no layer. `bare` is transformers' own way from normalised pixels to tokens.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PretrainedConfig,
)

from bench.random_tower import KEPT_LAYERS, SO400M
from workers.models.families.qwen_vision import patchify
from workers.models.loading import quiet

PIXEL_MEAN = PIXEL_STD = (0.5, 0.5, 0.5)
TEXT = {
    "num_hidden_layers": 0,
    "vocab_size": 64,
    "intermediate_size": 8,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}


@dataclass(frozen=True)
class RandomFamily:
    """One family; `name` is the `model_type` of its checkpoints."""

    name: str
    published: str
    """The checkpoint whose widths these are."""
    depth: int
    """Layers of its tower that are run."""
    size: tuple[int, int]
    """Height and width of a frame."""
    write: Callable[[Path, int], None]
    """Into a folder, a checkpoint with so many layers."""
    bare: Callable[[Any, Tensor], Tensor]
    """Tokens `[t n d]` of a whole model of transformers and normalised frames `[t 3 h w]`."""
    patch_frames: int = 1

    def open_bare(self, folder: Path) -> Any:
        """transformers' own model of a folder that `write` wrote, with SDPA."""
        if self.name == "llava_qwen":  # which transformers knows by another name
            folder = folder / "as_onevision"
        with quiet():
            return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def _save(folder: Path, config: PretrainedConfig, size: tuple[int, int], **more: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
    with quiet():
        model.save_pretrained(folder)
    processor = {
        "size": dict(zip(("height", "width"), size, strict=True)),
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": PIXEL_MEAN,
        "image_std": PIXEL_STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | more))
    return model


def _write_onevision(folder: Path, layers: int) -> Any:
    vision = {**SO400M, "model_type": "siglip_vision_model", "num_hidden_layers": layers}
    config = AutoConfig.for_model(
        "llava_onevision",
        vision_config={**vision, "vision_use_head": False},
        text_config={**TEXT, "model_type": "qwen2", "hidden_size": 3584},
        vision_feature_layer=-1,
        image_token_index=4,
        video_token_index=5,
    )
    return _save(folder, config, (384, 384))


def _write_llava_video(folder: Path, layers: int) -> None:
    """As the repository that trained it names things."""
    model = _write_onevision(folder / "as_onevision", layers)
    names = {
        "model.vision_tower.": "model.vision_tower.vision_tower.vision_model.",
        "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
        "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
    }
    weights = {
        there + name.removeprefix(here): tensor.contiguous()
        for name, tensor in model.state_dict().items()
        for here, there in names.items()
        if name.startswith(here)
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = {
        **TEXT,
        "model_type": "llava_qwen",
        "hidden_size": 3584,
        "vision_config": {**SO400M, "num_hidden_layers": layers},
        "mm_projector_type": "mlp2x_gelu",
        "mm_newline_position": "grid",
        "mm_spatial_pool_mode": "average",
    }
    (folder / "config.json").write_text(json.dumps(config))


def _write_internvl(folder: Path, layers: int) -> None:
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "image_size": [448, 448],
        "patch_size": [14, 14],
        "attention_bias": True,
    }
    text = {**TEXT, "model_type": "qwen2", "hidden_size": 3584}
    config = AutoConfig.for_model(
        "internvl", vision_config=vision, text_config=text, image_token_id=4
    )
    _save(folder, config, (448, 448))


def _write_qwen2_5(folder: Path, layers: int) -> None:
    """Every fourth layer attends to whole frames, of 32 every eighth does."""
    vision = {
        "depth": layers,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "out_hidden_size": 3584,
        "fullatt_block_indexes": list(range(2, layers, 4)),
    }
    text = _qwen_text(3584, [16, 24, 24])
    config = AutoConfig.for_model("qwen2_5_vl", vision_config=vision, text_config=text)
    _save(folder, config, (392, 700), patch_size=14)


def _write_qwen3(folder: Path, layers: int) -> None:
    vision = {
        "depth": layers,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "patch_size": 16,
        "out_hidden_size": 4096,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [layers // 4, layers // 2, layers * 3 // 4],
    }
    text = _qwen_text(4096, [24, 20, 20]) | {"num_attention_heads": 32, "num_key_value_heads": 8}
    config = AutoConfig.for_model("qwen3_vl", vision_config=vision, text_config=text)
    _save(folder, config, (448, 800), patch_size=16)


def _qwen_text(width: int, sections: list[int]) -> dict[str, Any]:
    rope: Mapping[str, Any] = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": sections,
    }
    return {**TEXT, "hidden_size": width, "head_dim": 128, "rope_parameters": rope}


def _bare_llava(model: Any, values: Tensor) -> Tensor:
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    hidden = tower.encoder(inputs_embeds=tower.embeddings(values)).last_hidden_state
    return projector(hidden)


def _bare_internvl(model: Any, values: Tensor) -> Tensor:
    return model.model.get_image_features(values, return_dict=True).pooler_output


def _bare_qwen(model: Any, values: Tensor) -> Tensor:
    vision = model.config.vision_config
    patches = patchify(values, 2, vision.patch_size, vision.spatial_merge_size)
    rows, columns = (side // vision.patch_size for side in values.shape[2:])
    grid = torch.tensor([[len(values) // 2, rows, columns]])
    output = model.model.get_video_features(patches, video_grid_thw=grid, return_dict=True)
    layers = [layer for layer in getattr(output, "deepstack_features", None) or ()]
    layers = [layer[0] if isinstance(layer, (list, tuple)) else layer for layer in layers]
    return torch.cat([output.pooler_output[0], *layers], dim=1).unflatten(0, (len(values) // 2, -1))


RANDOM_FAMILIES = (
    RandomFamily(
        "llava_onevision",
        "llava-onevision-qwen2-7b-ov-hf",
        KEPT_LAYERS,
        (384, 384),
        _write_onevision,
        _bare_llava,
    ),
    RandomFamily(
        "llava_qwen",
        "LLaVA-Video-7B-Qwen2",
        KEPT_LAYERS,
        (384, 384),
        _write_llava_video,
        _bare_llava,
    ),
    RandomFamily("internvl", "InternVL3-8B-hf", 24, (448, 448), _write_internvl, _bare_internvl),
    RandomFamily(
        "qwen2_5_vl", "Qwen2.5-VL-7B-Instruct", 32, (392, 700), _write_qwen2_5, _bare_qwen, 2
    ),
    RandomFamily("qwen3_vl", "Qwen3-VL-8B-Instruct", 27, (448, 800), _write_qwen3, _bare_qwen, 2),
)
