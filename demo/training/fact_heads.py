"""Heads that ask hidden states for facts while the language half trains; never exported.

Everything is read off by a linear map, and what answers are made of is also read through the
model's own words, as its answers are: attention that copies a word to a token is then rewarded
from the first step, and a question finds the word where it stands. (A fresh classifier of 60
seconds taught nothing in 600 steps; the words of the marks taught the same in 75.)
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from demo.miniature.sequence import open_vocabulary
from demo.training.facts import CLOCKS, FACTS, MOST
from demo.world.labels import CLASSES, IGNORE

FACT_LAYER = 3
"""Hidden states after this many layers are asked for facts; the layers above answer."""
CLOCK_LAYER = 2
"""After this many, every token is asked for the second of its own frame, and whether it is the
first of its item."""

ANSWER_LAYER = 4
"""After this many, an answer about to be given is asked which coloured shape or number it names."""
COUNTING = ("arrived", "count")
COUNTING_WEIGHT = 4.0
"""Of these beside another fact: a frame has one newline and many cells, and answers hang on it."""
SEVERAL_WEIGHT = 3.0
"""Of a frame that is the first to show several items: there is one in twenty."""


class FactHeads(nn.Module):
    """Reads facts off hidden states."""

    several: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim)
        self.classify = nn.Linear(dim, sum(FACTS.values()))
        self.readers = nn.ModuleDict({name: _identity(dim) for name in (*CLOCKS, "previous")})
        self.fresh = nn.Linear(dim, 3)
        self.pair = nn.Linear(dim, FACTS["pair"])
        words = open_vocabulary().words
        self.seconds = [words[f":{n:02d}"] for n in range(60)]
        several = torch.tensor([1.0] * 2 + [SEVERAL_WEIGHT] * (FACTS["arrived"] - 2))
        self.register_buffer("several", several, persistent=False)
        self.numbers = [words[str(n)] for n in range(MOST + 1)]
        self.names = {
            name: [words[word] for word in ("none", *values)] for name, values in CLASSES.items()
        }

    def losses(
        self,
        early: Float[Tensor, "b l d"],
        late: Float[Tensor, "b l d"],
        facts: Int64[Tensor, "b facts l"],
        embeddings: Float[Tensor, "v d"],
    ) -> tuple[Tensor, Tensor]:
        """Mean loss of the classes, and of what is read through words.

        Args:
            early: hidden states after `CLOCK_LAYER` on the video part of the sequence.
            late: the same after `FACT_LAYER`.
            facts: targets of `demo.training.facts.state_facts`, laid out as the sequence is.
            embeddings: the model's words.
        """
        classes, times = facts[:, : len(FACTS)], facts[:, len(FACTS) : -1]
        each = self._class_losses(late, classes)
        each.append(self._tell_fresh(early, facts[:, -1]))
        told = [
            self._read(name, hidden, times[:, k], embeddings[self.seconds])
            for k, (name, hidden) in enumerate(zip(CLOCKS, (early, late), strict=True))
        ]
        order = list(FACTS)
        for name, ids in self.names.items():
            for reader, fact in ((None, f"slide_{name}"), ("previous", f"previous_{name}")):
                goal = classes[:, order.index(fact)]
                told.append(self._read(reader, late, goal, embeddings[ids]))
        return torch.stack(each).sum() / len(FACTS), torch.stack(told).mean()

    def _class_losses(self, late: Tensor, classes: Tensor) -> list[Tensor]:
        asked = (classes != IGNORE).any(1)
        logits = self.classify(self.norm(late[asked].float())).float()
        losses = []
        for name, part, goal in zip(
            FACTS, logits.split(list(FACTS.values()), dim=-1), classes.movedim(1, 0), strict=True
        ):
            rare = self.several if name == "arrived" else None
            weight = COUNTING_WEIGHT if name in COUNTING else 1.0
            losses.append(weight * _mean_loss(part, goal[asked], rare))
        return losses

    def pair_loss(self, *asked: tuple[Float[Tensor, "b l d"], Int64[Tensor, "b l"]]) -> Tensor:
        """Mean loss of the coloured shape, read alike off all `asked` hidden states and goals.

        Cells that show it, text that names it and an answer about to be given then hold it in the
        same form: a question finds what it asks for, and what it finds comes as one thing, not as
        the colour of one and the shape of another.
        """
        losses = []
        for hidden, goal in asked:
            known = goal != IGNORE
            read = F.rms_norm(hidden[known].float(), hidden.shape[-1:])
            losses.append(_mean_loss(self.pair(read).float(), goal[known]))
        return torch.stack(losses).mean()

    def count_loss(
        self,
        embeddings: Float[Tensor, "v d"],
        *asked: tuple[Float[Tensor, "b l d"], Int64[Tensor, "b l"]],
    ) -> Tensor:
        """Mean loss of a number, read as the word it is off all `asked` hidden states and goals.

        The newline of the last frame then holds how many came in the form in which it is answered.
        """
        words = embeddings[self.numbers]
        losses = [self._read(None, hidden, goal, words) for hidden, goal in asked]
        return torch.stack(losses).mean()

    def find_numbers(self, targets: Int64[Tensor, "b l"]) -> Int64[Tensor, "b l"]:
        """The number where it is the next word of an answer, else IGNORE."""
        goal = torch.full_like(targets, IGNORE)
        for number, word in enumerate(self.numbers):
            goal[targets == word] = number
        return goal

    def _tell_fresh(self, hidden: Tensor, goal: Tensor) -> Tensor:
        """Items and background have a mean each, for there is ten times as much of one.

        Each weighs like half of all other facts together: counting hangs on it.
        """
        asked = goal != IGNORE
        logits = self.fresh(F.rms_norm(hidden[asked].float(), hidden.shape[-1:])).float()
        goals = goal[asked]
        of_items = _mean_loss(logits, goals.masked_fill(goals == 0, IGNORE))
        of_background = _mean_loss(logits, goals.masked_fill(goals > 0, IGNORE))
        return 0.5 * len(FACTS) * (of_items + of_background)

    def _read(self, reader: str | None, hidden: Tensor, goal: Tensor, words: Tensor) -> Tensor:
        """Loss of the right word; a slide's facts are read as they stand, without a map."""
        asked = goal != IGNORE
        read = F.rms_norm(hidden[asked].float(), hidden.shape[-1:])
        read = read if reader is None else self.readers[reader](read)
        return _mean_loss((read @ words.T.to(read.dtype)).float(), goal[asked])


def _identity(dim: int) -> nn.Linear:
    linear = nn.Linear(dim, dim, bias=False)
    nn.init.eye_(linear.weight)
    return linear


def _mean_loss(logits: Tensor, goal: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy over the tokens that are asked, by class as heavy as `weight`; else nought."""
    total = F.cross_entropy(logits, goal, weight, ignore_index=IGNORE, reduction="sum")
    return total / (goal != IGNORE).sum().clamp(min=1)
