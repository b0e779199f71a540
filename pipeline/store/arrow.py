"""Clips to Arrow records and back; the only home of pyarrow, and the only place of the pipeline
where stored bytes become tensors.

A record is an envelope around one Arrow IPC stream of one record batch, a row per token:

    token   fixed_size_list<uint16>[d]   bf16 bits       or fixed_size_list<int8>[d] with
                                                         scale float32, value = token * scale
    frame   int16      position of the frame in the clip
    cell    int16      row-major cell of the pooled grid
    mass    float32    how many original tokens it stands for
    kind    uint8      `aot.TokenKind`

The reader trusts nothing: magic, version, size and digest come first (`envelope`), then the shape
of the messages, schema equality, `validate(full=True)`, then ranges. Arrow's own validation is not
enough (more than half of mutated streams pass it with changed data), and without it some kill the
process. Records are not compressed: bf16 tokens hardly shrink, and inflating is where bombs live.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import torch

from aot import ClipTokens, TokenKind
from pipeline.errors import CorruptValue, InvalidRecord, SchemaMismatch
from pipeline.store import envelope
from pipeline.store.metadata import ClipMetadata, describe, from_text, to_text
from workers.types import CompressedClip

TokenDtype = Literal["bf16", "int8"]
MAX_WIDTH = 1 << 16
"""Largest token width read."""

_VALUE_TYPES = {"bf16": pa.uint16(), "int8": pa.int8()}
_ARROW_ERRORS = (
    pa.ArrowException,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    MemoryError,
    RecursionError,
    StopIteration,
    struct.error,
)


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
    """SHA-256 of the record, in hex."""


def encode_clip(clip: CompressedClip, *, fingerprint: str, dtype: TokenDtype = "bf16") -> bytes:
    """The record of `clip`, the same bytes every time.

    bf16 tokens are kept bit for bit, others are rounded to bf16 once; int8 has one scale per token
    and an error of at most half of it. Raises `InvalidRecord` for what could not be read back.
    """
    if dtype not in get_args(TokenDtype):
        raise InvalidRecord(f"dtype {dtype!r}, expected one of {get_args(TokenDtype)}")
    metadata = describe(clip, fingerprint=fingerprint, dtype=dtype)
    columns = _to_columns(clip.tokens, dtype)
    problem = _problem_of(columns, metadata)
    if problem:
        raise InvalidRecord(f"{metadata.record_id}: {problem}")
    schema = record_schema(dtype, clip.tokens.tokens.shape[1])
    schema = schema.with_metadata(to_text(metadata, envelope.VERSION))
    return envelope.seal(_serialise(_to_batch(columns, schema)), metadata.record_id)


def decode_clip(blob: bytes, *, key: str) -> ClipRecord:
    """The clip in a record read from where `key` (a `keys.record_id`) should lie.

    One copy, from the record into the tensors. Raises `SchemaMismatch` for a version or a schema
    of another release, `CorruptValue` for anything else that is not exactly what was written.
    """
    version, body = envelope.unseal(blob, key)
    batch = _read_batch(pa.py_buffer(body), key)
    metadata = check_batch(batch, key, version)
    columns = _from_batch(batch)
    clip = CompressedClip(
        stream_id=metadata.stream_id,
        epoch=metadata.epoch,
        index=metadata.index,
        start_s=metadata.start_s,
        end_s=metadata.end_s,
        pts_s=metadata.pts_s,
        tokens=_to_tokens(columns, metadata),
        wall_start_s=metadata.wall_start_s,
        stats=metadata.stats,
    )
    return ClipRecord(
        clip=clip,
        fingerprint=metadata.fingerprint,
        dtype="bf16" if metadata.dtype == "bf16" else "int8",
        coverage=metadata.coverage,
        digest=envelope.digest_of(blob),
    )


def same_content(blob: bytes, other: bytes, *, key: str) -> bool:
    """Whether two records hold the same clip, however an Arrow release laid it out."""
    if blob == other:
        return True
    first, second = (
        _read_batch(pa.py_buffer(envelope.unseal(record, key)[1]), key) for record in (blob, other)
    )
    return first.equals(second, check_metadata=True)


def record_schema(dtype: str, width: int) -> pa.Schema:
    """Columns of a record without its metadata."""
    values = pa.field("item", _VALUE_TYPES[dtype], nullable=False)
    columns = [("token", pa.list_(values, width))]
    if dtype == "int8":
        columns.append(("scale", pa.float32()))
    columns += [
        ("frame", pa.int16()),
        ("cell", pa.int16()),
        ("mass", pa.float32()),
        ("kind", pa.uint8()),
    ]
    return pa.schema([pa.field(name, type_, nullable=False) for name, type_ in columns])


# --- columns <-> tensors ---------------------------------------------------------------------

Columns = dict[str, np.ndarray]
"""Name to values: `token` is [m d], the others [m]."""


def _to_columns(tokens: ClipTokens, dtype: TokenDtype) -> Columns:
    values = tokens.tokens.detach().cpu()
    columns: Columns = {}
    if dtype == "bf16":
        bits = values.to(torch.bfloat16).contiguous().view(torch.int16)
        columns["token"] = bits.numpy().view(np.uint16)
    else:
        columns["token"], columns["scale"] = _quantise(values.to(torch.float32).numpy())
    for name, to in (("frame", np.int16), ("cell", np.int16), ("kind", np.uint8)):
        column = getattr(tokens, name).detach().cpu().numpy()
        columns[name] = column.astype(to)
        if not np.array_equal(columns[name], column):
            raise InvalidRecord(f"{name} holds values outside {np.dtype(to).name}")
    columns["mass"] = tokens.mass.detach().cpu().to(torch.float32).numpy()
    return columns


def _quantise(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 [m d] and the scale of each row; a row of zeros has scale 0."""
    scale = np.abs(values).max(axis=1, initial=0.0) / np.float32(127)
    if not np.isfinite(scale).all():
        raise InvalidRecord("tokens hold NaN or infinity; expected finite features")
    steps = values / np.where(scale > 0, scale, 1)[:, None]
    return np.rint(steps).clip(-127, 127).astype(np.int8), scale.astype(np.float32)


def _to_tokens(columns: Columns, metadata: ClipMetadata) -> ClipTokens:
    token = columns["token"]
    if metadata.dtype == "bf16":
        tokens = torch.from_numpy(token.copy()).view(torch.bfloat16)
    else:
        tokens = torch.from_numpy(token * columns["scale"][:, None])
    return ClipTokens(
        tokens=tokens,
        frame=torch.from_numpy(columns["frame"].astype(np.int64)),
        cell=torch.from_numpy(columns["cell"].astype(np.int64)),
        mass=torch.from_numpy(columns["mass"].copy()),
        kind=torch.from_numpy(columns["kind"].copy()),
        grid=metadata.grid,
    )


def _problem_of(columns: Columns, metadata: ClipMetadata) -> str | None:
    """What is wrong with the values, if anything; the same rule for writing and for reading."""
    rows, grid_columns = metadata.grid
    limits = {"frame": len(metadata.pts_s), "cell": rows * grid_columns, "kind": len(TokenKind)}
    for name, limit in limits.items():
        column = columns[name]
        if column.size and not (column.min() >= 0 and column.max() < limit):
            return f"{name} runs from {column.min()} to {column.max()}, expected 0 to {limit - 1}"
    for name in ("mass", "scale"):
        column = columns.get(name, np.zeros(0))
        if column.size and not (column.min() >= 0 and column.max() < np.inf):
            return f"{name} holds a negative value, NaN or infinity"
    if metadata.dtype == "bf16" and not _is_finite_bf16(columns["token"]):
        return "tokens hold NaN or infinity; expected finite features"
    return None


def _is_finite_bf16(bits: np.ndarray) -> bool:
    """No exponent of all ones; two reductions instead of a mask keep this at 8 us for 450 kB."""
    if not bits.size:
        return True
    return bool(bits.max() < 0xFF80 and bits.view(np.int16).max() < 0x7F80)


# --- Arrow, with nothing trusted -------------------------------------------------------------


def _to_batch(columns: Columns, schema: pa.Schema) -> pa.RecordBatch:
    token = schema.field("token").type
    values = pa.array(np.ascontiguousarray(columns["token"]).reshape(-1), type=token.value_type)
    arrays = [pa.FixedSizeListArray.from_arrays(values, type=token)]
    arrays += [pa.array(columns[name], type=schema.field(name).type) for name in schema.names[1:]]
    return pa.record_batch(arrays, schema=schema)


def _from_batch(batch: pa.RecordBatch) -> Columns:
    """Views into the batch, no copy."""
    width = batch.schema.field("token").type.list_size
    columns = {
        name: batch.column(name).to_numpy() for name in batch.schema.names if name != "token"
    }
    columns["token"] = batch.column("token").flatten().to_numpy().reshape(-1, width)
    return columns


def _serialise(batch: pa.RecordBatch) -> memoryview:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=None)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return memoryview(sink.getvalue())


def _read_batch(body: pa.Buffer, key: str) -> pa.RecordBatch:
    """The one batch of an IPC stream, structurally sound; its schema is still to be judged."""
    try:
        messages = pa.ipc.MessageReader.open_stream(body)
        schema = pa.ipc.read_schema(_next_message(messages, "schema"))
        message = _next_message(messages, "record batch")
        _check_batch_message(message, schema)
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except _ARROW_ERRORS as error:
        raise CorruptValue(f"{key}: not the Arrow stream of a clip: {error!r:.200}") from error
    return batch


def _next_message(messages: pa.ipc.MessageReader, expected: str) -> pa.ipc.Message:
    message = messages.read_next_message()
    if message.type != expected:
        raise ValueError(f"got a message of type {message.type!r}, expected {expected!r}")
    return message


def _check_batch_message(message: pa.ipc.Message, schema: pa.Schema) -> None:
    """Refuse, before anything is allocated, a batch that inflates or claims more than it holds."""
    for field in schema:
        if isinstance(field.type, pa.BaseExtensionType) or field.metadata:
            raise ValueError(f"column {field.name[:40]!r} has an extension type or metadata")
    num_rows, compressed = _peek_batch(message.metadata)
    if compressed:
        raise ValueError("the batch is compressed")
    if not 0 <= num_rows <= message.body.size:
        raise ValueError(f"{num_rows} rows in a body of {message.body.size} bytes")


def _peek_batch(flatbuffer: pa.Buffer) -> tuple[int, bool]:
    """(rows, compressed) of a record batch message; pyarrow shows neither before it has inflated.

    Message table: field 2 is the header. RecordBatch table: field 0 is the length, field 3 the
    compression. (Arrow's format/Message.fbs.)
    """
    view = memoryview(flatbuffer)

    def field(table: int, number: int) -> int:
        """Position of a table's field, 0 where it is absent."""
        vtable = table - struct.unpack_from("<i", view, table)[0]
        size = struct.unpack_from("<H", view, vtable)[0]
        slot = 4 + 2 * number
        offset = struct.unpack_from("<H", view, vtable + slot)[0] if slot < size else 0
        return table + offset if offset else 0

    message = struct.unpack_from("<I", view, 0)[0]
    header = field(message, 2)
    batch = header + struct.unpack_from("<I", view, header)[0]
    length = field(batch, 0)
    num_rows = struct.unpack_from("<q", view, length)[0] if length else 0
    return num_rows, bool(field(batch, 3))


def check_batch(batch: pa.RecordBatch, key: str, version: int) -> ClipMetadata:
    """The metadata of a batch whose schema, values and identity are those of record `key`."""
    text = _as_text(batch.schema.metadata, key)
    metadata = from_text(text)
    _check_schema(batch.schema, metadata.dtype, key)
    if any(column.null_count for column in batch.columns):
        raise CorruptValue(f"{key}: a column holds nulls")
    if metadata.record_id != key or text["aot.version"] != str(version):
        raise CorruptValue(
            f"{key}: the record says it is {metadata.record_id} of version {text['aot.version']}, "
            f"expected {key} of version {version}"
        )
    if metadata.num_tokens != batch.num_rows:
        raise CorruptValue(f"{key}: {batch.num_rows} rows, metadata says {metadata.num_tokens}")
    problem = _problem_of(_from_batch(batch), metadata)
    if problem:
        raise CorruptValue(f"{key}: {problem}")
    return metadata


def _as_text(metadata: dict[bytes, bytes] | None, key: str) -> dict[str, str]:
    try:
        return {name.decode(): value.decode() for name, value in (metadata or {}).items()}
    except UnicodeDecodeError as error:
        raise CorruptValue(f"{key}: metadata is not UTF-8") from error


def _check_schema(schema: pa.Schema, dtype: str, key: str) -> None:
    token = schema.field(0).type if len(schema) else pa.null()
    width = token.list_size if pa.types.is_fixed_size_list(token) else 0
    expected = record_schema(dtype, width) if dtype in _VALUE_TYPES and width else None
    if (
        expected is None
        or width > MAX_WIDTH
        or not schema.remove_metadata().equals(expected, check_metadata=True)
    ):
        raise SchemaMismatch(
            f"{key}: columns are {str(schema.remove_metadata())[:300]!r}, expected a token list of "
            f"width 1 to {MAX_WIDTH} and the columns of version {envelope.VERSION}, dtype {dtype!r}"
        )


def record_body(blob: bytes, *, key: str) -> memoryview:
    """The Arrow IPC stream inside a record, digest checked: what a client may download."""
    return envelope.unseal(blob, key)[1]


def iter_batches(records: Iterator[tuple[str, bytes]]) -> Iterator[pa.RecordBatch]:
    """The checked batches of (record id, record) pairs, one at a time."""
    for key, blob in records:
        version, body = envelope.unseal(blob, key)
        batch = _read_batch(pa.py_buffer(body), key)
        check_batch(batch, key, version)
        yield batch
