"""The rules that every store keeps, and the errors it breaks them with. Knows of no store."""

import logging
import math

from pipeline.store import arrow
from pipeline.store.keys import record_id
from pipeline.values.errors import (
    Conflict,
    CorruptValue,
    FingerprintMismatch,
    InvalidQuery,
    LeaseHeld,
    LeaseLost,
    MissingValue,
    SchemaMismatch,
    StoreWentBack,
    UnknownStream,
    UnknownWatch,
)
from pipeline.values.types import ClipSpan, Lease, Position
from pipeline.values.watch import Watch

logger = logging.getLogger(__name__)

LAYOUT = 2
"""Of index rows, gaps and stream facts. Fields may be added to any of them within a layout: readers
pass over what they do not know. It rises when an older release would misread them.

2: some of the stream's records lie in the cold tier, where its rows say. Streams without such are
of layout 1, as all leases are."""
FIRST_LAYOUT = 1

Place = tuple[int, int]
"""(epoch, index) of a clip."""


def require_range(start_s: float | None, end_s: float | None) -> tuple[float | None, float | None]:
    """The bounds as plain floats: numpy's are written otherwise. `InvalidQuery` for NaN."""
    if any(bound is not None and math.isnan(bound) for bound in (start_s, end_s)):
        raise InvalidQuery(f"range {start_s} to {end_s} s is not a number; pass seconds or nothing")
    return None if start_s is None else float(start_s), None if end_s is None else float(end_s)


def require_layout(what: str, layout: int) -> None:
    """Raise `SchemaMismatch` for what a later release wrote in another way."""
    if layout > LAYOUT:
        raise SchemaMismatch(
            f"{what} is of layout {layout}, this release reads up to {LAYOUT}; upgrade aot-stream"
        )


def require_own(stream_id: str, lease: Lease) -> None:
    """Raise `LeaseLost` unless the lease is for this stream."""
    if lease.stream_id != stream_id:
        raise LeaseLost(
            f"the lease is for stream {lease.stream_id}, the write for {stream_id}; "
            "acquire a lease for it"
        )


def may_take(held: Lease | None, kin: str) -> bool:
    """Whether nobody has the stream's lease, or one whose name begins with `kin`."""
    return held is None or held.holder.startswith(kin)


def require_current(held: Lease | None, lease: Lease) -> None:
    """Raise `LeaseLost` unless what the store has now is this lease."""
    if held is None:
        raise LeaseLost(
            f"{lease.stream_id}: the lease of {lease.holder} (token {lease.token}) ended after "
            f"{lease.ttl_s:g} s without renewal; acquire it again and go on from the position"
        )
    if (held.token, held.nonce) != (lease.token, lease.nonce):
        raise LeaseLost(
            f"{lease.stream_id}: the lease of {lease.holder} (token {lease.token}) was taken over "
            f"by {held.holder} (token {held.token}); stop writing"
        )


def require_fingerprint(stream_id: str, stored: str, given: str) -> None:
    """Raise `FingerprintMismatch` naming both."""
    if stored != given:
        raise FingerprintMismatch(
            f"{stream_id} holds tokens of fingerprint {stored}, got {given}; use the model and "
            "settings of the stream, or another stream id"
        )


def require_not_behind(stream_id: str, stored: Position | None, told: Place | None) -> None:
    """Raise `StoreWentBack` when the store has less than the writer was `told` it has."""
    last = None if stored is None else (stored.epoch, stored.index)
    if told is not None and (last is None or last < told):
        has = "nothing" if last is None else f"clip {last[1]} of epoch {last[0]}"
        raise StoreWentBack(
            f"{stream_id}: clip {told[1]} of epoch {told[0]} was stored, now the last one is "
            f"{has}: the server came back without its last writes; store them again from "
            "there, or record the gap",
            last=last,
        )


def holds_already(stored: bytes | None, blob: bytes, span: ClipSpan) -> bool:
    """Whether the stored record is this clip; `Conflict` when it is another one.

    One that was faded is the clip too: what is less stays. A stored record that is damaged holds
    nothing: putting its clip again repairs it.
    """
    if stored is None:
        return False
    key = record_id(span.stream_id, span.epoch, span.index)
    try:
        same = (
            stored == blob
            or arrow.same_content(stored, blob, key=key)
            or arrow.same_clip(stored, blob, key=key)
        )
    except CorruptValue as error:
        logger.warning("replacing a damaged record: %s", error)
        return False
    if not same:
        raise Conflict(
            f"{key} holds another clip already ({len(stored)} bytes, got {len(blob)}); "
            "nothing was written; delete the stream or use another id"
        )
    return True


def in_order(span: ClipSpan) -> Place:
    """Sort key: the order in which the stream was seen."""
    return span.epoch, span.index


def missing_value_error(span: ClipSpan) -> MissingValue:
    """The index names it, the store does not have it."""
    if span.cold is not None:
        return MissingValue(
            f"{record_id(span.stream_id, span.epoch, span.index)}: the index names this clip in the"
            f" cold tier, at {span.cold}, where it is not; put the file back, or `aot clips repair`"
            " and ingest again"
        )
    return MissingValue(
        f"{record_id(span.stream_id, span.epoch, span.index)}: the index names this clip but its "
        "value is gone; import it from an export, or `aot clips repair` and ingest again"
    )


def lease_held_error(held: Lease) -> LeaseHeld:
    """Who has it and what to do."""
    return LeaseHeld(
        f"{held.stream_id} is being written by {held.holder} (token {held.token}, since "
        f"{held.acquired_at_s:.0f}); stop it, or wait {held.ttl_s:g} s after it died"
    )


def unknown_stream_error(stream_id: str) -> UnknownStream:
    """The error of a stream that the store does not have."""
    return UnknownStream(f"no stream {stream_id!r} in the store; ingest it first, or list streams")


def watch_exists_error(watch: Watch) -> Conflict:
    """The error of a second watch of one id."""
    return Conflict(
        f"{watch.stream_id} has a watch {watch.watch_id!r} already; remove it, or take another id"
    )


def unknown_watch_error(stream_id: str, watch_id: str) -> UnknownWatch:
    """The error of a watch that a stream does not have."""
    return UnknownWatch(f"{stream_id} has no watch {watch_id!r}; see `aot watch ls`")
