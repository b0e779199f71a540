"""One Arrow IPC stream of one batch, a row per token: written, and read with nothing trusted.

Goes in and comes out: numpy columns. The digest has been checked before anything here reads.
"""

import struct
from functools import lru_cache

import numpy as np
import pyarrow as pa

from pipeline.store import envelope
from pipeline.store.arrow.columns import Columns, count_scales, problem_of, scale_names
from pipeline.store.metadata import ClipMetadata, from_text
from pipeline.values.errors import CorruptValue, SchemaMismatch

MAX_WIDTH = 1 << 16
"""Largest token width read."""

_VALUE_TYPES = {"bf16": pa.uint16(), "int8": pa.int8()}
_SMALL_COLUMNS = (
    ("frame", np.dtype(np.int16)),
    ("cell", np.dtype(np.int16)),
    ("mass", np.dtype(np.float32)),
    ("kind", np.dtype(np.uint8)),
)
_TOKEN_TYPES = {"bf16": np.dtype(np.uint16), "int8": np.dtype(np.int8)}
_U16, _I32, _U32, _I64 = (struct.Struct(form).unpack_from for form in ("<H", "<i", "<I", "<q"))
TokenType = tuple[str, int, int]
"""Stored dtype, width, and how many scales it has."""
ARROW_ERRORS = (
    pa.ArrowException,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    MemoryError,
    RecursionError,
    StopIteration,
    struct.error,
)


def share_one_heap() -> None:
    """Have all threads of this process take Arrow's memory from one place.

    Arrow's own allocator keeps a heap for each thread, in huge pages: of 500 threads, one a stream,
    1.4 MB each for records of some kB. A process that reads many streams calls this once.
    """
    pa.set_memory_pool(pa.system_memory_pool())


@lru_cache(maxsize=16)
def record_schema(dtype: str, width: int, num_scales: int | None = None) -> pa.Schema:
    """Columns of a record without its metadata; an int8 token has one scale unless told."""
    values = pa.field("item", _VALUE_TYPES[dtype], nullable=False)
    columns = [("token", pa.list_(values, width))]
    default = 1 if dtype == "int8" else 0
    names = scale_names(default if num_scales is None else num_scales)
    columns += [(name, pa.float32()) for name in names]
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
        return _read_messages(body, key)[1]
    except ARROW_ERRORS as error:
        raise _not_a_clip(key, error) from error


def read_columns(body: memoryview, key: str, version: int) -> tuple[ClipMetadata, Columns]:
    """What is in an IPC stream, when it is sound, and values and identity are those of `key`.

    The columns are views of `body`, which may be written where that may.
    """
    buffer = pa.py_buffer(body)
    try:
        message, batch, token = _read_messages(buffer, key)
        layout = memoryview(message.metadata)
        first_byte = message.body.address - buffer.address
        columns = _views(body, first_byte, layout, batch.num_rows, token)
    except ARROW_ERRORS as error:
        raise _not_a_clip(key, error) from error
    return _check(batch.schema.metadata, columns, batch.num_rows, key, version), columns


def _not_a_clip(key: str, error: Exception) -> CorruptValue:
    return CorruptValue(f"{key}: not the Arrow stream of a clip: {error!r:.200}")


def _read_messages(body: pa.Buffer, key: str) -> tuple[pa.ipc.Message, pa.RecordBatch, TokenType]:
    """The batch, the message it lies in, and its token's type."""
    source = pa.BufferReader(body)
    schema = pa.ipc.read_schema(_next_message(source, "schema"))
    token = check_schema(schema, key)
    message = _next_message(source, "record batch")
    check_batch_message(message)
    batch = pa.ipc.read_record_batch(message, schema)
    batch.validate(full=True)
    return message, batch, token


def _next_message(source: pa.BufferReader, expected: str) -> pa.ipc.Message:
    message = pa.ipc.read_message(source)
    if message.type != expected:
        raise ValueError(f"got a message of type {message.type!r}, expected {expected!r}")
    return message


def check_batch_message(message: pa.ipc.Message) -> None:
    """Refuse, before anything is allocated, a batch that inflates or claims more than it holds."""
    view = memoryview(message.metadata)
    batch = _batch_table(view)
    length = _field(view, batch, 0)
    num_rows = _I64(view, length)[0] if length else 0
    if _field(view, batch, 3):
        raise ValueError("the batch is compressed")
    if not 0 <= num_rows <= message.body.size:
        raise ValueError(f"{num_rows} rows in a body of {message.body.size} bytes")


def _numpy_types(dtype: str, width: int, num_scales: int) -> list[tuple[str, np.dtype]]:
    scales = [(name, np.dtype(np.float32)) for name in scale_names(num_scales)]
    return [("token", _TOKEN_TYPES[dtype]), *scales, *_SMALL_COLUMNS]


def _views(
    body: memoryview, first_byte: int, layout: memoryview, num_rows: int, token: TokenType
) -> Columns:
    """The columns of a message that Arrow found sound, and that starts at `first_byte` of `body`.

    Straight from the places that its `layout` names: an Arrow array for each would be read-only,
    and cost more than the rest of the reading.
    """
    table = _batch_table(layout)
    if any(_pairs(layout, table, 1)[1::2]):
        raise ValueError("a column holds nulls")
    buffers = _pairs(layout, table, 2)
    width = token[1]
    columns: Columns = {}
    for number, (name, numpy_type) in enumerate(_numpy_types(*token), 1):
        count = num_rows if columns else num_rows * width
        # A column is its validity and its values; the token has a second validity, of its items.
        start = first_byte + buffers[4 * number] if count else 0
        columns[name] = np.frombuffer(body, numpy_type, count, start)
    columns["token"] = columns["token"].reshape(num_rows, width)
    return columns


# --- the flatbuffer of a record batch message, which pyarrow does not show ----------------------
# Message table: field 2 is the header. RecordBatch table: field 0 is the length, 1 the nodes
# (length, null count), 2 the buffers (offset, length), 3 the compression. (Arrow's
# format/Message.fbs.)


def _batch_table(view: memoryview) -> int:
    """Position of the RecordBatch table."""
    header = _field(view, _U32(view, 0)[0], 2)
    return header + _U32(view, header)[0]


def _field(view: memoryview, table: int, number: int) -> int:
    """Position of a table's field, 0 where it is absent."""
    vtable = table - _I32(view, table)[0]
    slot = 4 + 2 * number
    offset = _U16(view, vtable + slot)[0] if slot < _U16(view, vtable)[0] else 0
    return table + offset if offset else 0


def _pairs(view: memoryview, table: int, number: int) -> tuple[int, ...]:
    """A vector of structs of two int64, flat."""
    at = _field(view, table, number)
    at += _U32(view, at)[0]
    return struct.unpack_from(f"<{2 * _U32(view, at)[0]}q", view, at + 4)


def check_batch(batch: pa.RecordBatch, key: str, version: int) -> tuple[ClipMetadata, Columns]:
    """What is in a batch that `read_batch` gave, when values and identity are those of `key`."""
    if any(column.null_count for column in batch.columns):
        raise CorruptValue(f"{key}: a column holds nulls")
    columns = from_batch(batch)
    return _check(batch.schema.metadata, columns, batch.num_rows, key, version), columns


def _check(
    raw: dict[bytes, bytes] | None, columns: Columns, num_rows: int, key: str, version: int
) -> ClipMetadata:
    """The metadata, when it and the values are those of the record `key`."""
    text = as_text(raw, key)
    metadata = from_text(text)
    if metadata.record_id != key or text["aot.version"] != str(version):
        raise CorruptValue(
            f"{key}: the record says it is {metadata.record_id} of version {text['aot.version']}, "
            f"expected {key} of version {version}"
        )
    if metadata.num_tokens != num_rows:
        raise CorruptValue(f"{key}: {num_rows} rows, metadata says {metadata.num_tokens}")
    problem = problem_of(columns, metadata)
    if problem:
        raise CorruptValue(f"{key}: {problem}")
    return metadata


def as_text(metadata: dict[bytes, bytes] | None, key: str) -> dict[str, str]:
    """Arrow metadata as text. Raises `CorruptValue`."""
    try:
        return {name.decode(): value.decode() for name, value in (metadata or {}).items()}
    except UnicodeDecodeError as error:
        raise CorruptValue(f"{key}: metadata is not UTF-8") from error


def check_schema(schema: pa.Schema, key: str, *, before: pa.Schema | None = None) -> TokenType:
    """The type of the token, where the columns are a record's, after those of `before`.

    Raises `SchemaMismatch`. Equality leaves no room for extension types, dictionaries, nesting, or
    metadata of a column.
    """
    dtype = (schema.metadata or {}).get(b"aot.dtype", b"").decode(errors="replace")
    first = len(before) if before is not None else 0
    token = schema.field(first).type if len(schema) > first else pa.null()
    width = token.list_size if pa.types.is_fixed_size_list(token) else 0
    if dtype in _VALUE_TYPES and 0 < width <= MAX_WIDTH:
        num_scales = count_scales(schema.names)
        expected = record_schema(dtype, width, num_scales)
        if before is not None:
            expected = pa.schema([*before, *expected])
        if schema.remove_metadata().equals(expected, check_metadata=True):
            return dtype, width, num_scales
    raise SchemaMismatch(
        f"{key}: columns are {str(schema.remove_metadata())[:300]!r}, expected those of versions "
        f"{min(envelope.READABLE)} to {envelope.VERSION} for dtype {dtype!r} with tokens "
        f"1 to {MAX_WIDTH} wide"
    )
