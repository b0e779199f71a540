"""The files of a stream kept few and without dead weight: joined, rewritten, removed.

Killed at any point it leaves files that no row names, which the next time removes. Doing it again
changes nothing.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.store.cold.moving import FILE_BYTES, FILE_CLIPS, NOTHING, Moved, move, require_tier
from pipeline.store.cold.tier import ColdPlace, stretch_of
from pipeline.values.errors import StoreError, UnknownStream
from pipeline.values.types import ClipSpan

if TYPE_CHECKING:
    from pipeline.store.base import ClipStore

logger = logging.getLogger(__name__)


@dataclass
class _Held:
    """What a file holds that rows name."""

    clips: int = 0
    size_bytes: int = 0

    @property
    def is_small(self) -> bool:
        return self.size_bytes < FILE_BYTES // 2 and self.clips < FILE_CLIPS // 2


def tidy_stream(store: "ClipStore", stream_id: str) -> Iterator[Moved]:
    """Join small files, rewrite those that hold removed clips, and remove what no row names.

    Yields what was written anew, a file at a time. Reads the whole index and every file's footer.
    Raises `StoreError`s.
    """
    tier, info = require_tier(store), store.get_info(stream_id)
    sweep(store, stream_id)
    held = _count_held(store, stream_id)
    for files in list(_groups(held, lambda file: tier.count_clips(stream_id, file))):
        spans = [span for file in files for span in spans_in(store, stream_id, file)]
        moved = move(store, info, spans) if spans else NOTHING
        remove_unused(store, stream_id, files)
        if moved != NOTHING:
            yield moved


def sweep(store: "ClipStore", stream_id: str) -> int:
    """Remove the files that no row names and that none will: of moves that were broken off.

    How many. Whoever moves clips of the stream just now is refused and tries again later.
    """
    tier = require_tier(store)
    try:
        token = store.begin_move(stream_id)  # who wrote a file before this can name it no more
        files = tier.list_files(stream_id)
        held = _count_held(store, stream_id)
    except UnknownStream:
        token, files, held = None, tier.list_files(stream_id), {}
    unused = [file for file in files if file not in held]
    if token is not None and not store.holds_move(stream_id, token):
        return 0  # one of these files may be of whoever began since
    for file in unused:
        tier.remove_file(stream_id, file)
    return len(unused)


def remove_unused(store: "ClipStore", stream_id: str, files: Iterable[str]) -> None:
    """Remove those of `files`, which rows did name, that no row names any more.

    A filesystem that is away keeps them until the stream is tidied, which is logged.
    """
    for file in files:
        try:
            if store.cold is not None and not any(True for _ in spans_in(store, stream_id, file)):
                store.cold.remove_file(stream_id, file)
        except UnknownStream:
            return
        except StoreError as error:
            logger.warning("%s: %s stays until `aot store cool`: %s", stream_id, file, error)


def remove_all(store: "ClipStore", stream_id: str) -> None:
    """Remove the files of a stream that is no more; as `remove_unused` where that cannot be."""
    if store.cold is not None:
        try:
            store.cold.remove_stream(stream_id)
        except StoreError as error:
            logger.warning("%s: its cold clips stay until `aot store cool`: %s", stream_id, error)


def files_of(spans: Iterable[ClipSpan]) -> set[str]:
    """The files that rows name."""
    return {ColdPlace.of(span).file for span in spans if span.cold is not None}


def spans_in(store: "ClipStore", stream_id: str, file: str) -> Iterator[ClipSpan]:
    """The rows that name a file: all lie in the stretch that its name tells."""
    start_s, end_s = stretch_of(file)
    for span in store.iter_spans(stream_id, start_s - 1, end_s + 1):
        if span.cold is not None and ColdPlace.of(span).file == file:
            yield span


def _count_held(store: "ClipStore", stream_id: str) -> dict[str, _Held]:
    """By file, in the order in which their first clips begin."""
    held: dict[str, _Held] = {}
    for span in store.iter_spans(stream_id):
        if span.cold is not None:
            one = held.setdefault(ColdPlace.of(span).file, _Held())
            one.clips += 1
            one.size_bytes += span.size_bytes
    return held


def _groups(held: dict[str, _Held], count_clips) -> Iterator[list[str]]:
    """Files to be written anew, each group as one: neighbours that are small, and what has dead
    clips."""
    group: list[str] = []
    size = _Held()
    worth = False

    for file, one in held.items():
        is_dead = count_clips(file) > one.clips
        fits = (
            size.size_bytes + one.size_bytes <= FILE_BYTES and size.clips + one.clips <= FILE_CLIPS
        )
        if group and not (fits and (one.is_small or is_dead)):
            if worth or len(group) > 1:
                yield group
            group, size, worth = [], _Held(), False
        if one.is_small or is_dead:
            group.append(file)
            size = _Held(size.clips + one.clips, size.size_bytes + one.size_bytes)
            worth = worth or is_dead
    if worth or len(group) > 1:
        yield group
