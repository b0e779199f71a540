"""Index rows, leases and stream facts as the text that stands in the store, and back.

Each is one short line that reads in a Redis shell. Whatever does not read raises `CorruptValue`,
never a bare ValueError: the store may be shared with others.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields

from pipeline.errors import CorruptValue, PipelineError
from pipeline.types import ClipSpan, Gap, Lease, Position, StreamInfo

POSITION = "position"
LONGEST = "longest_clip_s"
"""How far before a range's start a clip may begin and still reach into it."""


def span_to_text(span: ClipSpan) -> str:
    """`epoch:index:start:end:tokens:bytes:wall`"""
    wall = "" if span.wall_start_s is None else repr(span.wall_start_s)
    return (
        f"{span.epoch}:{span.index}:{span.start_s!r}:{span.end_s!r}:"
        f"{span.num_tokens}:{span.size_bytes}:{wall}"
    )


def spans_from_text(stream_id: str, members: list[bytes]) -> list[ClipSpan]:
    """All index rows of a query; one loop, since an hour has 900 of them."""
    spans = []
    with reading(f"{stream_id}: an index row"):
        for member in members:
            epoch, index, start_s, end_s, tokens, size, wall = member.decode().split(":")
            spans.append(
                ClipSpan(
                    stream_id,
                    int(epoch),
                    int(index),
                    float(start_s),
                    float(end_s),
                    int(tokens),
                    int(size),
                    float(wall) if wall else None,
                )
            )
    return spans


def position_to_text(position: Position) -> str:
    """`epoch:index:end:last_pts`"""
    return f"{position.epoch}:{position.index}:{position.end_s!r}:{position.last_pts_s!r}"


def position_from_text(stream_id: str, text: bytes) -> Position:
    """The other way."""
    with reading(f"{stream_id}: the position"):
        epoch, index, end_s, last_pts_s = text.decode().split(":")
        return Position(int(epoch), int(index), float(end_s), float(last_pts_s))


def gap_to_text(gap: Gap) -> str:
    """JSON in a fixed order, so that the same gap is the same member."""
    return json.dumps(asdict(gap), separators=(",", ":"))


def gap_from_text(stream_id: str, text: bytes) -> Gap:
    """The other way."""
    with reading(f"{stream_id}: a gap"):
        return Gap(**json.loads(text))


def lease_to_text(lease: Lease) -> str:
    """JSON."""
    return json.dumps(asdict(lease), separators=(",", ":"))


def lease_from_text(stream_id: str, text: bytes) -> Lease:
    """The other way."""
    with reading(f"{stream_id}: the lease"):
        return Lease(**json.loads(text))


def info_to_hash(info: StreamInfo) -> dict[str, str]:
    """One field per fact, JSON values."""
    return {name: json.dumps(value) for name, value in asdict(info).items()}


def info_from_hash(stream_id: str, values: Mapping[bytes, bytes]) -> StreamInfo:
    """The other way; fields of later releases and the position are left aside."""
    names = {field.name for field in fields(StreamInfo)}
    with reading(f"{stream_id}: what is known of the stream"):
        known = {
            name.decode(): json.loads(v) for name, v in values.items() if name.decode() in names
        }
        return StreamInfo(**known)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn anything unreadable in the block into `CorruptValue`."""
    try:
        yield
    except (ValueError, TypeError, KeyError, RecursionError, PipelineError) as error:
        raise CorruptValue(
            f"{what} does not read ({error!r:.120}); delete the stream and ingest again"
        ) from error
