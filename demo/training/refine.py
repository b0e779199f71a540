"""Goes on from exported weights: the vision half sees more sharply and says it in the same way.

Tower and projector learn together what patches and pooled cells show. What a cell's token was
stays the goal where it told the cell rightly, so that a language half that can read the tokens
still can; where it did not, the token may become any that tells it.
"""

import copy
import logging
import time
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from transformers import LlavaOnevisionForConditionalGeneration

from aot.pooling import pool_grid
from demo.miniature.model import PATCHES
from demo.miniature.pixels import normalise
from demo.training.align import pair_labels
from demo.training.checkpoint import load_state, save_state
from demo.training.loading import map_ahead, send
from demo.training.optim import build_optimizers, set_rates
from demo.training.parallel import average_gradients, find_share
from demo.training.tower import TowerHeads, dense_loss, draw_batch, head_losses
from demo.world.labels import IGNORE, LETTERS, PAIRS

logger = logging.getLogger(__name__)

THINGS = 1 + len(PAIRS) + len(LETTERS)
"""What a cell may show: nothing, a coloured shape, a letter."""
SETTLE = 100
"""Steps in which the heads alone are trained: they start at random."""
MIXTURE = (*["surveillance"] * 6, "lecture", "crowded surveillance")
"""Scenes as they come: where one in three was, things in crowds, which hide each other, were eight
in ten of what was learned from. Slides are read well."""
BACKGROUND = 12.0
"""Weight of background in what a cell shows: at half, as in the tower's own training, stripes and
edges were read as things that never were, in every second scene."""
TOUCH_WEIGHT = 2.0
"""Of what cells show that an item merely touches: it, or nothing, but no other."""
CHANGE_WEIGHT = 0.5
"""Of the squared distance of tokens (of squared length 50) to what they were."""


def train_refine(
    model: LlavaOnevisionForConditionalGeneration,
    runs: Path,
    *,
    steps: int,
    scenes_per_step: int = 24,
    seed: int = 0,
    rate: float = 1.0,
    loaders: int = 0,
) -> None:
    """Train in place; resumes from `runs/refine.safetensors`. Every worker draws its own scenes.

    `rate` scales the learning rates; `loaders` processes draw scenes ahead of the steps.
    """
    torch.manual_seed(seed)
    trainer = _Refiner(model, rate)
    worker, _ = find_share()
    path = runs / "refine.safetensors"
    start, begun_s = load_state(path, trainer.modules, trainer.optimizers), time.monotonic()
    draw = partial(draw_batch, seed + 2 + 1000 * worker, scenes=scenes_per_step, mixture=MIXTURE)
    for step, drawn in map_ahead(draw, range(start, steps), loaders):
        set_rates(trainer.optimizers, step, steps, decay=0.7)
        losses, scores = trainer.losses(*send(drawn, model.device))
        for optimizer in trainer.optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        if step < SETTLE:
            for parameter in trainer.parameters:
                parameter.grad = None
        average_gradients([*trainer.parameters, *trainer.asked])
        nn.utils.clip_grad_norm_(trainer.parameters, 1.0)
        for optimizer in trainer.optimizers:
            optimizer.step()
        if worker:
            continue
        if step % 20 == 0 or step == steps - 1:
            numbers = {k: round(v.item(), 3) for k, v in {**losses, **scores}.items()}
            logger.info("refine %d %.0f s %s", step, time.monotonic() - begun_s, numbers)
        if step % 100 == 99 or step == steps - 1:
            save_state(path, trainer.modules, trainer.optimizers, step + 1)


class _Refiner:
    """The vision half, what it was, and the heads that ask it."""

    def __init__(self, model: LlavaOnevisionForConditionalGeneration, rate: float) -> None:
        self.tower = model.model.vision_tower
        self.projector = model.model.multi_modal_projector
        self.before = copy.deepcopy(nn.ModuleList([self.tower, self.projector]))
        self.heads = TowerHeads(self.tower.config).to(model.device)
        width = self.projector.linear_2.out_features
        self.things = nn.Linear(width, THINGS).to(model.device)
        self.modules: dict[str, nn.Module] = {
            "tower": self.tower, "projector": self.projector, "before": self.before,
            "heads": self.heads, "things": self.things,
        }  # fmt: skip
        vision = [*self.tower.embeddings.parameters(), *self.projector.parameters()]
        self.asked = [*self.heads.parameters(), *self.things.parameters()]
        self.optimizers = build_optimizers(
            self.tower.encoder, [*vision, *self.asked], muon_lr=rate * 2e-3, adam_lr=rate * 1e-3
        )
        self.parameters = [*self.tower.encoder.parameters(), *vision]

    def losses(
        self,
        pixels: Tensor,
        patches: dict[str, Tensor],
        cells: dict[str, Tensor],
        touched: dict[str, Tensor],
        present: Tensor,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses by name, and the accuracy on patches and cells that show something."""
        with torch.autocast(pixels.device.type, torch.bfloat16):
            hidden = self.tower(
                pixel_values=normalise(pixels), output_hidden_states=True
            ).hidden_states
            losses, scores = head_losses(self.heads, hidden, patches, present)
            tokens = _pool(self.projector(hidden[-1])).float()
            with torch.no_grad():
                old = self.before[0](pixel_values=normalise(pixels), output_hidden_states=True)
                before = _pool(self.before[1](old.hidden_states[-1])).float()
        thing, read = name_things(cells), self.things(tokens)
        losses["thing"], scores["thing_accuracy"] = dense_loss(read, thing, BACKGROUND)
        losses["touch"] = TOUCH_WEIGHT * touch_loss(read, thing, name_things(touched))
        told = self.things(before)
        losses["thing_before"], scores["accuracy_before"] = dense_loss(told, thing, BACKGROUND)
        far = (tokens - before).square().sum(-1)
        right = told.argmax(-1) == thing
        parts = (right & (thing > 0), right & (thing == 0))
        losses["change"] = CHANGE_WEIGHT * torch.stack([mean_of(far, part) for part in parts]).sum()
        return losses, scores


def name_things(labels: dict[str, Tensor]) -> Int64[Tensor, "b n"]:
    """Class of what a cell shows; IGNORE where an item only touches it."""
    pair, letter = pair_labels(labels), labels["letter"]
    return torch.where(letter > 0, len(PAIRS) + letter, pair)


def touch_loss(
    logits: Float[Tensor, "b n things"], thing: Int64[Tensor, "b n"], touching: Int64[Tensor, "b n"]
) -> Float[Tensor, ""]:
    """Mean loss of cells that are merely touched: their item and nothing are right alike."""
    chosen = (thing == IGNORE) & (touching > 0)
    log_odds = logits[chosen].log_softmax(-1)
    own = log_odds.gather(1, touching[chosen][:, None])
    return -torch.logaddexp(own[:, 0], log_odds[:, 0]).sum() / chosen.sum().clamp(min=1)


def mean_of(values: Float[Tensor, "b n"], chosen: Bool[Tensor, "b n"]) -> Float[Tensor, ""]:
    """Mean of the chosen values; nought when none is, as before the heads know anything."""
    return values[chosen].sum() / chosen.sum().clamp(min=1)


def _pool(tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b p d"]:
    return pool_grid(tokens, (PATCHES, PATCHES), "bilinear")
