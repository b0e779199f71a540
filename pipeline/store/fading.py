"""Footage that fades: older clips keep fewer of their tokens, in the place they have.

A clip is faded by itself, by merging its tokens further (`aot.recompress`), to at most a share of
those it had before any reduction: whoever reads it sees the old record or the new one, each the
whole of its clip. A page of clips changes in one transaction, and only those that are as they were
read, so that neither a writer nor a removal is disturbed, and two that fade one stream do nothing
twice. What was faded says so in its row and in its record, which is where the next turn goes on.
What is in the cold tier fades by the file
(`cold.ageing`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from pipeline.store.ages import is_older
from pipeline.store.keys import record_id
from pipeline.store.writes import Exchange
from pipeline.values.errors import CorruptValue, InvalidSettings, SchemaMismatch
from pipeline.values.types import FadedCounts

if TYPE_CHECKING:
    from pipeline.store.arrow import ClipRecord
    from pipeline.store.base import ClipStore
    from pipeline.values.types import ClipSpan, StreamInfo
    from workers.types import CompressedClip

logger = logging.getLogger(__name__)

PAGE = 32
"""Clips of one transaction: a few megabytes, a few milliseconds of the server."""
NONE_FADED = FadedCounts(0, 0, 0)
KEYFRAME = 0.0
"""The `keep` of clips of which the keyframe's anchors are what stays (`aot.keep_anchors`)."""


@dataclass(frozen=True)
class FadeRule:
    """What stays of a clip from some age on."""

    after_s: float
    keep: float
    """Share of the tokens before the reduction, or `KEYFRAME`."""


def require_fading(rules: Sequence[FadeRule]) -> None:
    """Raise `InvalidSettings` unless each rule is later than the one before and keeps less."""
    for before, rule in zip([None, *rules], rules, strict=False):
        if not (rule.after_s > 0 and KEYFRAME <= rule.keep < 1):
            raise InvalidSettings(
                f"retention.fade: got after {rule.after_s:g} s keep {rule.keep:g}, expected an age "
                "above 0 and a share between 0 and 1, or `keyframe`"
            )
        if before is not None and not (rule.after_s > before.after_s and rule.keep < before.keep):
            raise InvalidSettings(
                f"retention.fade: after {rule.after_s:g} s keep {rule.keep:g} follows after "
                f"{before.after_s:g} s keep {before.keep:g}; expected each to be later and to keep "
                "less"
            )


class Fading:
    """The rules on one stream, from where they were applied to before."""

    def __init__(self, store: ClipStore, stream_id: str, rules: Sequence[FadeRule]) -> None:
        self._store, self._stream_id, self._rules = store, stream_id, tuple(rules)
        self._done_s = {rule: float("-inf") for rule in rules}
        """Stream time before which a rule was applied to everything."""

    def turn(
        self, now_s: float, *, most: int | None = None, goes_on: Callable[[], bool] = lambda: True
    ) -> FadedCounts:
        """Fade what is due at Unix time `now_s`, the oldest first, `most` clips at most.

        Raises:
            UnknownStream: there is no such stream.
            StoreError: what failed; what was done is kept.
        """
        counts, reached_s = NONE_FADED, float("-inf")
        info = self._store.get_info(self._stream_id)
        for rule in reversed(self._rules):  # the coarsest first: what is old is faded once
            reached_s = self._done_s[rule] = max(reached_s, self._done_s[rule])
            old = self._iter_old(info, reached_s, now_s - rule.after_s)
            while page := list(islice(old, _page(most, counts.clips))):
                if not goes_on():
                    return counts
                due = [span for span in page if span.keep > rule.keep and span.cold is None]
                counts += fade_clips(self._store, due, rule.keep)
                reached_s = self._done_s[rule] = page[-1].start_s
        return counts

    def _iter_old(self, info: StreamInfo, begin_s: float, oldest_s: float) -> Iterator[ClipSpan]:
        """Clips from some stream time on that were over at a Unix time."""
        start_s = None if begin_s == float("-inf") else begin_s
        for span in self._store.iter_spans(self._stream_id, start_s):
            if not is_older(span, info, oldest_s):
                return
            yield span


def _page(most: int | None, done: int) -> int:
    """How many clips to look at next; none once the most were faded."""
    return PAGE if most is None else min(PAGE, most - done)


def fade_clips(store: ClipStore, spans: Sequence[ClipSpan], keep: float) -> FadedCounts:
    """Fade some clips of one stream, all at once; what cannot be read, or is no longer so, is left.

    Raises:
        StoreError: what failed.
    """
    exchanges = [one for span in spans if (one := _faded(store, span, keep)) is not None]
    return store.exchange(spans[0].stream_id, exchanges) if exchanges else NONE_FADED


def fade_clip(clip: CompressedClip, keep: float) -> CompressedClip:
    """The clip with at most a share of the tokens it had before the reduction, and at least one."""
    from aot import keep_anchors, recompress

    if keep == KEYFRAME:
        tokens = keep_anchors(clip.tokens)
    else:
        budget = max(1, int(keep * clip.stats.tokens_in))
        [tokens] = recompress([clip.tokens], budget)
    return replace(clip, tokens=tokens, level=replace(clip.level, keep=keep))


def _faded(store: ClipStore, span: ClipSpan, keep: float) -> Exchange | None:
    from pipeline.store.arrow import decode_clip

    key = record_id(span.stream_id, span.epoch, span.index)
    try:
        record = decode_clip(store.get_record(span), key=key)
    except (CorruptValue, SchemaMismatch) as error:  # removed meanwhile, or damaged
        logger.info("%s is not faded: %s", key, error)
        return None
    return None if record.clip.level.keep <= keep else exchange_for(span, record, keep)


def exchange_for(span: ClipSpan, record: ClipRecord, keep: float) -> Exchange:
    """A record, as it is read, with a share of its tokens in its place."""
    clip = fade_clip(record.clip, keep)
    return Exchange(span, record.digest, clip, record.fingerprint, record.dtype)


def share_due(rules: Sequence[FadeRule], span: ClipSpan, info: StreamInfo, now_s: float) -> float:
    """What a clip is to keep of its tokens at Unix time `now_s`; 1 where no rule is due."""
    due = (rule.keep for rule in rules if is_older(span, info, now_s - rule.after_s))
    return min(due, default=1.0)
