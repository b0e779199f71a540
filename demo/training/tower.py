"""Stage 1: the vision tower learns what every patch shows, and what is in the frame.

Dense losses on the last layer (colour, shape, letter, row and column of every patch) make patch
tokens say what they are. A pooled objective, SigLIP's attention-pooling head with a sigmoid loss
on everything in the frame, reads the layer before it, as a full checkpoint's head sits above the
layers a LLaVA model keeps: it makes the attention a patch receives there mean something. Its head
is not exported, as in those checkpoints.
"""

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import SiglipVisionModel
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from demo.miniature.model import CELLS, IMAGE_SIZE, PATCHES
from demo.miniature.pixels import normalise, shrink
from demo.training.checkpoint import load_state, save_state
from demo.training.loading import map_ahead, send
from demo.training.optim import build_optimizers, set_rates
from demo.world.labels import (
    CLASSES,
    IGNORE,
    PRESENT,
    choose_owner,
    classify_items,
    cover_cells,
    label_cells,
    label_frames,
)
from demo.world.render import render
from demo.world.scenes import BLOCK_S, Scene, crowd_scene, generate_scene, scatter_scene

logger = logging.getLogger(__name__)

SHOWING = 0.75
"""Share of the frames at which something surely shows."""
_OWNING = {
    "patches": (PATCHES, 0.3, 0.04), "cells": (CELLS, 0.12, 0.02), "touched": (CELLS, 0.02, 0.02),
}  # fmt: skip
"""Cells in a row, the share of one that an item owns it from, and up to which it is nothing's."""
_SIZES = {name: len(names) + 1 for name, names in CLASSES.items()}


MIXTURE = (
    *("surveillance", "crowded lecture", "scattered"),
    *("lecture", "scattered", "crowded lecture"),
)
"""Scenes of a batch, in turn. As they come they show a thing or two; the others show many."""


class DrawnFrames(NamedTuple):
    """Frames and what they show; labels are class indices by attribute."""

    pixels: UInt8[Tensor, "b h w 3"]
    patches: dict[str, Tensor]
    cells: dict[str, Tensor]
    """Of pooled cells; IGNORE where an item only touches one."""
    touched: dict[str, Tensor]
    """The same with the touching item's classes there."""
    present: Float[Tensor, "b present"]


class TowerHeads(nn.Module):
    """What the tower is asked while it learns; none of it is exported."""

    def __init__(self, config) -> None:
        super().__init__()
        dim = config.hidden_size
        self.norm = nn.LayerNorm(dim)
        self.dense = nn.Linear(dim, sum(_SIZES.values()) + 2 * PATCHES)
        self.pool_norm = nn.LayerNorm(dim)
        self.pool = SiglipMultiheadAttentionPoolingHead(config)
        self.present = nn.Linear(dim, len(PRESENT))
        nn.init.constant_(self.present.bias, -3.0)
        nn.init.normal_(self.pool.probe, std=0.5)


def train_tower(
    tower: SiglipVisionModel,
    runs: Path,
    *,
    steps: int,
    scenes_per_step: int = 24,
    seed: int = 0,
    loaders: int = 0,
) -> None:
    """Train in place; resumes from and saves to `runs/tower.safetensors`.

    `loaders` processes draw the scenes ahead of the steps.
    """
    torch.manual_seed(seed)
    heads = TowerHeads(tower.config).to(tower.device)
    optimizers = build_optimizers(
        tower.encoder,
        [*tower.embeddings.parameters(), *heads.parameters()],
        muon_lr=3e-3,
        adam_lr=1.5e-3,
    )
    modules = {"tower": tower, "heads": heads}
    path = runs / "tower.safetensors"
    start, begun_s = load_state(path, modules, optimizers), time.monotonic()
    tower.train()
    draw = partial(draw_batch, seed, scenes=scenes_per_step)
    for step, drawn in map_ahead(draw, range(start, steps), loaders):
        set_rates(optimizers, step, steps)
        pixels, labels, _, _, present = send(drawn, tower.device)
        with torch.autocast(pixels.device.type, torch.bfloat16):
            losses, scores = compute_losses(tower, heads, pixels, labels, present)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_([*tower.parameters(), *heads.parameters()], 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            numbers = {k: round(v.item(), 3) for k, v in {**losses, **scores}.items()}
            logger.info("tower %d %.0f s %s", step, time.monotonic() - begun_s, numbers)
        if step % 100 == 99 or step == steps - 1:
            save_state(path, modules, optimizers, step + 1)
    tower.eval()


def draw_batch(seed: int, step: int, scenes: int, mixture: Sequence[str] = MIXTURE) -> DrawnFrames:
    """Frames of a step: they depend on the arguments alone."""
    rng = np.random.default_rng([seed, step, 1])
    pixels, present = [], []
    labels: dict[str, list[dict[str, np.ndarray]]] = {"patches": [], "cells": [], "touched": []}
    for k in range(scenes):
        scene = _draw_scene(mixture[k % len(mixture)], rng)
        # A quarter is drawn larger and scaled down, as frames of a real video are.
        size = 2 * IMAGE_SIZE if k % 12 in (2, 3) else IMAGE_SIZE
        shown = render(scene, np.array([_draw_time(scene, rng)]), size)
        for name, (cells, owns, touches) in _OWNING.items():
            cover = cover_cells(shown.items, len(scene.items), cells)
            owner = choose_owner(cover, owns, touches)
            labels[name].append(label_cells(owner, classify_items(scene)))
        pixels.append(shrink(shown.pixels))
        present.append(label_frames(shown.visible, scene))
    stacked = {
        part: {
            name: torch.from_numpy(np.concatenate([one[name] for one in rows])) for name in CLASSES
        }
        for part, rows in labels.items()
    }
    whole = [torch.from_numpy(np.concatenate(rows)) for rows in (pixels, present)]
    return DrawnFrames(whole[0], **stacked, present=whole[1])


def _draw_scene(kind: str, rng: np.random.Generator) -> Scene:
    """One of a mixture; its seed is of training, from 1,000,000 on: lower ones are to evaluate."""
    seed = 1_000_000 + int(rng.integers(1 << 40))
    if kind == "scattered":
        return scatter_scene(seed, BLOCK_S)
    crowded, _, plain = kind.rpartition(" ")
    scene = generate_scene("lecture" if plain == "lecture" else "surveillance", seed)
    return crowd_scene(scene, rng) if crowded else scene


def _draw_time(scene: Scene, rng: np.random.Generator) -> float:
    """A second of the scene: any, or one within an item's stay."""
    if not scene.items or rng.random() >= SHOWING:
        return float(rng.uniform(0, scene.duration_s))
    item = scene.items[int(rng.integers(len(scene.items)))]
    return float(rng.uniform(item.start_s, min(item.end_s, scene.duration_s)))


def compute_losses(
    tower: SiglipVisionModel,
    heads: TowerHeads,
    pixels: Tensor,
    labels: dict[str, Tensor],
    present: Tensor,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses by name, and the accuracy on patches that show something."""
    hidden = tower(pixel_values=normalise(pixels), output_hidden_states=True).hidden_states
    return head_losses(heads, hidden, labels, present)


def head_losses(
    heads: TowerHeads, hidden: Sequence[Tensor], labels: dict[str, Tensor], present: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same from the tower's hidden states, all layers' outputs after its embeddings."""
    logits = heads.dense(heads.norm(hidden[-1])).float()
    parts = logits.split([*_SIZES.values(), PATCHES, PATCHES], dim=-1)
    losses, scores = {}, {}
    for name, part in zip(_SIZES, parts, strict=False):
        losses[name], scores[f"{name}_accuracy"] = dense_loss(part, labels[name])
    index = torch.arange(PATCHES * PATCHES, device=present.device)
    place = (index // PATCHES, index % PATCHES)
    losses["place"] = 0.1 * sum(
        F.cross_entropy(p.transpose(1, 2), t.expand(len(p), -1))
        for p, t in zip(parts[-2:], place, strict=True)
    )
    pooled = heads.present(heads.pool(heads.pool_norm(hidden[-2]))).float()
    losses["present"] = 10 * F.binary_cross_entropy_with_logits(pooled, present)
    found = (pooled > 0) & (present > 0)
    scores["present_f1"] = 2 * found.sum() / ((pooled > 0).sum() + present.sum()).clamp(min=1)
    return losses, scores


def dense_loss(logits: Tensor, target: Tensor, background: float = 0.5) -> tuple[Tensor, Tensor]:
    """Cross-entropy, the means over content and over background apart, and accuracy on content.

    `background` is the weight of the second: the less, the sooner a doubtful cell shows something.
    """
    each = F.cross_entropy(
        logits.flatten(0, 1), target.flatten(), ignore_index=IGNORE, reduction="none"
    )
    target = target.flatten()
    content, nothing = target > 0, target == 0
    loss = each[content].mean() + background * each[nothing].mean()
    right = logits.flatten(0, 1).argmax(-1) == target
    return loss, right[content].float().mean()
