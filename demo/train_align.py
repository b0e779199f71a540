"""Stage 2: the projector learns the words: a pooled token decodes to what its cell shows.

The tower stands still. Each pooled token, read through the language model's own (tied)
embeddings, must say its colour, shape and letter, or "none"; a small head asks where it is, so
that places survive the projector too.
"""

import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaOnevisionForConditionalGeneration

from aot.pooling import pool_grid
from demo.checkpoint import load_state, save_state
from demo.labels import CLASSES, IGNORE
from demo.model import CELLS, PATCHES
from demo.optim import set_rates
from demo.sequence import open_vocabulary
from demo.train_tower import dense_loss, draw_batch, normalise

logger = logging.getLogger(__name__)

SHARPNESS = 8.0
"""Factor on the dot product of token and word: a token of norm 1 can be sure of its word."""


def train_align(
    model: LlavaOnevisionForConditionalGeneration,
    runs: Path,
    *,
    steps: int,
    scenes_per_step: int = 48,
    seed: int = 0,
) -> None:
    """Train projector and word embeddings; resumes from `runs/align.safetensors`."""
    torch.manual_seed(seed)
    embed = model.model.language_model.embed_tokens
    nn.init.normal_(embed.weight, std=embed.weight.shape[1] ** -0.5)
    nn.init.zeros_(model.model.image_newline)
    place = nn.Linear(embed.weight.shape[1], 2 * CELLS)
    projector = model.model.multi_modal_projector
    modules = {"projector": projector, "embed": embed, "place": place}
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0)
    optimizer.param_groups[0]["initial_lr"] = 3e-3
    path = runs / "align.safetensors"
    start, begun_s = load_state(path, modules, [optimizer]), time.monotonic()
    for step in range(start, steps):
        set_rates([optimizer], step, steps)
        pixels, labels, _ = draw_batch(seed + 1, step, scenes_per_step, cells=CELLS)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = _pooled_tokens(model, pixels)
        losses, scores = _word_losses(tokens.float(), embed.weight, labels)
        losses["place"] = 0.2 * _place_loss(place(tokens.float()))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            numbers = {k: round(v.item(), 3) for k, v in {**losses, **scores}.items()}
            logger.info("align %d %.0f s %s", step, time.monotonic() - begun_s, numbers)
    if start < steps:
        save_state(path, modules, [optimizer], steps)


def _pooled_tokens(model: LlavaOnevisionForConditionalGeneration, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        hidden = model.model.vision_tower(
            pixel_values=normalise(pixels), output_hidden_states=True
        ).hidden_states[-1]
    tokens = model.model.multi_modal_projector(hidden)
    return pool_grid(tokens, (PATCHES, PATCHES), "bilinear")


def _word_losses(
    tokens: Tensor, words: Tensor, labels: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    vocabulary = open_vocabulary().words
    losses, scores = {}, {}
    for name, values in CLASSES.items():
        rows = words[[vocabulary[word] for word in ("none", *values)]]
        losses[name], scores[f"{name}_accuracy"] = dense_loss(
            SHARPNESS * tokens @ rows.T, labels[name]
        )
    return losses, scores


def _place_loss(logits: Tensor) -> Tensor:
    index = torch.arange(CELLS * CELLS).expand(len(logits), -1)
    rows, columns = logits.split(CELLS, dim=-1)
    row_loss = F.cross_entropy(rows.transpose(1, 2), index // CELLS, ignore_index=IGNORE)
    return row_loss + F.cross_entropy(columns.transpose(1, 2), index % CELLS)
