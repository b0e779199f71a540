"""`aot store cool`: rules and tidying of all streams, by hand or by a timer."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.store.cold.ageing import fade_files
from pipeline.store.cold.moving import NOTHING, Moved, cool_stream, require_tier
from pipeline.store.cold.tidying import sweep, tidy_stream
from pipeline.store.fading import FadeRule
from pipeline.values.errors import UnknownStream

if TYPE_CHECKING:
    from pipeline.store.base import ClipStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cooled:
    """What became of a stream."""

    stream_id: str
    moved: Moved
    """Out of the server."""
    faded: Moved
    """Written anew with fewer tokens."""
    rewritten: Moved
    """From files into fewer."""


def cool(
    store: "ClipStore",
    after_s: float | None,
    stream_id: str | None = None,
    *,
    fade: Sequence[FadeRule] = (),
    now_s: float | None = None,
) -> Iterator[Cooled]:
    """Move what is older than `after_s` (None moves nothing), fade what is due, tidy the files: of
    one stream or of all, and of those that are no more. Streams of which nothing changed are left
    out. `now_s`: Unix time by which ages are; None for now.

    Raises:
        InvalidSettings: no cold tier is set.
        UnknownStream: there is no stream of that id.
        StoreError: what failed.
    """
    tier = require_tier(store)
    names = store.list_streams() if stream_id is None else [stream_id]
    for name in names:
        try:
            now = time.time() if now_s is None else now_s
            moves = cool_stream(store, name, after_s, now_s=now) if after_s is not None else ()
            moved = sum(moves, NOTHING)
            faded = sum(fade_files(store, name, fade, now), NOTHING)
            rewritten = sum(tidy_stream(store, name), NOTHING)
        except UnknownStream:
            if stream_id is not None:
                raise
            continue  # removed meanwhile
        if (moved, faded, rewritten) != (NOTHING, NOTHING, NOTHING):
            yield Cooled(name, moved, faded, rewritten)
    if stream_id is None:
        for name in set(tier.list_streams()) - set(names):
            num_files = sweep(store, name)
            logger.info("%s: %d files of a stream that is no more", name, num_files)
