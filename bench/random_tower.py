"""One layer of a vision tower with the dimensions of SigLIP-so400m and random weights.

For benchmarks alone: what a layer costs does not depend on its weights, so that no checkpoint is
needed to know what share of the encoder's time the reduction takes.
"""

import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh",
}
"""google/siglip-so400m-patch14-384: 27 x 27 patches, no class token."""
KEPT_LAYERS = 26
"""Layers LLaVA-OneVision runs of its 27."""


def make_layer(device: str = "cpu", dtype: torch.dtype = torch.float32) -> nn.Module:
    """One encoder layer with SDPA, in evaluation mode."""
    config = SiglipVisionConfig(**SO400M)
    config._attn_implementation = "sdpa"
    return SiglipEncoderLayer(config).to(device=device, dtype=dtype).eval()


def run_layer(layer: nn.Module, hidden: Tensor) -> None:
    """One pass of `hidden` [frames, 729, 1152] through the layer."""
    layer(hidden, attention_mask=None)


def make_query(frames: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Random queries (or keys) of one layer, [frames, heads, patches, width of a head]."""
    heads, width = SO400M["num_attention_heads"], SO400M["hidden_size"]
    patches = (SO400M["image_size"] // SO400M["patch_size"]) ** 2
    return torch.randn(frames, heads, patches, width // heads, device=device, dtype=dtype)
