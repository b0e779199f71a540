"""What a deletion leaves behind: gaps `expired` that say which stretches were removed. Pure.

One gap a stretch, that grows: what is removed next to it joins it, and other gaps that lie within
go, so that a stream without an end keeps a list of bounded length. A gap names its clips by index,
so that none of them is stored a second time by whoever reads the source again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipeline.values.types import EXPIRED, ClipSpan, Gap

_NEAR_S = 1e-6


@dataclass(frozen=True)
class Removal:
    """A part of a stream's clips that is removed at once: a page of a range, its first ones."""

    start_s: float | None
    """Of the whole range; None from the stream's beginning."""
    end_s: float | None
    epoch: int | None
    """None for all epochs."""
    spans: tuple[ClipSpan, ...]
    is_last: bool
    """Whether no clip of the range is left: gaps within it go as well then."""

    @property
    def is_prefix(self) -> bool:
        """Whether all that is older goes, or has gone."""
        return self.start_s is None and self.epoch is None

    def takes(self, span: ClipSpan) -> bool:
        """Whether a clip is of the range."""
        return self.epoch in (None, span.epoch) and span.overlaps(self.start_s, self.end_s)

    def holds(self, gap: Gap) -> bool:
        """Whether a gap lies within the range."""
        begins = self.start_s is None or gap.start_s >= self.start_s - _NEAR_S
        ends = self.end_s is None or gap.end_s <= self.end_s + _NEAR_S
        return self.epoch in (None, gap.epoch) and begins and ends


@dataclass(frozen=True)
class GapChange:
    """Gaps to be put and to be taken away."""

    put: tuple[Gap, ...]
    drop: tuple[Gap, ...]


@dataclass(frozen=True)
class _Piece:
    gap: Gap
    last_epoch: int
    is_new: bool


def change_gaps(removal: Removal, gaps: Sequence[Gap]) -> GapChange:
    """What becomes of a stream's `gaps` when `removal` is carried out."""
    told = [gap for gap in gaps if gap.reason == EXPIRED]
    others = [gap for gap in gaps if gap.reason != EXPIRED]
    pieces = [_Piece(gap, gap.epoch, False) for gap in told]
    pieces += [_piece_of(removal.spans, epoch) for epoch in {s.epoch for s in removal.spans}]
    if removal.is_last:
        pieces += [_as_expired(gap) for gap in others if removal.holds(gap)]
    merged = _merge(pieces, _cleared_to(removal))
    absorbed: set[Gap] = set()
    kept: list[Gap] = []
    for piece in merged:
        within = [gap for gap in others if piece.is_new and _lies_within(gap, piece, removal)]
        absorbed.update(within)
        first_s = min([piece.gap.start_s, *(gap.start_s for gap in within)])
        kept.append(replace(piece.gap, start_s=first_s))
    return GapChange(
        tuple(gap for gap in kept if gap not in told),
        tuple(gap for gap in gaps if gap in absorbed or (gap in told and gap not in kept)),
    )


def reach_of(removal: Removal) -> float:
    """Stream time up to which gaps have to do with it."""
    if removal.is_last:
        return float("inf") if removal.end_s is None else removal.end_s + _NEAR_S
    return max((span.end_s for span in removal.spans), default=float("-inf")) + _NEAR_S


def holds_clip(gaps: Iterable[Gap], index: int) -> bool:
    """Whether a clip was stored once and removed: it is not stored again."""
    return any(
        gap.first_clip is not None
        and gap.last_clip is not None
        and gap.first_clip <= index <= gap.last_clip
        for gap in gaps
        if gap.reason == EXPIRED
    )


def _piece_of(spans: Sequence[ClipSpan], epoch: int) -> _Piece:
    own = [span for span in spans if span.epoch == epoch]
    first = min(own, key=lambda span: span.start_s)
    gap = Gap(
        first.stream_id,
        epoch,
        first.start_s,
        max(span.end_s for span in own),
        EXPIRED,
        first.wall_start_s,
        first_clip=min(span.index for span in own),
        last_clip=max(span.index for span in own),
    )
    return _Piece(gap, epoch, True)


def _as_expired(gap: Gap) -> _Piece:
    return _Piece(replace(gap, reason=EXPIRED), gap.epoch, True)


def _cleared_to(removal: Removal) -> float:
    """Stream time before which nothing is left, so that all that was removed is one stretch."""
    if not removal.is_prefix:
        return float("-inf")
    if removal.is_last and removal.end_s is not None:
        return removal.end_s
    return max((span.start_s for span in removal.spans), default=float("-inf"))


def _merge(pieces: Iterable[_Piece], cleared_to_s: float) -> list[_Piece]:
    merged: list[_Piece] = []
    for piece in sorted(pieces, key=lambda piece: (piece.gap.epoch, piece.gap.start_s)):
        if merged and _joins(merged[-1], piece, cleared_to_s):
            merged[-1] = _join(merged[-1], piece)
        else:
            merged.append(piece)
    return merged


def _joins(one: _Piece, other: _Piece, cleared_to_s: float) -> bool:
    a, b = one.gap, other.gap
    goes_on = other.gap.epoch == one.last_epoch or b.start_s >= a.end_s - _NEAR_S
    if not goes_on:  # an epoch whose clock starts anew: times do not compare
        return False
    touches = b.start_s <= a.end_s + _NEAR_S or b.start_s <= cleared_to_s
    follows = a.last_clip is not None and b.first_clip is not None
    return touches or (follows and b.first_clip <= a.last_clip + 1)  # pyright: ignore[reportOptionalOperand]


def _join(one: _Piece, other: _Piece) -> _Piece:
    a, b = one.gap, other.gap
    firsts = [index for index in (a.first_clip, b.first_clip) if index is not None]
    lasts = [index for index in (a.last_clip, b.last_clip) if index is not None]
    gap = replace(
        a,
        end_s=max(a.end_s, b.end_s),
        first_clip=min(firsts, default=None),
        last_clip=max(lasts, default=None),
    )
    return _Piece(gap, max(one.last_epoch, other.last_epoch), one.is_new or other.is_new)


def _lies_within(gap: Gap, piece: _Piece, removal: Removal) -> bool:
    begins_s = float("-inf") if removal.is_prefix else piece.gap.start_s
    return (
        piece.gap.epoch <= gap.epoch <= piece.last_epoch
        and gap.start_s >= begins_s - _NEAR_S
        and gap.end_s <= piece.gap.end_s + _NEAR_S
    )
