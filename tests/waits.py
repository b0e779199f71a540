"""Waiting in tests: for what has to come, with a limit that only finds what hangs."""

import time
from collections.abc import Callable

HANG_S = 240.0
"""Nothing takes so long, however busy the machine is; no test is judged by it."""


def wait_until(
    condition: Callable[[], object], limit_s: float = HANG_S, *, poll_s: float = 0.05
) -> None:
    """Poll until something holds."""
    until_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until_s, f"not within {limit_s:g} s"
        time.sleep(poll_s)
