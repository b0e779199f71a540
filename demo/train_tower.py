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
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SiglipVisionModel
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from demo.checkpoint import load_state, save_state
from demo.labels import (
    CLASSES,
    IGNORE,
    PRESENT,
    choose_owner,
    classify_items,
    cover_cells,
    label_cells,
    label_frames,
)
from demo.loading import map_ahead, send
from demo.model import CELLS, IMAGE_SIZE, PATCHES
from demo.optim import build_optimizers, set_rates
from demo.render import render
from demo.scenes import crowd_scene, generate_scene, scatter_scene

logger = logging.getLogger(__name__)

FRAMES_PER_SCENE = 1
_OWNING = {PATCHES: (0.3, 0.04), CELLS: (0.12, 0.02)}
"""Share of a patch or pooled cell that an item owns it from, and up to which it only touches."""
_SIZES = {name: len(names) + 1 for name, names in CLASSES.items()}


DrawnFrames = tuple[Tensor, dict[str, Tensor], dict[str, Tensor], Tensor]
"""Pixels, classes per patch, classes per pooled cell, what is present."""


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
    todo = range(start, steps)
    draws = map_ahead(lambda step: draw_batch(seed, step, scenes_per_step), todo, loaders)
    for step, drawn in zip(todo, draws, strict=True):
        set_rates(optimizers, step, steps)
        pixels, labels, _, present = send(drawn, tower.device)
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


def draw_batch(seed: int, step: int, scenes: int, *, lecture_every: int = 2) -> DrawnFrames:
    """Pixels u8[b h w 3], class indices per patch and per pooled cell, and what is present.

    They depend on the arguments alone. One scene of `lecture_every` is a lecture.
    """
    rng = np.random.default_rng([seed, step, 1])
    pixels, present = [], []
    labels: dict[int, list[dict[str, np.ndarray]]] = {PATCHES: [], CELLS: []}
    for k in range(scenes):
        # Training scenes have seeds from 1,000,000 on; lower ones are for evaluation.
        scene_seed = 1_000_000 + int(rng.integers(1 << 40))
        scene = generate_scene("lecture" if k % lecture_every == 1 else "surveillance", scene_seed)
        if k % 6 in (2, 4):
            scene = scatter_scene(scene_seed, scene.duration_s)
        elif k % 3:
            scene = crowd_scene(scene, rng)
        # A quarter is drawn larger and scaled down, as frames of a real video are.
        size = 2 * IMAGE_SIZE if k % 12 in (2, 3) else IMAGE_SIZE
        shown = render(scene, rng.uniform(0, 8, FRAMES_PER_SCENE), size)
        for cells, (owns, touches) in _OWNING.items():
            cover = cover_cells(shown.items, len(scene.items), cells)
            owner = choose_owner(cover, owns, touches)
            labels[cells].append(label_cells(owner, classify_items(scene)))
        pixels.append(shrink(shown.pixels))
        present.append(label_frames(shown.visible, scene))
    patches, cells = (
        {name: torch.from_numpy(np.concatenate([one[name] for one in rows])) for name in CLASSES}
        for rows in (labels[PATCHES], labels[CELLS])
    )
    return (
        torch.from_numpy(np.concatenate(pixels)), patches, cells,
        torch.from_numpy(np.concatenate(present)),
    )  # fmt: skip


def shrink(pixels: np.ndarray) -> np.ndarray:
    """Bicubic with antialiasing to the model's size, as the ingest path does."""
    if pixels.shape[1] == IMAGE_SIZE:
        return pixels
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    small = F.interpolate(planes, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True)
    return small.permute(0, 2, 3, 1).contiguous().numpy()


def normalise(pixels: Tensor) -> Tensor:
    """uint8 [b h w 3] to what SigLIP reads: float [b 3 h w] in -1 to 1."""
    return (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


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
