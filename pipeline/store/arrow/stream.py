"""One Arrow IPC stream of one batch, a row per token: written, and read with nothing trusted.

Goes in and comes out: numpy columns. The digest has been checked before anything here reads.
"""

import struct

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
    """Views into the batch, no copy."""
    width = batch.schema.field("token").type.list_size
    columns = {
        name: batch.column(name).to_numpy() for name in batch.schema.names if name != "token"
    }
    columns["token"] = batch.column("token").flatten().to_numpy().reshape(-1, width)
    return columns


def serialise(batch: pa.RecordBatch) -> memoryview:
    """The IPC stream: schema, batch, end."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=None)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return memoryview(sink.getvalue())


def read_batch(body: pa.Buffer, key: str) -> pa.RecordBatch:
    """The one batch of an IPC stream, structurally sound; its schema is still to be judged."""
    try:
        messages = pa.ipc.MessageReader.open_stream(body)
        schema = pa.ipc.read_schema(_next_message(messages, "schema"))
        message = _next_message(messages, "record batch")
        check_batch_message(message, schema)
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


def check_batch_message(message: pa.ipc.Message, schema: pa.Schema) -> None:
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
    text = as_text(batch.schema.metadata, key)
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
    problem = problem_of(from_batch(batch), metadata)
    if problem:
        raise CorruptValue(f"{key}: {problem}")
    return metadata


def as_text(metadata: dict[bytes, bytes] | None, key: str) -> dict[str, str]:
    """Arrow metadata as text. Raises `CorruptValue`."""
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
