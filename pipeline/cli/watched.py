"""A settings file that is read again when it was written, or when SIGHUP asks for it."""

import logging
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

from pipeline.cli.output import Common

if TYPE_CHECKING:
    from pipeline.settings import Settings

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often the file is looked at."""

Stamp = tuple[int, int, int] | None


class WatchedSettings:
    """The settings of a command that runs for long; `look` gives those that have changed."""

    def __init__(self, common: Common) -> None:
        self._common = common
        self._asked = threading.Event()
        self._looked_s = 0.0
        self._seen = self._stamp()

    def listen(self) -> None:
        """Read the file again on SIGHUP; at a terminal, whose end it tells of, it still ends us."""
        if not sys.stderr.isatty():
            signal.signal(signal.SIGHUP, lambda signum, frame: self._asked.set())

    def look(self) -> "Settings | None":
        """Settings that were written since; None where there are none, or none that read."""
        asked, now_s = self._asked.is_set(), time.monotonic()
        if not asked and now_s - self._looked_s < LOOK_S:
            return None
        self._looked_s = now_s
        self._asked.clear()
        seen, self._seen = self._seen, self._stamp()
        if not asked and (self._seen == seen or self._seen is None):
            return None
        from pipeline.settings import load_settings
        from pipeline.values.errors import PipelineError

        try:
            return load_settings(self._common.config, self._common.overrides(None))
        except PipelineError as error:
            logger.error("the changed settings are not applied: %s", error)
            return None

    def _stamp(self) -> Stamp:
        """What differs when the file was written; None without one, or while it is replaced."""
        if self._common.config is None:
            return None
        try:
            found = os.stat(self._common.config)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
