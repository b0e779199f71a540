"""Heads that ask hidden states for facts while the language half trains; never exported.

What an item is and what came before it is read off by a linear map. A time is read through the
model's own words for seconds: the attention that copies a mark's word to a token is then rewarded
from the first step, where a fresh classifier of 60 seconds taught nothing for 600.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from demo.facts import CLOCKS, FACTS
from demo.labels import IGNORE

FACT_LAYER = 3
"""Hidden states after this many layers are asked for facts; the layers above answer."""
CLOCK_LAYER = 2
"""After this many, every token is asked for the second of its own frame."""


class FactHeads(nn.Module):
    """Reads facts off hidden states."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim)
        self.classify = nn.Linear(dim, sum(FACTS.values()))
        self.clocks = nn.ModuleDict({name: nn.Linear(dim, dim, bias=False) for name in CLOCKS})
        for clock in self.clocks.values():
            nn.init.eye_(clock.weight)

    def losses(
        self,
        early: Float[Tensor, "b t s d"],
        late: Float[Tensor, "b t s d"],
        facts: Int64[Tensor, "b facts t s"],
        seconds: Float[Tensor, "60 d"],
    ) -> tuple[Tensor, Tensor]:
        """Mean loss of the classes, and that of the times.

        Args:
            early: hidden states after `CLOCK_LAYER`, cells and newline of every frame.
            late: the same after `FACT_LAYER`.
            facts: targets of `demo.facts.state_facts`.
            seconds: the model's word embeddings of `:00` to `:59`.
        """
        classes, times = facts[:, : len(FACTS)], facts[:, len(FACTS) :]
        asked = (classes != IGNORE).any(1)
        logits = self.classify(self.norm(late[asked].float())).float()
        goals = classes.movedim(1, -1)[asked]
        each = [
            _mean_loss(part, goals[:, k])
            for k, part in enumerate(logits.split(list(FACTS.values()), dim=-1))
        ]
        told = [
            self._clock_loss(name, hidden, times[:, k], seconds)
            for k, (name, hidden) in enumerate(zip(CLOCKS, (early, late), strict=True))
        ]
        return torch.stack(each).mean(), torch.stack(told).mean()

    def _clock_loss(self, name: str, hidden: Tensor, goal: Tensor, seconds: Tensor) -> Tensor:
        asked = goal != IGNORE
        read = self.clocks[name](F.rms_norm(hidden[asked].float(), hidden.shape[-1:]))
        return _mean_loss((read @ seconds.T.to(read.dtype)).float(), goal[asked])


def _mean_loss(logits: Tensor, goal: Tensor) -> Tensor:
    """Cross-entropy over the tokens that are asked; nought when none is."""
    total = F.cross_entropy(logits, goal, ignore_index=IGNORE, reduction="sum")
    return total / (goal != IGNORE).sum().clamp(min=1)
