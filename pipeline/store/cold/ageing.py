"""Clips in the cold tier fade as those in the server do: by the file, once all of one is due.

A file is written anew with fewer tokens and then removed, by the same transaction as any move; so
what is promised of moves holds, and a file that no rule changes is not touched.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.store.cold.moving import NOTHING, Moved, move
from pipeline.store.cold.tidying import remove_unused, spans_in
from pipeline.store.cold.tier import ColdPlace
from pipeline.store.fading import FadeRule, share_due

if TYPE_CHECKING:
    from pipeline.store.base import ClipStore


@dataclass
class _Age:
    """How far a file has faded, and how far it is to."""

    keep: float = 0.0
    """Largest share that a rule lets a clip of it keep."""
    kept: float = 0.0
    """Largest share that one has kept."""


def fade_files(
    store: "ClipStore", stream_id: str, rules: Sequence[FadeRule], now_s: float
) -> Iterator[Moved]:
    """Write the files anew of which every clip is due by `rules` at Unix time `now_s`.

    Yields what was written, a file at a time. Raises `StoreError`s.
    """
    if not rules:
        return
    info, ages = store.get_info(stream_id), dict[str, _Age]()
    for span in store.iter_spans(stream_id):
        if span.cold is not None:
            age = ages.setdefault(ColdPlace.of(span).file, _Age())
            age.keep = max(age.keep, share_due(rules, span, info, now_s))
            age.kept = max(age.kept, span.keep)
    for file in [file for file, age in ages.items() if age.kept > age.keep]:
        spans = list(spans_in(store, stream_id, file))
        moved = move(store, info, spans, keep=ages[file].keep) if spans else NOTHING
        remove_unused(store, stream_id, [file])
        if moved != NOTHING:
            yield moved
