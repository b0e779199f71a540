"""Old clips out of the server into files, a file's worth at a time.

A file is written and read back, then one transaction changes the rows of its clips and removes
their values. Killed before it, the clips are where they were and the file holds nothing that a row
names; killed after it, they are in the file. Whoever writes files of a stream says so first, and
the transaction is refused where another one said so since: `tidying` removes files of those that
are refused, and of no other. Knows of no session.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

from pipeline.store import arrow
from pipeline.store.ages import age_from, is_older
from pipeline.store.cold.tier import ColdTier
from pipeline.store.fading import exchange_for
from pipeline.store.keys import record_id
from pipeline.store.writes import span_of
from pipeline.values.errors import CorruptValue, InvalidSettings, SchemaMismatch
from pipeline.values.types import ClipSpan, StreamInfo

if TYPE_CHECKING:
    from pipeline.store.base import ClipStore

logger = logging.getLogger(__name__)

FILE_BYTES = 64 << 20
"""About as large a file becomes: it is in memory twice while it is written."""
FILE_CLIPS = 1024
WAIT_S = 3600.0
"""How long a session lets clips that are old wait for enough others to make a file."""


@dataclass(frozen=True)
class Moved:
    """What was moved."""

    clips: int = 0
    files: int = 0
    size_bytes: int = 0
    """Of records."""

    def __add__(self, other: "Moved") -> "Moved":
        return Moved(
            self.clips + other.clips, self.files + other.files, self.size_bytes + other.size_bytes
        )


NOTHING = Moved()


def cool_turn(store: "ClipStore", stream_id: str, after_s: float) -> Moved:
    """One file of what is older than `after_s`, once there is enough or it has waited long enough.

    What a session does beside its writing. Raises `StoreError`s.
    """
    info, now_s = store.get_info(stream_id), time.time()
    old = _old_of(store.list_hot(stream_id, most_clips=FILE_CLIPS), info, now_s - after_s)
    batch = next(iter_batches(old), [])
    if not batch:
        return NOTHING
    waited_s = now_s - after_s - age_from(batch[0], info)
    is_full = len(batch) < len(old) or len(batch) == FILE_CLIPS
    return move(store, info, batch) if is_full or waited_s >= WAIT_S else NOTHING


def cool_stream(
    store: "ClipStore", stream_id: str, after_s: float, *, now_s: float | None = None
) -> Iterator[Moved]:
    """All that is older than `after_s`, a file at a time. Raises `StoreError`s."""
    require_tier(store)
    info, oldest_s = store.get_info(stream_id), (time.time() if now_s is None else now_s) - after_s
    from_start = True
    while True:
        hot = store.list_hot(stream_id, most_clips=8 * FILE_CLIPS, from_start=from_start)
        old, from_start = _old_of(hot, info, oldest_s), False
        moved = NOTHING
        for batch in iter_batches(old):
            part = move(store, info, batch)
            moved = moved + part
            if part != NOTHING:
                yield part
        if moved == NOTHING:
            return


def iter_batches(spans: Iterable[ClipSpan]) -> Iterator[list[ClipSpan]]:
    """A file's worth each, of one stream, in order."""
    batch: list[ClipSpan] = []
    size_bytes = 0
    for span in spans:
        if batch and (size_bytes + span.size_bytes > FILE_BYTES or len(batch) == FILE_CLIPS):
            yield batch
            batch, size_bytes = [], 0
        batch.append(span)
        size_bytes += span.size_bytes
    if batch:
        yield batch


def move(
    store: "ClipStore", info: StreamInfo, spans: Sequence[ClipSpan], *, keep: float = 1.0
) -> Moved:
    """The records of `spans`, wherever they are, into one new file; faded to `keep` on the way.

    One that does not read stays where it is, with a warning. Nothing where another one is at it.
    """
    tier, stream_id = require_tier(store), info.stream_id
    token = store.begin_move(stream_id)
    there = list(_sound(store, spans, keep))
    if not there:
        return NOTHING
    records = [(new, blob) for _, new, blob in there]
    first_s, last_s = min(s.start_s for s, _ in records), max(s.end_s for s, _ in records)
    gaps = [g for g in store.list_gaps(stream_id) if g.end_s >= first_s and g.start_s <= last_s]
    places = tier.write(records, info, gaps)
    moves = [
        (span, replace(new, cold=place.text))
        for (span, new, _), place in zip(there, places, strict=True)
    ]
    num_moved = store.move_clips(stream_id, moves, token)
    if not num_moved:  # all were removed meanwhile, or another one moves: no row names the file
        tier.remove_file(stream_id, places[0].file)
        return NOTHING
    size_bytes = sum(len(blob) for _, blob in records)
    logger.info("%s: %d clips moved to the cold tier, %s", stream_id, num_moved, places[0].file)
    return Moved(num_moved, 1, size_bytes)


def require_tier(store: "ClipStore") -> ColdTier:
    """Where clips go. `InvalidSettings` where that is not set."""
    if store.cold is None:
        raise InvalidSettings(
            "no cold tier is set; set store.cold to a folder, s3://bucket/prefix or gs://..."
        )
    return store.cold


def _old_of(hot: Sequence[ClipSpan], info: StreamInfo, oldest_s: float) -> list[ClipSpan]:
    return list(takewhile(lambda span: is_older(span, info, oldest_s), hot))


def _sound(
    store: "ClipStore", spans: Sequence[ClipSpan], keep: float
) -> Iterator[tuple[ClipSpan, ClipSpan, bytes]]:
    """Row, the row and the record that it is to have."""
    for span in spans:
        try:
            blob = store.get_record(span)
            record = arrow.decode_clip(blob, key=record_id(span.stream_id, span.epoch, span.index))
        except (CorruptValue, SchemaMismatch) as error:
            logger.warning("not moved: %s", error)
            continue
        if record.clip.level.keep <= keep:
            yield span, span, blob
        else:
            one = exchange_for(span, record, keep)
            yield span, span_of(one.clip, len(one.blob)), one.blob
