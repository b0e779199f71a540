"""Index rows, gaps, leases and stream facts as the text that stands in the store, and back.

Each is one short line that reads in a Redis shell. A reader passes over fields it does not know, so
that a later release may add some; what it could not pass over raises the layout, and that is
`SchemaMismatch`: upgrade. Whatever does not read raises `CorruptValue`, never a bare ValueError:
the store may be shared with others.
"""

import json
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

from pipeline.store.checks import FIRST_LAYOUT, Place, require_layout
from pipeline.values.errors import CorruptValue, PipelineError
from pipeline.values.types import (
    ClipSpan,
    FileIdentity,
    Gap,
    Lease,
    Position,
    StreamInfo,
    StreamSegment,
    StreamTotals,
)

LAYOUT_FIELD = "layout"
"""Of the info hash, for all rows of the stream; 1 where a stream is older than the field."""
POSITION = "position"
LONGEST = "longest_clip_s"
"""How far before a range's start a clip may begin and still reach into it."""
TOTALS = "totals"
"""Sums over the index; absent in streams that are older than it, until their next write."""
EXPIRED_TO = "expired_to"
"""The highest index of the clips that were removed; absent where none was."""
RETRIABLE = "failed_gaps"
"""There when the gaps may hold some that a clip could fill."""
COOLED_TO = "cooled_to"
"""Start of the latest clip that was moved to the cold tier: what is older was looked at."""
MOVER = "mover"
"""Who moves clips to the cold tier: the last one that said so."""
IF_FULL = "if_full"
"""The status a stream has once its own is taken away: all a full server lets a writer do."""

COLD_PLACE = re.compile(r"[0-9a-z-]{1,80}@[0-9]{1,15}")
"""`FILE@OFFSET`, in the stream's folder of the cold tier."""
FADED = "keep="
"""Before what a clip was faded to, among the fields behind those that every row has."""

_FULL = {
    "status": "failed",
    "error": "StoreFull: the store took no more; raise maxmemory or delete streams",
}


def span_to_text(span: ClipSpan) -> str:
    """`epoch:index:start:end:tokens:bytes:wall`, then `:cold` where the record was moved, and
    `:keep=` of a clip that was faded."""
    wall = "" if span.wall_start_s is None else repr(span.wall_start_s)
    cold = "" if span.cold is None else f":{span.cold}"
    keep = f":{FADED}{span.keep!r}" if span.keep < 1 else ""
    return (
        f"{span.epoch}:{span.index}:{span.start_s!r}:{span.end_s!r}:"
        f"{span.num_tokens}:{span.size_bytes}:{wall}{cold}{keep}"
    )


def span_from_text(stream_id: str, member: bytes) -> ClipSpan:
    """The row; raises `CorruptValue`."""
    try:
        epoch, index, start_s, end_s, tokens, size, wall, *more = member.decode().split(":")
        cold, keep = _moved_and_faded(more) if more else (None, 1.0)
        return ClipSpan(
            stream_id,
            int(epoch),
            int(index),
            float(start_s),
            float(end_s),
            int(tokens),
            int(size),
            float(wall) if wall else None,
            cold,
            keep,
        )
    except ValueError as error:
        raise _unreadable(f"{stream_id}: an index row", error) from error


def _moved_and_faded(more: list[str]) -> tuple[str | None, float]:
    """`cold` and `keep` of the fields behind those that every row has."""
    cold = more[0] if COLD_PLACE.fullmatch(more[0]) else None
    return cold, next((float(x[len(FADED) :]) for x in more if x.startswith(FADED)), 1.0)


def place_in(member: bytes) -> Place | None:
    """Which clip a row is of, also where the rest of it does not read."""
    epoch, _, rest = member.partition(b":")
    index = rest.partition(b":")[0]
    return (int(epoch), int(index)) if epoch.isdigit() and index.isdigit() else None


def position_to_text(position: Position) -> str:
    """`epoch:index:end:last_pts`"""
    return f"{position.epoch}:{position.index}:{position.end_s!r}:{position.last_pts_s!r}"


def position_from_text(stream_id: str, text: bytes) -> Position:
    """The position; raises `CorruptValue`."""
    with reading(f"{stream_id}: the position"):
        epoch, index, end_s, last_pts_s, *_ = text.decode().split(":")
        return Position(int(epoch), int(index), float(end_s), float(last_pts_s))


def totals_to_text(totals: StreamTotals) -> str:
    """`clips:tokens:bytes:footage:start:end`, and `:held:held_s` where there are held stretches."""
    held = f":{totals.held}:{totals.held_s!r}" if totals.held else ""
    return (
        f"{totals.clips}:{totals.tokens}:{totals.size_bytes}:"
        f"{totals.footage_s!r}:{totals.start_s!r}:{totals.end_s!r}{held}"
    )


def totals_from_text(stream_id: str, text: bytes) -> StreamTotals:
    """The totals; raises `CorruptValue`."""
    with reading(f"{stream_id}: the totals"):
        clips, tokens, size, footage_s, start_s, end_s, *more = text.decode().split(":")
        times = (float(footage_s), float(start_s), float(end_s))
        held, held_s = (int(more[0]), float(more[1])) if len(more) >= 2 else (0, 0.0)
        return StreamTotals(int(clips), int(tokens), int(size), *times, held, held_s)


def gap_to_text(gap: Gap) -> str:
    """JSON in a fixed order; the clips that were removed only where there were some."""
    values = asdict(gap)
    if gap.first_clip is None:
        del values["first_clip"], values["last_clip"]
    return json.dumps(values, separators=(",", ":"))


def gap_from_text(stream_id: str, text: bytes) -> Gap:
    """The gap; raises `CorruptValue`."""
    with reading(f"{stream_id}: a gap"):
        return Gap(**_known(Gap, json.loads(text)))


def segment_to_text(segment: StreamSegment) -> str:
    """JSON; paths that are no UTF-8 come back as they were."""
    return json.dumps(asdict(segment), separators=(",", ":"))


def segment_from_text(stream_id: str, text: bytes) -> StreamSegment:
    """The segment; raises `CorruptValue`."""
    with reading(f"{stream_id}: a segment"):
        values = _known(StreamSegment, json.loads(text))
        return StreamSegment(
            **{**values, "file": FileIdentity(**_known(FileIdentity, values["file"]))}
        )


def lease_to_text(lease: Lease) -> str:
    """JSON, with its layout: a lease stands alone, before there are any facts."""
    return json.dumps({**asdict(lease), LAYOUT_FIELD: FIRST_LAYOUT}, separators=(",", ":"))


def lease_from_text(stream_id: str, text: bytes) -> Lease:
    """The lease; raises `CorruptValue` and `SchemaMismatch`."""
    what = f"{stream_id}: the lease"
    with reading(what):
        values = json.loads(text)
        layout = int(values.get(LAYOUT_FIELD, 1))
    require_layout(what, layout)
    with reading(what):
        return Lease(**_known(Lease, values))


def info_to_hash(info: StreamInfo, layout: bytes | None = None) -> dict[str, str]:
    """One field per fact, JSON values; what to say when the store is full; the layout, which is
    the `layout` that the stream has already where that is higher than what facts alone take."""
    facts = {name: json.dumps(value) for name, value in asdict(info).items()}
    number = str(max(FIRST_LAYOUT, int(layout or 1)))
    return {**facts, LAYOUT_FIELD: number, IF_FULL: json.dumps(_FULL)}


def info_from_hash(stream_id: str, values: Mapping[bytes, bytes]) -> StreamInfo:
    """The facts, without those of later releases; raises `CorruptValue` and `SchemaMismatch`."""
    require_readable(stream_id, values.get(LAYOUT_FIELD.encode()))
    with reading(f"{stream_id}: what is known of the stream"):
        names = {name.encode() for name in _names(StreamInfo)}
        known = {name.decode(): json.loads(v) for name, v in values.items() if name in names}
        if "status" not in known and IF_FULL.encode() in values:
            known |= _known(StreamInfo, json.loads(values[IF_FULL.encode()]))
        return StreamInfo(**known)


def require_readable(stream_id: str, layout: bytes | None) -> None:
    """Raise `SchemaMismatch` when a later release wrote the stream in another layout."""
    what = f"stream {stream_id}"
    with reading(f"{what}: the layout"):
        number = int(layout or 1)
    require_layout(what, number)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn anything unreadable in the block into `CorruptValue`."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _unreadable(what, error) from error
    except PipelineError as error:
        raise _unreadable(what, error) from error


def _unreadable(what: str, error: Exception) -> CorruptValue:
    return CorruptValue(
        f"{what} does not read ({error!r:.120}); another program wrote there, or a later release "
        "with errors; `aot clips verify` shows what is left"
    )


def _names(kind: type[Any]) -> set[str]:
    return {field.name for field in fields(kind)}


def _known(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """Without the fields of later releases."""
    names = _names(kind)
    return {name: value for name, value in values.items() if name in names}


_OPEN_HEAD = struct.Struct(">QQ")
"""Epoch and index, before an open clip's record."""


def open_to_bytes(place: Place, blob: bytes) -> bytes:
    """An open clip as it is stored."""
    return _OPEN_HEAD.pack(*place) + blob


def open_from_bytes(stream_id: str, stored: bytes) -> tuple[Place, bytes]:
    """Place and record of an open clip, unverified."""
    if len(stored) < _OPEN_HEAD.size:
        raise CorruptValue(
            f"{stream_id}: the open clip has {len(stored)} bytes, expected at least "
            f"{_OPEN_HEAD.size}; it is replaced by the next one"
        )
    epoch, index = _OPEN_HEAD.unpack_from(stored)
    return (epoch, index), stored[_OPEN_HEAD.size :]
