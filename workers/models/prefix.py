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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 64
"""Positions that a layer grows by at least."""
READING_S = 1800.0
"""Longest wait for another one who reads the same window."""


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
        for layer in self.roomy:
            layer.cut(length)

    def copied(self, length: int) -> "ReadPrompt":
        """The first `length` positions once more, to be written behind; also while this one is."""
        copy = ReadPrompt(len(self.layers))
        for mine, other in zip(self.roomy, copy.roomy, strict=True):
            keys, values = mine.keys, mine.values
            assert keys is not None
            assert values is not None
            other.update(keys[..., :length, :], values[..., :length, :])
        return copy

    @property
    def size_bytes(self) -> int:
        """Of its memory."""
        return sum(layer.size_bytes for layer in self.roomy)

    @property
    def roomy(self) -> tuple[RoomyLayer, ...]:
        """Its layers."""
        return tuple(layer for layer in self.layers if isinstance(layer, RoomyLayer))


@dataclass(eq=False)
class _Kept:
    prompt: ReadPrompt
    length: int
    is_lent: bool = False


class KeptPrompts:
    """Prompts that were read, bounded in bytes. Safe to share between threads.

    One that is lent is whoever's who has it, until it is given back: nobody writes behind a prompt
    that another one writes behind. Who comes meanwhile gets a copy, which costs memory and no
    arithmetic; who comes while it is being read waits for it.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.hits = 0
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._reading: set[str] = set()
        self._changed = threading.Condition()

    @property
    def size_bytes(self) -> int:
        """Of all that is kept."""
        return sum(kept.prompt.size_bytes for kept in self._kept.values())

    @contextmanager
    def lend(self, digest: str, read: Callable[[], ReadPrompt]) -> Iterator[ReadPrompt]:
        """What was read of this content, or is read now; what is written behind it is taken back.

        Raises:
            TimeoutError: another one has been reading it for `READING_S`.
        """
        kept = self._find(digest) or self._read(digest, read)
        with self._changed:
            is_own, kept.is_lent = not kept.is_lent, True
        try:
            yield kept.prompt if is_own else kept.prompt.copied(kept.length)
        finally:
            if is_own:
                kept.prompt.cut(kept.length)
                with self._changed:
                    kept.is_lent = False
                    self._drop_least_recent()

    def _find(self, digest: str) -> _Kept | None:
        """What is kept; where that is None, reading it is up to whoever asked."""
        with self._changed:
            if not self._changed.wait_for(lambda: digest not in self._reading, READING_S):
                raise TimeoutError(f"its window has been read for over {READING_S:.0f} s")
            kept = self._kept.get(digest)
            if kept is None:
                self._reading.add(digest)
            else:
                self.hits += 1
                self._kept.move_to_end(digest)
            return kept

    def _read(self, digest: str, read: Callable[[], ReadPrompt]) -> _Kept:
        try:
            prompt = read()
            kept = _Kept(prompt, prompt.get_seq_length())
            with self._changed:
                self._kept[digest] = kept
            return kept
        finally:
            with self._changed:
                self._reading.discard(digest)
                self._changed.notify_all()

    def _drop_least_recent(self) -> None:
        while self._kept and self.size_bytes > self.max_bytes:
            self._kept.popitem(last=False)


def digest_of(*tensors: Tensor) -> str:
    """64 hex digits over tensors: their shapes, types and bytes."""
    seen = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        seen.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        seen.update(plain.view(torch.uint8).numpy().data)
    return seen.hexdigest()
