"""What is done with a stream's clips beside its writing, in a thread of its own.

The older ones fade, and where it is wanted all get their levels.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.store.fading import FadeRule, Fading
from pipeline.store.pyramid import Pyramid
from pipeline.values.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.store.base import ClipStore

logger = logging.getLogger(__name__)

END_S = 30.0
"""Longest wait for a page to end: a transaction, or the store's own limit."""


class Upkeep:
    """One turn after the other, begun by the writer, which never waits for one."""

    def __init__(
        self, store: ClipStore, stream_id: str, rules: Sequence[FadeRule], *, levels: bool = False
    ) -> None:
        self._stream_id = stream_id
        self._fading = Fading(store, stream_id, rules) if rules else None
        self._pyramid = Pyramid(store, stream_id) if levels else None
        self._ends = threading.Event()
        self._turn: threading.Thread | None = None

    def begin(self) -> None:
        """Begin a turn, unless one is under way or there is nothing to be done."""
        is_busy = self._turn is not None and self._turn.is_alive()
        is_idle = self._fading is None and self._pyramid is None
        if is_idle or is_busy or self._ends.is_set():
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
            if self._fading is not None:
                faded = self._fading.turn(time.time(), goes_on=self._goes_on)
                if faded.clips:
                    logger.info("%s: %d clips faded", self._stream_id, faded.clips)
            if self._pyramid is not None and (made := self._pyramid.turn(self._goes_on)):
                logger.debug("%s: %d levels made", self._stream_id, made)
        except PipelineError as error:
            logger.warning("%s: the stream's upkeep is put off: %s", self._stream_id, error)
        except Exception:  # a thread's own errors are seen by nobody else
            logger.exception("%s: the stream's upkeep failed", self._stream_id)

    def _goes_on(self) -> bool:
        return not self._ends.is_set()
