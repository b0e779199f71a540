"""Stage 2: the projector learns the words: a pooled token decodes to what its cell shows.

Projector, words and the tower's last layer learn together; the layers below, whose attention
anchors are chosen by, stand still. Each pooled token, read through the language model's own (tied)
embeddings, must say its colour, shape and letter, or "none". Beside them a coloured shape has a
direction of its own (`draw_codes`): two things that share a colour or a shape are then as far apart
as two that share nothing, and whoever counts them has to compare one thing, not two. A small head
asks where a token is, so that places survive the projector too.
"""

import logging
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import LlavaOnevisionForConditionalGeneration

from aot.pooling import pool_grid
from demo.miniature.model import CELLS, PATCHES
from demo.miniature.pixels import normalise
from demo.miniature.sequence import open_vocabulary
from demo.training.checkpoint import load_state, save_state
from demo.training.loading import map_ahead, send
from demo.training.optim import set_rates
from demo.training.tower import dense_loss, draw_batch
from demo.world.labels import CLASSES, IGNORE, PAIRS
from demo.world.scenes import SHAPES

logger = logging.getLogger(__name__)

SHARPNESS = 8.0
"""Factor on the dot product of token and word: a token of norm 1 can be sure of its word."""
CODE_SHARPNESS = 2.0
"""The same for the code of a coloured shape; smaller, so that the code becomes long enough to be
found among all else that a token says."""


def train_align(
    model: LlavaOnevisionForConditionalGeneration,
    runs: Path,
    *,
    steps: int,
    scenes_per_step: int = 48,
    seed: int = 0,
    loaders: int = 0,
) -> None:
    """Train in place; resumes from `runs/align.safetensors`.

    `loaders` processes draw the scenes ahead of the steps.
    """
    torch.manual_seed(seed)
    trainer = _Aligner(model)
    path = runs / "align.safetensors"
    start, begun_s = load_state(path, trainer.modules, [trainer.optimizer]), time.monotonic()
    draw = partial(draw_batch, seed + 1, scenes=scenes_per_step)
    for step, drawn in map_ahead(draw, range(start, steps), loaders):
        set_rates([trainer.optimizer], step, steps)
        pixels, _, labels, _, _ = send(drawn, model.device)
        losses, scores = trainer.losses(pixels, labels)
        trainer.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        trainer.optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            numbers = {k: round(v.item(), 3) for k, v in {**losses, **scores}.items()}
            logger.info("align %d %.0f s %s", step, time.monotonic() - begun_s, numbers)
        if step % 100 == 99 or step == steps - 1:
            save_state(path, trainer.modules, [trainer.optimizer], step + 1)


class _Aligner:
    """What is trained, and what it is asked."""

    def __init__(self, model: LlavaOnevisionForConditionalGeneration) -> None:
        self.tower = model.model.vision_tower
        self.top = self.tower.encoder.layers[-1]
        self.projector = model.model.multi_modal_projector
        self.words = model.model.language_model.embed_tokens
        nn.init.normal_(self.words.weight, std=self.words.weight.shape[1] ** -0.5)
        nn.init.zeros_(model.model.image_newline)
        holder = nn.Module()
        self.codes = draw_codes(_rows(self.words.weight), len(PAIRS) + 1)
        holder.register_buffer("codes", self.codes)
        place = nn.Linear(self.words.weight.shape[1], 2 * CELLS).to(model.device)
        self.place = place
        self.modules: dict[str, nn.Module] = {
            "top": self.top, "projector": self.projector, "embed": self.words, "place": place,
            "codes": holder,
        }  # fmt: skip
        trained = [self.top, self.projector, place, self.words]
        parameters = [p for module in trained for p in module.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0)
        self.optimizer.param_groups[0]["initial_lr"] = 3e-3

    def losses(
        self, pixels: Tensor, labels: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses by name, and the accuracy on cells that show something."""
        with torch.autocast(pixels.device.type, torch.bfloat16):
            with torch.no_grad():
                below = self.tower(
                    pixel_values=normalise(pixels), output_hidden_states=True
                ).hidden_states[-2]
            tokens = _pool(below, self.top, self.projector).float()
        losses, scores = _word_losses(tokens, self.words.weight, labels)
        losses["pair"], scores["pair_accuracy"] = dense_loss(
            CODE_SHARPNESS * tokens @ self.codes.T, pair_labels(labels)
        )
        losses["place"] = 0.2 * _place_loss(self.place(tokens))
        return losses, scores


def draw_codes(words: Float[Tensor, "w d"], count: int) -> Float[Tensor, "count d"]:
    """Directions of length one, at right angles to each other and to the words."""
    basis = torch.linalg.qr(words.detach().float().T)[0]
    drawn = torch.randn(words.shape[1], count, device=words.device)
    return torch.linalg.qr(drawn - basis @ (basis.T @ drawn))[0].T.contiguous()


def pair_labels(labels: dict[str, Tensor]) -> Int64[Tensor, "b n"]:
    """Index + 1 into PAIRS per cell; 0 where there is no coloured shape, IGNORE as the colours."""
    colour, shape = labels["colour"], labels["shape"]
    return torch.where(colour > 0, (colour - 1) * len(SHAPES) + shape, colour)


def _pool(below: Tensor, top: nn.Module, projector: nn.Module) -> Tensor:
    """Pooled tokens from what the tower's last layer reads."""
    return pool_grid(projector(top(below, attention_mask=None)), (PATCHES, PATCHES), "bilinear")


def _rows(words: Tensor) -> Tensor:
    """The words that tokens decode to."""
    vocabulary = open_vocabulary().words
    names = dict.fromkeys(("none", *(word for values in CLASSES.values() for word in values)))
    return words[[vocabulary[name] for name in names]]


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
    index = torch.arange(CELLS * CELLS, device=logits.device).expand(len(logits), -1)
    rows, columns = logits.split(CELLS, dim=-1)
    row_loss = F.cross_entropy(rows.transpose(1, 2), index // CELLS, ignore_index=IGNORE)
    return row_loss + F.cross_entropy(columns.transpose(1, 2), index % CELLS)
