"""What stage 3 trains on: windows of cached scenes with their questions, drawn by seed and step.

In: the pool of scenes (`demo.training.pool`), a phase of the curriculum, how well each kind is
answered so far. Out: the `Batch` of a step, the same for the same seed, whatever ran before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from demo.miniature.sequence import open_vocabulary, write_marks, write_slots
from demo.training.crops import View, crop_scene, draw_inside
from demo.training.curriculum import Phase, Progress, leave_out_repeated, pick
from demo.training.facts import FACTS, name_pairs, state_facts
from demo.training.loading import send
from demo.training.pool import SHARD_SCENES, SeenScene, load_shard, pool_folder
from demo.world.labels import IGNORE
from demo.world.questions import KINDS, SEEN, Question, Window, ask, open_window

DRAWS = 6
"""Times each unsolved kind is drawn for a video before the slots are filled; others are once."""
COUNTS = ("count", "slide_count")
"""Not asked of busy scenes, nor of their frames' ends: answers would lean to what is usual."""
CROP_SLOTS = 6
"""Slots where a part of every frame is shown, which leaves less to ask."""
WINDOWS = 3
"""Drawn of a scene for each that is used: the one in which most is going on."""


@dataclass(frozen=True)
class Batch:
    """Tensors of one step: `b` videos of `t` frames, each with `s` slots of `k` words."""

    tokens: Float[Tensor, "b t n d"]
    marks: Int64[Tensor, "b t m"]
    slot_ids: Int64[Tensor, "b s k"]
    targets: Int64[Tensor, "b s k"]
    facts: Int64[Tensor, "b facts t slots"]
    named: Int64[Tensor, "b s k"]
    """Coloured shapes that the slots' text names."""
    answered: Int64[Tensor, "b s k"]
    """Coloured shapes that answers name, where the answer is about to be given."""
    outside: Bool[Tensor, "b t n"]
    """Cells that the view leaves out."""
    view: View
    kinds: list[list[str | None]]

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors there."""
        return replace(self, **send(vars(self), device))


@dataclass(frozen=True)
class PoolShare:
    """Shards of the pool that a run draws from."""

    first: int = 4
    """Drawn from at once."""
    most: int = 32
    """Drawn from in the end: every few steps one more is, so that training can start at once."""
    met: int = 0
    """Passed over: the first ones, met before."""

    def count(self, step: int) -> int:
        """Shards that a step draws from."""
        return min(self.first + step // 40, self.most)


class BatchSource:
    """Draws one worker's share of every step's videos."""

    def __init__(
        self,
        model: LlavaOnevisionForConditionalGeneration,
        runs: Path,
        seed: int,
        share: PoolShare,
        worker: tuple[int, int],
    ) -> None:
        """`worker` is which this is and of how many."""
        self.model, self.pool = model, pool_folder(model, runs)
        self.seed, self.share = seed, share
        self.worker, self.workers = worker
        self.vocabulary = open_vocabulary()
        self.shards: dict[tuple[bool, int], list[SeenScene]] = {}

    def draw(self, step: int, phase: Phase, progress: Mapping[View, Progress]) -> Batch:
        """The batch of a step."""
        rng = np.random.default_rng([self.seed, step, 3])
        frames, view = int(rng.choice(phase.frames)), phase.view(rng.random())
        rng = np.random.default_rng([self.seed, step, 4, self.worker])
        slots = phase.slots if view == View.WHOLE else CROP_SLOTS
        rows: list[dict[str, Tensor]] = []
        kinds: list[list[str | None]] = []
        while len(rows) < max(phase.videos // self.workers, 1):
            busy = rng.random() < phase.busy
            seen = self._pick_scene(step, phase, busy, rng)
            inside = draw_inside(seen, view, rng)
            seen = seen if view == View.WHOLE else crop_scene(seen, inside)
            cut, window = draw_window(seen, frames, rng)
            chosen = _choose_questions(window, phase, progress[view], busy, slots, rng)
            if chosen is None:
                continue
            row = self._write(seen, cut, window, inside, chosen)
            if busy:
                row["facts"][list(FACTS).index("count")] = IGNORE
            rows.append(row)
            kinds.append([q.kind if q else None for q in chosen])
        columns = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return Batch(**columns, view=view, kinds=kinds)

    def _pick_scene(
        self, step: int, phase: Phase, busy: bool, rng: np.random.Generator
    ) -> SeenScene:
        """A scene of the pool; `busy` takes the one with more to see of two of a kind."""
        scattered = phase.scattered and rng.random() < 0.5
        drawn = int(rng.integers(4 if scattered else self.share.count(step)))
        key = scattered, drawn % self.share.most + self.share.met
        if key not in self.shards:
            self.shards[key] = load_shard(self.model, self.pool, key[1], scattered=scattered)
        lecture = rng.random() < phase.lectures
        first, apart = (2 * int(rng.integers(SHARD_SCENES // 2)) for _ in range(2))
        first += lecture  # scenes of a shard are surveillance and lectures in turn
        second = first + apart if busy else first
        pair = [self.shards[key][k % SHARD_SCENES] for k in (first, second)]
        return max(pair, key=lambda seen: len(seen.scene.items))

    def _write(
        self,
        seen: SeenScene,
        cut: np.ndarray,
        window: Window,
        inside: np.ndarray,
        questions: list[Question | None],
    ) -> dict[str, Tensor]:
        """One video's part of the batch."""
        slots = write_slots(questions, self.vocabulary)
        named = name_pairs(slots.ids, self.vocabulary.words)
        # The token before an answer's colour is two before its shape.
        answered = np.where(slots.targets == IGNORE, IGNORE, np.roll(named, -2, axis=1))
        return {
            "tokens": seen.tokens[cut],
            "marks": torch.from_numpy(write_marks(window.times_s, self.vocabulary)),
            "slot_ids": torch.from_numpy(slots.ids),
            "targets": torch.from_numpy(slots.targets),
            "facts": torch.from_numpy(state_facts(window, seen.owner[cut])),
            "named": torch.from_numpy(named),
            "answered": torch.from_numpy(answered),
            "outside": torch.from_numpy(~inside[cut]),
        }


def _choose_questions(
    window: Window,
    phase: Phase,
    progress: Progress,
    busy: bool,
    slots: int,
    rng: np.random.Generator,
) -> list[Question | None] | None:
    """What to ask of a window, unsolved kinds more; None where it allows no question."""
    allowed = [k for k in phase.kinds or KINDS if not (busy and k in COUNTS)]
    unsolved = [kind for kind in allowed if not progress.is_solved(kind)]
    kinds = [allowed, *[unsolved] * (DRAWS - 1)]
    questions = leave_out_repeated([ask(window, rng, some) for some in kinds])
    return pick(questions, slots, progress.weights, rng) if questions else None


def draw_window(
    seen: SeenScene, frames: int, rng: np.random.Generator
) -> tuple[np.ndarray, Window]:
    """Which frames are looked at, evenly spaced, and the window they make.

    Of a few draws the one that shows most items: a frame in which nothing happens teaches little.
    """
    last = len(seen.tokens)
    clock_s = float(rng.integers(36_000))
    windows = []
    for _ in range(WINDOWS):
        stride = int(rng.integers(1, max((last - 1) // max(frames - 1, 1), 1) + 1))
        begin = int(rng.integers(last - stride * (frames - 1)))
        cut = begin + stride * np.arange(frames)
        window = open_window(seen.scene, seen.visible[cut], cut.astype(np.float64), clock_s)
        windows.append((cut, window))
    return max(windows, key=lambda drawn: (drawn[1].visible >= SEEN).any(0).sum())
