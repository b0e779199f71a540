"""Windows that were merged, kept for the next question on them, and made once for all that ask now.

Merging a long window takes as long as reading it to a model; the prompt that was read is kept
(`workers.models.prefix`), and so is what it is made of. What a window is kept under is all that it
depends on: the digests of the records, where clips begin, the range, the room and the way of
reading. A record that changed has another digest. Knows of no store and no model.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.ask.loading import ClipPlace
from pipeline.values.errors import TooManyRequests

if TYPE_CHECKING:
    from pipeline.store.levels import Node
    from workers.models import VisualSegment

MAKING_S = 600.0
"""Longest wait for another one who merges the same window."""


@dataclass(frozen=True)
class Window:
    """What is read of merged clips."""

    nodes: "frozenset[Node]"
    """Of the records that it is made of."""
    segments: "tuple[VisualSegment, ...]"
    left: dict[ClipPlace, int]
    """Tokens that are left of each clip; of one that is not named none are."""
    bytes_read: int
    """Of the records, to make it."""

    @property
    def size_bytes(self) -> int:
        """Of its tokens."""
        return sum(segment.tokens.nbytes for segment in self.segments)


class Windows:
    """Those that were asked about last, bounded in bytes. Safe to share between threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.hits = 0
        self._kept: OrderedDict[Hashable, Window] = OrderedDict()
        self._making: set[Hashable] = set()
        self._changed = threading.Condition()

    @property
    def size_bytes(self) -> int:
        """Of all that is kept."""
        return sum(window.size_bytes for window in self._kept.values())

    def get(self, key: Hashable, make: Callable[[], tuple[Window, bool]]) -> tuple[Window, bool]:
        """What is kept under the key, or is made now, and which of the two.

        `make` tells whether what it makes may be kept.

        Raises:
            TooManyRequests: another one has been making it for `MAKING_S`.
        """
        kept = self._find(key)
        if kept is not None:
            return kept, True
        try:
            window, may_be_kept = make()
            if may_be_kept:
                with self._changed:
                    self._kept[key] = window
                    while self._kept and self.size_bytes > self.max_bytes:
                        self._kept.popitem(last=False)
            return window, False
        finally:
            with self._changed:
                self._making.discard(key)
                self._changed.notify_all()

    def _find(self, key: Hashable) -> Window | None:
        """What is kept; where that is None, making it is up to whoever asked."""
        with self._changed:
            if not self._changed.wait_for(lambda: key not in self._making, MAKING_S):
                raise TooManyRequests(
                    f"another question has been merging this window for over {MAKING_S:.0f} s; ask "
                    "again, or for a smaller range"
                )
            kept = self._kept.get(key)
            if kept is None:
                self._making.add(key)
            else:
                self.hits += 1
                self._kept.move_to_end(key)
            return kept
