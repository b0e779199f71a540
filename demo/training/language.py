"""Stage 3: the language half learns to answer, on cached tokens of the frozen vision half.

The phases of `demo.training.curriculum`: single frames and nothing but "was there ...?" until
tokens are matched with words, in the end all kinds on eight frames, six of ten steps seeing parts
of them (`demo.training.crops`). No reducer's choice of tokens is ever trained on, so that none is
favoured. Beside the answers, `demo.training.facts` teaches the middle layers to remember; that
falls off as the answers come.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor, nn
from transformers import LlavaOnevisionForConditionalGeneration, Qwen2Model

from demo.miniature import attention
from demo.miniature.sequence import (
    FRAME_LENGTH,
    MARK_TOKENS,
    SLOT_LENGTH,
    embed_videos,
    open_vocabulary,
    position_ids,
    prefix_length,
)
from demo.training.batches import Batch, BatchSource, PoolShare
from demo.training.checkpoint import load_state, save_state
from demo.training.crops import View, hide, pack, take
from demo.training.curriculum import Phase, Progress, find_phase
from demo.training.fact_heads import ANSWER_LAYER, CLOCK_LAYER, FACT_LAYER, FactHeads
from demo.training.facts import FACTS
from demo.training.loading import map_ahead
from demo.training.optim import build_optimizers, set_rates
from demo.training.parallel import any_worker, average_gradients, find_share
from demo.world.labels import IGNORE
from demo.world.questions import KINDS

logger = logging.getLogger(__name__)

END_WEIGHT = 0.2
"""Of the `<|end|>` after an answer, which is easy."""
DECAY = 0.6
"""Share of the steps over which the rates fall."""
SETTLE = 150
"""Steps over which the heads, which start at random, come to bear on the model."""


def train_language(
    model: LlavaOnevisionForConditionalGeneration,
    runs: Path,
    *,
    phases: tuple[Phase, ...],
    seed: int = 0,
    shards: PoolShare | None = None,
    rate: float = 1.0,
    stop_s: float | None = None,
    loaders: int = 0,
) -> int:
    """Train in place; resumes from `runs/language.safetensors`; returns the steps done.

    `rate` scales the learning rates; `stop_s` ends the run early, saved, after so many seconds;
    `loaders` processes draw batches ahead, from how well kinds were answered some steps ago.
    """
    torch.manual_seed(seed)
    trainer = _Trainer(model, runs, phases, seed, shards or PoolShare(), rate)
    return trainer.run(stop_s, loaders)


class _Trainer:
    """State of stage 3 between steps."""

    def __init__(self, model, runs: Path, phases, seed: int, share: PoolShare, rate: float) -> None:
        self.phases = phases
        self.language = model.model.language_model
        self.newline = model.model.image_newline
        self.heads = FactHeads(model.config.text_config.hidden_size).to(model.device)
        # What is read well in whole frames may be read badly in parts of them.
        self.progress = {view: Progress() for view in View}
        self.vocabulary = open_vocabulary()
        holder = nn.ParameterDict({"newline": self.newline})
        progress = nn.Module()
        for view in View:
            # Shared with the processes that draw ahead; updated in place.
            progress.register_buffer(view, self.progress[view].right.share_memory_())
        self.modules: dict[str, nn.Module] = {
            "language": self.language, "heads": self.heads, "newline": holder,
            "progress": progress,
        }  # fmt: skip
        self.worker, workers = find_share()
        self.source = BatchSource(model, runs, seed, share, (self.worker, workers))
        others = [*self.language.embed_tokens.parameters(), *self.language.norm.parameters()]
        self.optimizers = build_optimizers(
            self.language.layers,
            [*others, *self.heads.parameters(), self.newline],
            muon_lr=rate * 3e-3,
            adam_lr=rate * 1.5e-3,
        )
        self.path = runs / "language.safetensors"
        self.steps = sum(p.steps for p in phases)

    def run(self, stop_s: float | None, loaders: int) -> int:
        """Train from the last checkpoint to the last step, or for `stop_s` seconds; steps done."""
        start, begun_s = load_state(self.path, self.modules, self.optimizers), time.monotonic()
        self.language.train()
        with _sparse_attention(self.language):
            for step, batch in map_ahead(self.draw, range(start, self.steps), loaders):
                loss, fact_loss = self.step(step, batch.to(self.newline.device))
                elapsed_s = time.monotonic() - begun_s
                if step % 25 == 0 or step == self.steps - 1:
                    self.log(step, elapsed_s, loss, fact_loss)
                stopping = any_worker(stop_s is not None and elapsed_s > stop_s)
                last = step == self.steps - 1 or stopping
                if self.worker == 0 and (step % 100 == 99 or last):
                    save_state(self.path, self.modules, self.optimizers, step + 1)
                if stopping:
                    return step + 1
        self.language.eval()
        return self.steps

    def draw(self, step: int) -> Batch:
        """The batch of a step."""
        return self.source.draw(step, find_phase(self.phases, step), self.progress)

    def step(self, step: int, batch: Batch) -> tuple[float, float]:
        """One update; the loss of the answers and that of the facts."""
        set_rates(self.optimizers, step, self.steps, decay=DECAY)
        with torch.autocast(batch.tokens.device.type, torch.bfloat16):
            loss, fact_loss, right = self.losses(batch)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        weight = min((step + 1) / SETTLE, max(1.0 - step / self.steps, 0.2))
        (loss + weight * fact_loss).backward()
        average_gradients([*self.language.parameters(), *self.heads.parameters(), self.newline])
        nn.utils.clip_grad_norm_([*self.language.parameters(), self.newline], 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.progress[batch.view].update(batch.kinds, right.cpu())
        return loss.item(), fact_loss.item()

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of answers and facts, and which answers were right."""
        frames, slots = batch.tokens.shape[1], batch.slot_ids.shape[1]
        prefix = prefix_length(frames)
        index, blank = pack(hide(batch.outside))
        embedded = embed_videos(
            self.language,
            self.newline,
            batch.tokens.float(),
            batch.marks,
            batch.slot_ids,
            self.vocabulary,
        )
        asked = position_ids(frames, slots)[:, prefix:].expand(len(index), -1).to(index.device)
        seen = index.shape[1]
        outputs = self.language(
            inputs_embeds=torch.cat([take(embedded[:, :prefix], index), embedded[:, prefix:]], 1),
            attention_mask=blank.new_ones(1, 1, 1, 1),  # the prefix implies it
            position_ids=torch.cat([index, asked], dim=1),
            use_cache=False,
            output_hidden_states=True,
            prefix=seen,
            hidden=blank if blank.any() else None,
        )
        loss, right = self.answer_loss(
            outputs.last_hidden_state[:, seen:], batch.targets.flatten(1)
        )
        early, late = (outputs.hidden_states[n][:, :seen] for n in (CLOCK_LAYER, FACT_LAYER))
        goals = _lay_out_facts(batch.facts).gather(
            2, index[:, None].expand(-1, batch.facts.shape[1], -1)
        )
        goals = goals.masked_fill(blank[:, None], IGNORE)
        facts, told = self.heads.losses(early, late, goals, self.language.embed_tokens.weight)
        states = outputs.hidden_states
        pairs = self.heads.pair_loss(
            (early, goals[:, list(FACTS).index("pair")]),
            (states[CLOCK_LAYER][:, seen:], batch.named.flatten(1)),
            (states[ANSWER_LAYER][:, seen:], batch.answered.flatten(1)),
        )
        counts = self.heads.count_loss(
            self.language.embed_tokens.weight,
            (states[ANSWER_LAYER][:, :seen], goals[:, list(FACTS).index("count")]),
            (states[ANSWER_LAYER][:, seen:], self.heads.find_numbers(batch.targets.flatten(1))),
        )
        return loss, 0.5 * (facts + told + pairs + counts), right

    def answer_loss(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the answers' words, and which slots are wholly right."""
        asked = targets != IGNORE
        logits = F.linear(hidden[asked], self.language.embed_tokens.weight).float()
        goal = targets[asked]
        weight = torch.where(goal == self.vocabulary.words["<|end|>"], END_WEIGHT, 1.0)
        each = F.cross_entropy(logits, goal, reduction="none")
        correct = torch.ones_like(asked)
        correct[asked] = logits.argmax(-1) == goal
        slots = correct.unflatten(1, (-1, SLOT_LENGTH)).all(-1)
        return (weight * each).sum() / weight.sum(), slots.float()

    def log(self, step: int, elapsed_s: float, loss: float, fact_loss: float) -> None:
        """One line: losses, and the running accuracy of every kind."""
        if self.worker:
            return
        right = self.progress[View.WHOLE].right
        kinds = " ".join(f"{k}={v:.2f}" for k, v in zip(KINDS, right.tolist(), strict=True))
        logger.info(
            "language %d %.0f s loss=%.3f facts=%.3f rectangles=%.3f sparse=%.3f mean=%.3f %s",
            step,
            elapsed_s,
            loss,
            fact_loss,
            self.progress[View.RECTANGLES].right.mean().item(),
            self.progress[View.SPARSE].right.mean().item(),
            right.mean().item(),
            kinds,
        )


def _lay_out_facts(facts: Int64[Tensor, "b facts t s"]) -> Int64[Tensor, "b facts l"]:
    """Targets on the video part of the sequence; first token and time marks have none."""
    batch, kinds, frames, _ = facts.shape
    laid = facts.new_full((batch, kinds, frames, FRAME_LENGTH), IGNORE)
    laid[..., MARK_TOKENS:] = facts
    return F.pad(laid.flatten(2), (1, 0), value=IGNORE)


@contextmanager
def _sparse_attention(language: Qwen2Model) -> Iterator[None]:
    """Within the block, attention is `demo.miniature.attention`'s."""
    before = language.config._attn_implementation
    language.config._attn_implementation = attention.NAME
    try:
        yield
    finally:
        language.config._attn_implementation = before
