"""Does attention find content? AUC of what patches receive, layer by layer, against the truth.

For every frame that shows an item: the chance that a patch of content receives more attention
than one of background (0.5 is chance), averaged over frames. Patches an item merely touches are
left out. Beside the layers stands novelty, the distance of a token from its frame's mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import LlavaOnevisionModel

from demo.miniature.model import IMAGE_SIZE, PATCHES, load_model
from demo.miniature.pixels import normalise
from demo.world.labels import IGNORE, choose_owner, cover_cells
from demo.world.render import render
from demo.world.scenes import generate_scene


@dataclass(frozen=True)
class Saliency:
    """Mean AUC by signal and kind of scene."""

    auc: dict[str, dict[str, float]]
    """`layer 0` ... `layer 4`, `novelty` -> `surveillance`, `lecture` -> AUC."""


def measure_saliency(model: str | Path, seeds: Sequence[int]) -> Saliency:
    """Encode scenes with attention written out, and compare with the item maps."""
    llava = load_model(Path(model)).model
    llava.vision_tower.set_attn_implementation("eager")
    values: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        kind = "lecture" if seed % 2 else "surveillance"
        scene = generate_scene(kind, seed)
        shown = render(scene, np.arange(8.0), IMAGE_SIZE)
        owner = choose_owner(cover_cells(shown.items, len(scene.items), PATCHES), 0.3, 0.04)
        for name, signal in _signals(llava, torch.from_numpy(shown.pixels)).items():
            column = values.setdefault(name, {}).setdefault(kind, [])
            column += measure_auc(signal, owner >= 0, owner == IGNORE)
    return Saliency(
        {n: {kind: float(np.mean(v)) for kind, v in by.items()} for n, by in values.items()}
    )


@torch.inference_mode()
def _signals(llava: LlavaOnevisionModel, pixels: Tensor) -> dict[str, np.ndarray]:
    outputs = llava.vision_tower(
        pixel_values=normalise(pixels), output_attentions=True, output_hidden_states=True
    )
    signals = {
        f"layer {k}": attention.sum(-2).mean(1).numpy()
        for k, attention in enumerate(outputs.attentions)
    }
    tokens = llava.multi_modal_projector(outputs.hidden_states[-1])
    signals["novelty"] = (tokens - tokens.mean(1, keepdim=True)).norm(dim=-1).numpy()
    return signals


def measure_auc(
    signal: Float[np.ndarray, "t n"], content: Bool[np.ndarray, "t n"], ignored: np.ndarray
) -> list[float]:
    """AUC of every frame that has content and background."""
    values = []
    for row, positive, blank in zip(signal, content, ignored, strict=True):
        inside, outside = row[positive], row[~positive & ~blank]
        if len(inside) and len(outside):
            values.append(float((inside[:, None] > outside[None]).mean()))
    return values
