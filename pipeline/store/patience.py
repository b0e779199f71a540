"""Waiting for a store that is away: a restart, a fail-over, a stalled disk. Knows of no store."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.values.errors import StoreRefused, StoreUnavailable

logger = logging.getLogger(__name__)

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0

T = TypeVar("T")


def retry_while_away(
    action: Callable[[], T],
    *,
    limit_s: float,
    wait: Callable[[float], object] = time.sleep,
    is_stopped: Callable[[], bool] = lambda: False,
) -> T:
    """What `action` gives, tried again while the store is not there or does not answer in time.

    Waits 0.1 s, then twice as long each time up to 5 s, each shortened by chance so that writers do
    not come back all at once; logs when it begins to wait and when the store is back.

    Args:
        action: idempotent, as every write of a store is.
        limit_s: after so long the last error is raised; it may be overrun by one time limit of the
            store.
        wait: waits that many seconds, or less when it is told to stop (an `Event.wait`).
        is_stopped: the last error is raised at once when this says so.

    Raises:
        StoreUnavailable: away for longer than that; `StoreRefused` at once.
    """
    started_s, pause_s = time.monotonic(), FIRST_WAIT_S
    away = False
    while True:
        try:
            result = action()
        except StoreRefused:
            raise
        except StoreUnavailable as error:
            left_s = limit_s - (time.monotonic() - started_s)
            if left_s <= 0 or is_stopped():
                raise
            if not away:
                logger.warning("waiting up to %.0f s for the store: %s", limit_s, error)
            away = True
            wait(min(left_s, pause_s * random.uniform(0.5, 1.0)))
            pause_s = min(2 * pause_s, LONGEST_WAIT_S)
        else:
            if away:
                logger.warning("the store is back after %.1f s", time.monotonic() - started_s)
            return result
