"""What a language half has read once and is asked about again: keys and values of a prompt's begin.

Visual tokens stand before the question, so that two questions about one window differ behind them
alone. The keys and values of all that stands up to the last visual token are kept, the least
recently used going first when they take more than may be kept; the next question on the same window
reads its own words and answers. Who keeps is told by content, never by name: one changed token is
another prompt.

A cache of transformers grows by copying itself for every token. The layers here have room beyond
what they hold and are written in place, so that a long prompt costs nothing while an answer is
written, and what was written behind the prompt is taken back by moving a number.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 64
"""Positions that a layer grows by at least."""


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer, `[1 heads length width]`, with room behind them."""

    def __init__(self) -> None:
        super().__init__()
        self._length = 0
        self._room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put more behind what there is; all of it."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        until = self._length + key_states.shape[-2]
        room = self._with_room(until, key_states, value_states)
        for held, new in zip(room, (key_states, value_states), strict=True):
            held[..., self._length : until, :] = new
        self._set_length(until)
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def cut(self, length: int) -> None:
        """Take back all behind the first `length` positions."""
        self._set_length(min(length, self._length))

    @property
    def size_bytes(self) -> int:
        """Of its memory, the room included."""
        return sum(held.nbytes for held in self._room or ())

    def _set_length(self, length: int) -> None:
        assert self._room is not None
        self._length = length
        self.keys, self.values = (held[..., :length, :] for held in self._room)

    def _with_room(self, until: int, *new: Tensor) -> tuple[Tensor, Tensor]:
        if self._room is None or self._room[0].shape[-2] < until:
            size = until + max(ROOM, until // 8)
            grown = [one.new_empty(*one.shape[:-2], size, one.shape[-1]) for one in new]
            for held, more in zip(self._room or (), grown, strict=False):
                more[..., : self._length, :] = held[..., : self._length, :]
            self._room = (grown[0], grown[1])
        return self._room


class ReadPrompt(Cache):
    """Keys and values of a prompt's begin, and of what is being written behind it."""

    def __init__(self, num_layers: int) -> None:
        super().__init__(layers=[RoomyLayer() for _ in range(num_layers)])

    def cut(self, length: int) -> None:
        """Take back all behind the first `length` positions."""
        for layer in self._roomy():
            layer.cut(length)

    @property
    def size_bytes(self) -> int:
        """Of its memory."""
        return sum(layer.size_bytes for layer in self._roomy())

    def _roomy(self) -> Iterable[RoomyLayer]:
        return (layer for layer in self.layers if isinstance(layer, RoomyLayer))


class KeptPrompts:
    """Prompts that were read, bounded in bytes. Safe to share between threads.

    One that is taken is whoever's who took it, until it is given back: nobody writes behind a
    prompt that another one writes behind.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.hits = 0
        self._kept: OrderedDict[str, ReadPrompt] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Of all that is kept."""
        return sum(prompt.size_bytes for prompt in self._kept.values())

    def take(self, digest: str) -> ReadPrompt | None:
        """What was read of this content, to be given back; None where it was not, or is in use."""
        with self._lock:
            prompt = self._kept.pop(digest, None)
            self.hits += prompt is not None
            return prompt

    def give(self, digest: str, prompt: ReadPrompt) -> None:
        """Keep it for the next one; the least recently used go where there is no place for all."""
        with self._lock:
            self._kept[digest] = prompt
            while self._kept and self.size_bytes > self.max_bytes:
                self._kept.popitem(last=False)


def digest_of(input_ids: Tensor, features: Tensor) -> str:
    """32 hex digits over a prompt's begin: its ids, and what its placeholders stand for."""
    seen = hashlib.blake2b(digest_size=16)
    for tensor in (input_ids, features):
        plain = tensor.detach().cpu().contiguous().view(torch.uint8)
        seen.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        seen.update(plain.numpy().data)
    return seen.hexdigest()
