"""`aot store cool`: rules and tidying of all streams, by hand or by a timer."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.store.cold.moving import NOTHING, Moved, cool_stream, require_tier
from pipeline.store.cold.tidying import sweep, tidy_stream
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
    rewritten: Moved
    """From files into fewer."""


def cool(
    store: "ClipStore", after_s: float | None, stream_id: str | None = None
) -> Iterator[Cooled]:
    """Move what is older than `after_s` (None moves nothing), and tidy the files: of one stream or
    of all, and of those that are no more. Streams of which nothing changed are left out.

    Raises:
        InvalidSettings: no cold tier is set.
        UnknownStream: there is no stream of that id.
        StoreError: what failed.
    """
    tier = require_tier(store)
    names = store.list_streams() if stream_id is None else [stream_id]
    for name in names:
        try:
            moved = rewritten = NOTHING
            for part in cool_stream(store, name, after_s) if after_s is not None else ():
                moved = moved + part
            for part in tidy_stream(store, name):
                rewritten = rewritten + part
        except UnknownStream:
            if stream_id is not None:
                raise
            continue  # removed meanwhile
        if (moved, rewritten) != (NOTHING, NOTHING):
            yield Cooled(name, moved, rewritten)
    if stream_id is None:
        for name in set(tier.list_streams()) - set(names):
            num_files = sweep(store, name)
            logger.info("%s: %d files of a stream that is no more", name, num_files)
