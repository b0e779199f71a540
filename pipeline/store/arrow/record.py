"""A clip as one record: `encode_clip`, `decode_clip`."""

from dataclasses import dataclass
from typing import get_args

import pyarrow as pa

from pipeline.store import envelope
from pipeline.store.arrow.columns import count_scales, problem_of
from pipeline.store.arrow.stream import (
    read_batch,
    read_columns,
    record_schema,
    serialise,
    to_batch,
)
from pipeline.store.arrow.tensors import to_columns, to_tokens
from pipeline.store.config import TokenDtype
from pipeline.store.metadata import describe, to_text
from pipeline.values.errors import InvalidRecord
from workers.types import CompressedClip


@dataclass(frozen=True)
class ClipRecord:
    """A clip as it was stored."""

    clip: CompressedClip
    """Tokens are bfloat16, or float32 for int8 records; the seconds in its stats are 0."""
    fingerprint: str
    dtype: TokenDtype
    coverage: float
    """Share of the clip's sampled frames that are in it."""
    digest: str
    """BLAKE3 of the record, in hex."""
    size_bytes: int


def encode_clip(clip: CompressedClip, *, fingerprint: str, dtype: TokenDtype = "bf16") -> bytes:
    """The record of `clip`, the same bytes every time.

    bf16 tokens are kept bit for bit, others are rounded to bf16 once; int8 has one scale per token,
    or per part of it (`scale`, `scale_1`, ...), and an error of at most half of it.

    Raises `InvalidRecord` for what could not be read back.
    """
    if dtype not in get_args(TokenDtype):
        raise InvalidRecord(f"dtype {dtype!r}, expected one of {get_args(TokenDtype)}")
    metadata = describe(clip, fingerprint=fingerprint, dtype=dtype)
    columns = to_columns(clip.tokens, dtype, clip.layout.parts)
    problem = problem_of(columns, metadata)
    if problem:
        raise InvalidRecord(f"{metadata.record_id}: {problem}")
    schema = record_schema(dtype, clip.tokens.tokens.shape[1], count_scales(columns))
    body = serialise(to_batch(columns, schema.with_metadata(to_text(metadata))))
    return envelope.seal(body, metadata.record_id, metadata.version)


def decode_clip(blob: bytes | memoryview, *, key: str) -> ClipRecord:
    """The clip in a record read from where `key` (a `keys.record_id`) should lie.

    bf16 tokens are a view of `blob`, which then lives as long as they do, where it may be written:
    give such memory only when nobody else uses it. Of `bytes` they are a copy. Either way they may
    be written. Raises `SchemaMismatch` for a version or a schema of another release, `CorruptValue`
    for anything else that is not exactly what was written.
    """
    version, body = envelope.unseal(blob, key)
    metadata, columns = read_columns(body, key, version)
    clip = CompressedClip(
        stream_id=metadata.stream_id,
        epoch=metadata.epoch,
        index=metadata.index,
        start_s=metadata.start_s,
        end_s=metadata.end_s,
        pts_s=metadata.pts_s,
        tokens=to_tokens(columns, metadata),
        wall_start_s=metadata.wall_start_s,
        stats=metadata.stats,
        layout=metadata.layout,
        level=metadata.level,
    )
    return ClipRecord(
        clip=clip,
        fingerprint=metadata.fingerprint,
        dtype="bf16" if metadata.dtype == "bf16" else "int8",
        coverage=metadata.coverage,
        digest=envelope.digest_of(blob),
        size_bytes=len(blob),
    )


def same_content(blob: bytes, other: bytes, *, key: str) -> bool:
    """Whether two records hold the same clip, however an Arrow release laid it out."""
    if blob == other:
        return True
    first, second = (
        read_batch(pa.py_buffer(envelope.unseal(record, key)[1]), key) for record in (blob, other)
    )
    return first.equals(second, check_metadata=True)


def same_clip(blob: bytes, other: bytes, *, key: str) -> bool:
    """Whether two records are of the same clip, one of them coarser than the other."""
    first, second = (decode_clip(record, key=key) for record in (blob, other))
    if first.clip.level == second.clip.level:
        return False
    return all(
        getattr(first.clip, name) == getattr(second.clip, name)
        for name in ("start_s", "end_s", "wall_start_s", "pts_s", "stats", "layout")
    )


def record_body(blob: bytes, *, key: str) -> memoryview:
    """The Arrow IPC stream inside a record, digest checked: what a client may download."""
    return envelope.unseal(blob, key)[1]
