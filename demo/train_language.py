"""Stage 3: the language half learns to answer, on cached tokens of the frozen vision half.

A curriculum of phases: two-frame windows and nothing but "was there ...?" until tokens are
matched with words, then all kinds on three frames, then on three to eight. All tokens are
there in every phase: the model is never trained on dropped tokens, so that no reducer is favoured.
Beside the answers, `demo.facts` teaches a middle layer to remember. Kinds that are answered badly
are asked more often.
"""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaOnevisionForConditionalGeneration

from demo.checkpoint import load_state, save_state
from demo.fact_heads import CLOCK_LAYER, FACT_LAYER, FactHeads
from demo.facts import state_facts
from demo.labels import IGNORE
from demo.optim import build_optimizers, set_rates
from demo.pool import FRAMES, SHARD_SCENES, SeenScene, load_shard, pool_folder
from demo.questions import KINDS, Question, ask, open_window
from demo.sequence import (
    FRAME_LENGTH,
    MARK_TOKENS,
    SLOT_LENGTH,
    block_mask,
    embed_videos,
    open_vocabulary,
    position_ids,
    write_marks,
    write_slots,
)

logger = logging.getLogger(__name__)

VIDEOS_PER_STEP = 10
YES_OR_NO = ("exist", "order", "slide_exist")
DRAWS = 4
"""Times each kind is drawn for a video before the slots are filled."""
END_WEIGHT = 0.2
"""Of the `<|end|>` after an answer, which is easy."""


@dataclass(frozen=True)
class Phase:
    """A part of the curriculum."""

    frames: tuple[int, ...]
    """Lengths of the windows, drawn alike often; one a step."""
    steps: int
    slots: int
    kinds: tuple[str, ...] | None = None
    """None asks all."""
    focus: tuple[str, ...] = ()
    """Kinds that get most of the slots: a match that takes two steps is only found undiluted."""


def plan_phases(scale: float = 1.0) -> tuple[Phase, ...]:
    """The curriculum; `scale` stretches every phase.

    Long windows come mixed with short ones, so that a run cut short has met them too.
    """
    warm = ("exist", "slide_exist")
    plan = (
        Phase((2,), 200, 8, warm),
        Phase((3,), 400, 10),
        Phase((3, 5, 8), 800, 10),
        Phase((3, 5, 8), 600, 10, focus=("exist", "colour", "slide_figure", "on_slide")),
        Phase((8,), 250, 10),
    )
    return tuple(replace(p, steps=max(round(p.steps * scale), 1)) for p in plan)


@dataclass(frozen=True)
class Batch:
    """Tensors of one step."""

    tokens: Tensor
    marks: Tensor
    slot_ids: Tensor
    targets: Tensor
    facts: Tensor
    kinds: list[list[str | None]]


@dataclass
class Progress:
    """How well each kind is answered while training, as a running mean."""

    right: Tensor

    @property
    def weights(self) -> np.ndarray:
        """How eagerly a kind is asked: the less it is beyond a guess, the more."""
        guess = np.array([0.5 if kind in YES_OR_NO else 0.3 for kind in KINDS])
        skill = (self.right.numpy() - guess) / (1.0 - guess)
        return np.clip(1.0 - skill, 0.1, 1.0)

    def update(self, kinds: list[list[str | None]], right: Tensor) -> None:
        """`right[b s]` is 1 where the whole answer was."""
        for index, kind in enumerate(KINDS):
            picked = [
                float(right[b, s])
                for b, row in enumerate(kinds)
                for s, name in enumerate(row)
                if name == kind
            ]
            if picked:
                keep = 0.98 ** len(picked)
                self.right[index] = keep * float(self.right[index]) + (1 - keep) * float(
                    np.mean(picked)
                )


def train_language(
    model: LlavaOnevisionForConditionalGeneration,
    runs: Path,
    *,
    phases: tuple[Phase, ...],
    seed: int = 0,
    max_shards: int = 32,
    stop_s: float | None = None,
) -> int:
    """Train in place; resumes from `runs/language.safetensors`; returns the steps done.

    `stop_s` ends the run early, saved, after so many seconds.
    """
    torch.manual_seed(seed)
    trainer = _Trainer(model, runs, phases, seed, max_shards)
    return trainer.run(stop_s)


class _Trainer:
    """State of stage 3 between steps."""

    def __init__(self, model, runs: Path, phases, seed: int, max_shards: int) -> None:
        self.model, self.phases, self.seed = model, phases, seed
        self.max_shards = max_shards
        self.language = model.model.language_model
        self.newline = model.model.image_newline
        self.heads = FactHeads(model.config.text_config.hidden_size)
        self.progress = Progress(torch.zeros(len(KINDS)))
        self.vocabulary = open_vocabulary()
        self.shards: dict[int, list[SeenScene]] = {}
        holder = nn.ParameterDict({"newline": self.newline})
        progress = nn.Module()
        progress.register_buffer("right", self.progress.right)
        self.modules: dict[str, nn.Module] = {
            "language": self.language, "heads": self.heads, "newline": holder,
            "progress": progress,
        }  # fmt: skip
        others = [*self.language.embed_tokens.parameters(), *self.language.norm.parameters()]
        self.optimizers = build_optimizers(
            self.language.layers,
            [*others, *self.heads.parameters(), self.newline],
            muon_lr=3e-3,
            adam_lr=1.5e-3,
        )
        self.pool = pool_folder(model, runs)
        self.path = runs / "language.safetensors"
        self.steps = sum(p.steps for p in phases)

    def run(self, stop_s: float | None) -> int:
        """Train from the last checkpoint to the last step, or for `stop_s` seconds; steps done."""
        start, begun_s = load_state(self.path, self.modules, self.optimizers), time.monotonic()
        self.language.train()
        for step in range(start, self.steps):
            loss, fact_loss = self.step(step)
            elapsed_s = time.monotonic() - begun_s
            if step % 25 == 0 or step == self.steps - 1:
                self.log(step, elapsed_s, loss, fact_loss)
            stopping = stop_s is not None and elapsed_s > stop_s
            if step % 100 == 99 or step == self.steps - 1 or stopping:
                save_state(self.path, self.modules, self.optimizers, step + 1)
            if stopping:
                return step + 1
        self.language.eval()
        return self.steps

    def step(self, step: int) -> tuple[float, float]:
        """One update; the loss of the answers and that of the facts."""
        set_rates(self.optimizers, step, self.steps, decay=0.4)
        phase = self.find_phase(step)
        batch = self.draw(step, phase)
        with torch.autocast("cpu", torch.bfloat16):
            loss, fact_loss, right = self.losses(batch)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        (loss + fact_loss).backward()
        nn.utils.clip_grad_norm_([*self.language.parameters(), self.newline], 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.progress.update(batch.kinds, right)
        return loss.item(), fact_loss.item()

    def find_phase(self, step: int) -> Phase:
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    def scene(self, step: int, rng: np.random.Generator) -> SeenScene:
        """A scene of the pool, which grows with the steps so that training can start at once."""
        known = min(4 + step // 40, self.max_shards)
        index = int(rng.integers(known))
        if index not in self.shards:
            self.shards[index] = load_shard(self.model, self.pool, index)
        return self.shards[index][int(rng.integers(SHARD_SCENES))]

    def draw(self, step: int, phase: Phase) -> Batch:
        """The batch of a step: the same for the same seed, whatever ran before."""
        rng = np.random.default_rng([self.seed, step, 3])
        frames = int(rng.choice(phase.frames))
        columns = []
        while len(columns) < VIDEOS_PER_STEP:
            seen = self.scene(step, rng)
            begin = int(rng.integers(FRAMES - frames + 1))
            cut = slice(begin, begin + frames)
            clock_s = float(rng.integers(36_000))
            times_s = np.arange(FRAMES, dtype=np.float64)[cut]
            window = open_window(seen.scene, seen.visible[cut], times_s, clock_s)
            questions = self.choose(
                ask(window, rng, kinds)
                for kinds, draws in ((phase.kinds, DRAWS), (phase.focus, 2 * DRAWS))
                for _ in range(draws)
            )
            chosen = self.pick(questions, phase, rng)
            slots = write_slots(chosen, self.vocabulary)
            columns.append(
                (
                    seen.tokens[cut],
                    torch.from_numpy(write_marks(window.times_s, self.vocabulary)),
                    torch.from_numpy(slots.ids),
                    torch.from_numpy(slots.targets),
                    torch.from_numpy(state_facts(window, seen.owner[cut])),
                    [q.kind if q else None for q in chosen],
                )
            )
        tokens, marks, ids, targets, facts, kinds = zip(*columns, strict=True)
        return Batch(
            torch.stack(tokens).float(), torch.stack(marks), torch.stack(ids),
            torch.stack(targets), torch.stack(facts), list(kinds),
        )  # fmt: skip

    @staticmethod
    def choose(draws) -> list[Question]:
        """Different questions of several draws."""
        return list({(q.kind, q.text): q for draw in draws for q in draw}.values())

    def pick(
        self, questions: list[Question], phase: Phase, rng: np.random.Generator
    ) -> list[Question | None]:
        """As many as there are slots, badly answered kinds and those in focus first by chance."""
        slots = phase.slots
        if len(questions) > slots:
            weights = self.progress.weights[[KINDS.index(q.kind) for q in questions]]
            if phase.focus:
                weights *= [2.0 if q.kind in phase.focus else 0.3 for q in questions]
            order = rng.choice(len(questions), slots, replace=False, p=weights / weights.sum())
            questions = [questions[i] for i in order]
        return [*questions, *[None] * (slots - len(questions))]

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of answers and facts, and which answers were right."""
        frames, slots = batch.tokens.shape[1], batch.slot_ids.shape[1]
        embedded = embed_videos(
            self.language,
            self.newline,
            batch.tokens,
            batch.marks,
            batch.slot_ids,
            self.vocabulary,
        )
        mask = block_mask(frames, slots).expand(len(embedded), -1, -1, -1)
        outputs = self.language(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=position_ids(frames, slots),
            use_cache=False,
            output_hidden_states=True,
        )
        answers = outputs.last_hidden_state[:, 1 + frames * FRAME_LENGTH :]
        loss, right = self.answer_loss(answers, batch.targets.flatten(1))
        facts, told = self.fact_losses(outputs.hidden_states, batch.facts, frames)
        return loss, 0.5 * facts + 0.5 * told, right

    def answer_loss(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the answers' words, and which slots are wholly right."""
        asked = targets != IGNORE
        logits = F.linear(hidden[asked], self.language.embed_tokens.weight).float()
        goal = targets[asked]
        weight = torch.where(goal == self.vocabulary.words["<|end|>"], END_WEIGHT, 1.0)
        each = F.cross_entropy(logits, goal, reduction="none")
        correct = torch.ones(targets.shape, dtype=torch.bool)
        correct[asked] = logits.argmax(-1) == goal
        slots = correct.unflatten(1, (-1, SLOT_LENGTH)).all(-1)
        return (weight * each).sum() / weight.sum(), slots.float()

    def fact_losses(
        self, states: tuple[Tensor, ...], facts: Tensor, frames: int
    ) -> tuple[Tensor, Tensor]:
        """Losses of classes and times on the cells and newlines of the video part."""
        early, late = (
            states[layer][:, 1 : 1 + frames * FRAME_LENGTH].unflatten(1, (frames, FRAME_LENGTH))[
                :, :, MARK_TOKENS:
            ]
            for layer in (CLOCK_LAYER, FACT_LAYER)
        )
        return self.heads.losses(early, late, facts, self.language.embed_tokens.weight)

    def log(self, step: int, elapsed_s: float, loss: float, fact_loss: float) -> None:
        """One line: losses, and the running accuracy of every kind."""
        kinds = " ".join(
            f"{k}={v:.2f}" for k, v in zip(KINDS, self.progress.right.tolist(), strict=True)
        )
        logger.info(
            "language %d %.0f s loss=%.3f facts=%.3f mean=%.3f %s",
            step,
            elapsed_s,
            loss,
            fact_loss,
            self.progress.right.mean().item(),
            kinds,
        )
