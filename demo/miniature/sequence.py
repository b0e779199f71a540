"""Training sequences: one video, several questions beside each other, one block mask.

Layout: `<|user|>`, then per frame `HH :MM :SS`, its pooled tokens and a newline, then slots. A
slot holds question, `<|assistant|>`, answer, `<|end|>`; it sees the video and itself, and counts
its positions from the video's end, so that every slot gets the logits it would get alone.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import Qwen2Model

from demo.miniature.model import TOKENS_PER_FRAME
from demo.miniature.tokenizer import build_tokenizer
from demo.world.labels import IGNORE
from demo.world.questions import Question, format_mark

MARK_TOKENS = 3
FRAME_LENGTH = MARK_TOKENS + TOKENS_PER_FRAME + 1
"""Positions of a frame: mark, cells, newline."""
SLOT_LENGTH = 14
"""The longest question with its answer takes 13."""


@dataclass(frozen=True)
class Vocabulary:
    """Ids the sequences are written with."""

    words: dict[str, int]

    def encode(self, text: str) -> list[int]:
        """Ids of space-separated words; times may be written `HH:MM:SS`."""
        spaced = " ".join(
            word.replace(":", " :") if word[0].isdigit() else word for word in text.split()
        )
        return [self.words[word] for word in spaced.split()]


@lru_cache(maxsize=1)
def open_vocabulary() -> Vocabulary:
    """The tokenizer's words."""
    return Vocabulary(dict(build_tokenizer().get_vocab()))


@dataclass(frozen=True)
class Slots:
    """Questions of one video as ids, and what is to be predicted."""

    ids: Int64[np.ndarray, "slots length"]
    targets: Int64[np.ndarray, "slots length"]
    """The next id where it belongs to the answer or ends it, IGNORE elsewhere."""


def write_slots(questions: list[Question | None], vocabulary: Vocabulary) -> Slots:
    """Ids of every question's slot; None leaves a slot empty."""
    ids = np.full((len(questions), SLOT_LENGTH), vocabulary.words["<pad>"], np.int64)
    targets = np.full_like(ids, IGNORE)
    for row, question in enumerate(questions):
        if question is None:
            continue
        asked = [*vocabulary.encode(question.text), vocabulary.words["<|assistant|>"]]
        answer = [*vocabulary.encode(question.answer), vocabulary.words["<|end|>"]]
        whole = [*asked, *answer]
        ids[row, : len(whole)] = whole
        targets[row, len(asked) - 1 : len(whole) - 1] = answer
    return Slots(ids, targets)


def write_marks(times_s: Float[np.ndarray, " t"], vocabulary: Vocabulary) -> np.ndarray:
    """Ids of the time marks, [t 3]."""
    return np.array([vocabulary.encode(format_mark(float(t))) for t in times_s], np.int64)


def prefix_length(frames: int) -> int:
    """Positions of the video part."""
    return 1 + frames * FRAME_LENGTH


@lru_cache(maxsize=16)
def position_ids(frames: int, slots: int) -> Int64[Tensor, "1 l"]:
    """Positions: the video counts on, every slot starts at its end."""
    prefix = prefix_length(frames)
    slot = torch.arange(SLOT_LENGTH).repeat(slots) + prefix
    return torch.cat([torch.arange(prefix), slot])[None]


def embed_videos(
    language_model: Qwen2Model,
    newline: Float[Tensor, " d"],
    tokens: Float[Tensor, "b t n d"],
    marks: Int64[Tensor, "b t m"],
    slot_ids: Int64[Tensor, "b s k"],
    vocabulary: Vocabulary,
) -> Float[Tensor, "b l d"]:
    """Embeddings of whole sequences."""
    embed = language_model.embed_tokens
    batch, frames, _, dim = tokens.shape
    closing = newline.expand(batch, frames, 1, dim)
    per_frame = torch.cat([embed(marks), tokens, closing], dim=2).flatten(1, 2)
    user = embed(marks.new_full((batch, 1), vocabulary.words["<|user|>"]))
    return torch.cat([user, per_frame, embed(slot_ids.flatten(1))], dim=1)
