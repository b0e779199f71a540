"""What the language half is asked, and when: phases, and which kinds get the slots of a step.

Circuits form one after the other and only where the gradient is not diluted: a token is first
matched with a word on single frames, then two attributes of one thing, then what came before what.
So windows grow, kinds are let in by phases, and of each family the first two kinds that are hardly
answered yet get most of the slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from demo.training.crops import View
from demo.world.questions import KINDS, LECTURE, SURVEILLANCE, Question

YES_OR_NO = ("exist", "order", "slide_exist")
SOLVED = 0.9
"""Skill beyond a guess from which on a kind is merely kept up."""
BEGUN = 0.6
"""Skill from which on a kind comes by itself and needs no push."""
PUSHED = 2
"""Kinds of each family that are pushed at a time."""

_MATCH = ("exist", "slide_exist")
_BIND = (
    *("exist", "colour", "shape", "colours", "count"),
    *("slide_exist", "slide_count", "slide_figure", "on_slide"),
)


@dataclass(frozen=True)
class Phase:
    """A part of the curriculum."""

    frames: tuple[int, ...]
    """Lengths of the windows, drawn alike often; one a step."""
    steps: int
    slots: int
    videos: int = 16
    kinds: tuple[str, ...] | None = None
    """None asks all."""
    scattered: bool = False
    """Surveillance from scenes with many things at once."""
    rectangles: float = 0.0
    """Share of the steps whose windows show a part of every frame (`demo.training.crops`)."""
    sparse: float = 0.0
    """Share of the steps whose windows show few cells."""
    lectures: float = 0.5
    """Share of the scenes that are lectures."""
    busy: float = 0.5
    """Share of the scenes that are the busier one of two: what came before what takes three."""

    def view(self, drawn: float) -> View:
        """The view of a step, from a number drawn evenly from 0 to 1."""
        if drawn < self.rectangles:
            return View.RECTANGLES
        return View.SPARSE if drawn < self.rectangles + self.sparse else View.WHOLE


def plan_phases(scale: float = 1.0) -> tuple[Phase, ...]:
    """The curriculum; `scale` stretches every phase."""
    plan = (
        Phase((1,), 150, 8, 32, _MATCH, scattered=True),
        Phase((1,), 250, 10, 24, _BIND, scattered=True),
        Phase((2,), 350, 10, 16, _BIND),
        Phase((3,), 700, 10),
        Phase((3, 4, 5), 1200, 10),
        Phase((4, 6, 8), 1200, 10, rectangles=0.2, sparse=0.1),
        Phase((6, 8, 8), 3200, 10, rectangles=0.2, sparse=0.4, lectures=0.25, busy=0.25),
    )
    return tuple(replace(p, steps=max(round(p.steps * scale), 1)) for p in plan)


def find_phase(phases: Sequence[Phase], step: int) -> Phase:
    """The phase a step falls into; the last one from its start on."""
    for phase in phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return phases[-1]


@dataclass
class Progress:
    """How well each kind is answered while training, as a running mean."""

    right: Float[Tensor, " kinds"] = field(default_factory=lambda: torch.zeros(len(KINDS)))

    @property
    def weights(self) -> dict[str, float]:
        """How eagerly a kind is asked."""
        skill = {kind: self.skill(kind) for kind in KINDS}
        weights = {kind: 0.15 if self.is_solved(kind) else 1.0 for kind in KINDS}
        for family in (SURVEILLANCE, LECTURE):
            fresh = [kind for kind in family if skill[kind] < BEGUN]
            weights |= dict.fromkeys(fresh[:PUSHED], 4.0)
        return weights

    def skill(self, kind: str) -> float:
        """How much better than a guess: 0 is a guess, 1 is always right."""
        guess = 0.5 if kind in YES_OR_NO else 0.3
        return (float(self.right[KINDS.index(kind)]) - guess) / (1.0 - guess)

    def is_solved(self, kind: str) -> bool:
        """True where it need only be kept up."""
        return self.skill(kind) > SOLVED

    def update(self, kinds: Sequence[Sequence[str | None]], right: Float[Tensor, "b s"]) -> None:
        """`right[b s]` is 1 where the whole answer was."""
        picked: dict[str | None, list[float]] = {}
        for row, answers in zip(kinds, right.tolist(), strict=True):
            for kind, answer in zip(row, answers, strict=True):
                picked.setdefault(kind, []).append(answer)
        for index, kind in enumerate(KINDS):
            if kind in picked:
                keep = 0.985 ** len(picked[kind])
                mean = float(np.mean(picked[kind]))
                self.right[index] = keep * float(self.right[index]) + (1 - keep) * mean


def pick(
    questions: Sequence[Question],
    slots: int,
    weights: dict[str, float],
    rng: np.random.Generator,
) -> list[Question | None]:
    """As many as there are slots; what a guess would mostly get right is seldom worth one."""
    chosen = list(questions)
    if len(chosen) > slots:
        each = np.array([weights[q.kind] * max(1.0 - q.guess, 0.1) for q in chosen])
        order = rng.choice(len(chosen), slots, replace=False, p=each / each.sum())
        chosen = [chosen[i] for i in order]
    return [*chosen, *[None] * (slots - len(chosen))]


def leave_out_repeated(draws: Sequence[Sequence[Question]]) -> list[Question]:
    """Different questions of several draws."""
    return list({(q.kind, q.text): q for draw in draws for q in draw}.values())
