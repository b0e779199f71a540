"""One Arrow IPC stream of one batch, a row per token: written, and read with nothing trusted.

Goes in and comes out: numpy columns. The digest has been checked before anything here reads.
"""

import struct
from functools import lru_cache

import numpy as np
import pyarrow as pa

from pipeline.errors import CorruptValue, SchemaMismatch
from pipeline.store import envelope
from pipeline.store.arrow.columns import Columns, problem_of
from pipeline.store.metadata import ClipMetadata, from_text

MAX_WIDTH = 1 << 16
"""Largest token width read."""

_VALUE_TYPES = {"bf16": pa.uint16(), "int8": pa.int8()}
ARROW_ERRORS = (
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


@lru_cache(maxsize=16)
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


def to_batch(columns: Columns, schema: pa.Schema) -> pa.RecordBatch:
    """The columns under `schema`."""
    token = schema.field("token").type
    values = pa.array(np.ascontiguousarray(columns["token"]).reshape(-1), type=token.value_type)
    arrays = [pa.FixedSizeListArray.from_arrays(values, type=token)]
    arrays += [pa.array(columns[name], type=schema.field(name).type) for name in schema.names[1:]]
    return pa.record_batch(arrays, schema=schema)


def from_batch(batch: pa.RecordBatch) -> Columns:
    """Views into a batch as it was read, no copy."""
    arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
    token = arrays.pop("token")
    columns = {name: array.to_numpy() for name, array in arrays.items()}
    width, start = token.type.list_size, token.offset
    values = token.values.to_numpy()[start * width : (start + len(token)) * width]
    columns["token"] = values.reshape(-1, width)
    return columns


def serialise(batch: pa.RecordBatch) -> memoryview:
    """The IPC stream: schema, batch, end."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=None)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return memoryview(sink.getvalue())


def read_batch(body: pa.Buffer, key: str) -> pa.RecordBatch:
    """The one batch of an IPC stream: of a record's schema, structurally sound."""
    try:
        messages = pa.ipc.MessageReader.open_stream(body)
        schema = pa.ipc.read_schema(_next_message(messages, "schema"))
        check_schema(schema, key)
        message = _next_message(messages, "record batch")
        check_batch_message(message)
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except ARROW_ERRORS as error:
        raise CorruptValue(f"{key}: not the Arrow stream of a clip: {error!r:.200}") from error
    return batch


def _next_message(messages: pa.ipc.MessageReader, expected: str) -> pa.ipc.Message:
    message = messages.read_next_message()
    if message.type != expected:
        raise ValueError(f"got a message of type {message.type!r}, expected {expected!r}")
    return message


def check_batch_message(message: pa.ipc.Message) -> None:
    """Refuse, before anything is allocated, a batch that inflates or claims more than it holds."""
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


def check_batch(batch: pa.RecordBatch, key: str, version: int) -> tuple[ClipMetadata, Columns]:
    """What is in a batch that `read_batch` gave, when values and identity are those of `key`."""
    text = as_text(batch.schema.metadata, key)
    metadata = from_text(text)
    if any(column.null_count for column in batch.columns):
        raise CorruptValue(f"{key}: a column holds nulls")
    if metadata.record_id != key or text["aot.version"] != str(version):
        raise CorruptValue(
            f"{key}: the record says it is {metadata.record_id} of version {text['aot.version']}, "
            f"expected {key} of version {version}"
        )
    if metadata.num_tokens != batch.num_rows:
        raise CorruptValue(f"{key}: {batch.num_rows} rows, metadata says {metadata.num_tokens}")
    columns = from_batch(batch)
    problem = problem_of(columns, metadata)
    if problem:
        raise CorruptValue(f"{key}: {problem}")
    return metadata, columns


def as_text(metadata: dict[bytes, bytes] | None, key: str) -> dict[str, str]:
    """Arrow metadata as text. Raises `CorruptValue`."""
    try:
        return {name.decode(): value.decode() for name, value in (metadata or {}).items()}
    except UnicodeDecodeError as error:
        raise CorruptValue(f"{key}: metadata is not UTF-8") from error


def check_schema(schema: pa.Schema, key: str, *, before: pa.Schema | None = None) -> None:
    """Raise `SchemaMismatch` unless the columns are a record's, after the columns of `before`.

    Equality leaves no room for extension types, dictionaries, nesting, or metadata of a column.
    """
    dtype = (schema.metadata or {}).get(b"aot.dtype", b"").decode(errors="replace")
    first = len(before) if before is not None else 0
    token = schema.field(first).type if len(schema) > first else pa.null()
    width = token.list_size if pa.types.is_fixed_size_list(token) else 0
    if dtype in _VALUE_TYPES and 0 < width <= MAX_WIDTH:
        expected = record_schema(dtype, width)
        if before is not None:
            expected = pa.schema([*before, *expected])
        if schema.remove_metadata().equals(expected, check_metadata=True):
            return
    raise SchemaMismatch(
        f"{key}: columns are {str(schema.remove_metadata())[:300]!r}, expected those of version "
        f"{envelope.VERSION} for dtype {dtype!r} with tokens 1 to {MAX_WIDTH} wide"
    )
