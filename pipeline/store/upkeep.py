"""What is done to a stream's older clips beside its writing: they fade, in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.store.fading import FadeRule, Fading
from pipeline.values.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.store.base import ClipStore

logger = logging.getLogger(__name__)

END_S = 30.0
"""Longest wait for a page to end: a transaction, or the store's own limit."""


class Upkeep:
    """One turn after the other, begun by the writer, which never waits for one."""

    def __init__(self, store: ClipStore, stream_id: str, rules: Sequence[FadeRule]) -> None:
        self._stream_id, self._rules = stream_id, tuple(rules)
        self._fading = Fading(store, stream_id, rules)
        self._ends = threading.Event()
        self._turn: threading.Thread | None = None

    def begin(self) -> None:
        """Begin a turn, unless one is under way or there is nothing to be done."""
        is_busy = self._turn is not None and self._turn.is_alive()
        if not self._rules or is_busy or self._ends.is_set():
            return
        self._turn = threading.Thread(target=self._run, name="aot-upkeep", daemon=True)
        self._turn.start()

    def close(self, limit_s: float = END_S) -> None:
        """Have the turn end with its page; what is left is done by whoever comes next."""
        self._ends.set()
        if self._turn is not None:
            self._turn.join(limit_s)

    def _run(self) -> None:
        try:
            faded = self._fading.turn(time.time(), goes_on=lambda: not self._ends.is_set())
            if faded.clips:
                logger.info("%s: %d clips faded", self._stream_id, faded.clips)
        except PipelineError as error:
            logger.warning("%s: fading is put off: %s", self._stream_id, error)
        except Exception:  # a thread's own errors are seen by nobody else
            logger.exception("%s: fading failed", self._stream_id)
