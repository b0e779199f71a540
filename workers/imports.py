"""Large libraries loaded without the garbage collector in between.

What they load stays; the collector would go through all of it again and again while it grows, which
is a fifth of the CPU time that torch and transformers take to load.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Collect no garbage within the block, in any thread."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
