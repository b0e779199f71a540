"""Many clips as one Parquet file: what SQL asks for as columns, and every record as it was.

A row a clip:

    stream, epoch, index        which clip
    start_s, end_s              seconds of the stream
    wall_start_s                Unix time of `start_s`; null where it is not known
    pts_s                       list<double>: time of every frame
    rows, columns               of the pooled grid
    num_tokens, fingerprint, dtype, digest
    frame, cell, mass, kind     lists, an item a token, as in the record
    record                      binary: the record, byte for byte, tokens and digest included

`record` is neither encoded nor compressed, so that each lies in one piece: who knows where reads it
without the file's footer. Tokens as a column of lists instead took twice the bytes (Parquet has no
16-bit integers) and ten times the time to read. File metadata hold what was known of the stream, as
in an export.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store import envelope
from pipeline.store.arrow.columns import Columns
from pipeline.store.arrow.export import ExportedFacts, facts_from_text, facts_text
from pipeline.store.arrow.folder import Folder
from pipeline.store.arrow.stream import ARROW_ERRORS, as_text, check_batch, read_batch
from pipeline.store.keys import record_id
from pipeline.store.metadata import ClipMetadata
from pipeline.values.errors import CorruptValue
from pipeline.values.types import Gap, StreamInfo

GROUP_ROWS = 64
"""Clips of a row group: what a filter on times can pass over."""
READ_ROWS = 8
"""Clips in memory while a file is read as a whole."""
_PER_TOKEN = (("frame", pa.int16()), ("cell", pa.int16()), ("mass", pa.float32()))

SCHEMA = pa.schema(
    [
        pa.field("stream", pa.string(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("wall_start_s", pa.float64()),
        pa.field("pts_s", pa.list_(pa.float64()), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("columns", pa.int32(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        *(pa.field(name, pa.list_(kind), nullable=False) for name, kind in _PER_TOKEN),
        pa.field("kind", pa.list_(pa.uint8()), nullable=False),
        pa.field("record", pa.binary(), nullable=False),
    ]
)
_STATISTICS = ["stream", "epoch", "index", "start_s", "end_s", "wall_start_s", "num_tokens"]
_COMPRESSION = {
    (f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name): (
        "NONE" if field.name == "record" else "ZSTD"
    )
    for field in SCHEMA
}


def write_parquet(
    records: Sequence[tuple[str, bytes]],
    *,
    info: StreamInfo | None = None,
    gaps: Iterable[Gap] = (),
) -> tuple[bytes, list[int]]:
    """The file of (record id, record) pairs, and the offset at which each record begins in it.

    Raises `CorruptValue` for a record that is not what was written.
    """
    rows = [_row_of(key, blob) for key, blob in records]
    facts = {} if info is None else facts_text(info, gaps)
    schema = SCHEMA.with_metadata(facts)
    sink = io.BytesIO()
    options: Any = {
        "compression": _COMPRESSION,
        "use_dictionary": ["stream", "fingerprint", "dtype"],
        "write_statistics": _STATISTICS,
        "data_page_version": "1.0",
    }
    with pq.ParquetWriter(sink, schema, **options) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=GROUP_ROWS)
    data = sink.getvalue()
    return data, _offsets(data, [blob for _, blob in records])


def iter_parquet(folder: Folder, name: str) -> Iterator[tuple[str, bytes]]:
    """The (record id, record) pairs of a file, a few in memory at a time.

    Which each says it is: its own digest, checked by whoever puts it, tells whether that is so.
    Raises `CorruptValue` for a file that is none.
    """
    names = ["stream", "epoch", "index", "record"]
    with folder.open(name) as source:
        try:
            file = pq.ParquetFile(source)
            for batch in file.iter_batches(batch_size=READ_ROWS, columns=names):
                batch.validate(full=True)
                for row in batch.to_pylist():
                    yield record_id(row["stream"], row["epoch"], row["index"]), row["record"]
        except ARROW_ERRORS as error:
            raise _not_a_file(name, error) from error


def parquet_facts(folder: Folder, name: str) -> ExportedFacts | None:
    """What was known of the stream when a file was written; None where it does not say."""
    with folder.open(name) as source:
        try:
            metadata = pq.read_schema(source).metadata
        except ARROW_ERRORS as error:
            raise _not_a_file(name, error) from error
    text = as_text({k: v for k, v in (metadata or {}).items() if k.startswith(b"aot.")}, name)
    return facts_from_text(text, name)


def count_rows(folder: Folder, name: str) -> int:
    """How many clips a file holds, from its footer."""
    with folder.open(name) as source:
        try:
            return pq.read_metadata(source).num_rows
        except ARROW_ERRORS as error:
            raise _not_a_file(name, error) from error


def _row_of(key: str, blob: bytes) -> dict[str, Any]:
    version, body = envelope.unseal(blob, key)
    clip, columns = check_batch(read_batch(pa.py_buffer(body), key), key, version)
    return {
        **_facts_of(clip),
        **_tokens_of(columns),
        "digest": envelope.digest_of(blob),
        "record": blob,
    }


def _facts_of(clip: ClipMetadata) -> dict[str, Any]:
    return {
        "stream": clip.stream_id,
        "epoch": clip.epoch,
        "index": clip.index,
        "start_s": clip.start_s,
        "end_s": clip.end_s,
        "wall_start_s": clip.wall_start_s,
        "pts_s": clip.pts_s,
        "rows": clip.grid[0],
        "columns": clip.grid[1],
        "num_tokens": clip.num_tokens,
        "fingerprint": clip.fingerprint,
        "dtype": clip.dtype,
    }


def _tokens_of(columns: Columns) -> dict[str, np.ndarray]:
    return {name: columns[name] for name in ("frame", "cell", "mass", "kind")}


def _offsets(data: bytes, blobs: Sequence[bytes]) -> list[int]:
    """Where each record begins: its header is its own, the digest in it being over all of it."""
    offsets, at = [], 0
    for blob in blobs:
        at = data.index(blob[: envelope.HEADER_BYTES], at)
        assert data[at : at + len(blob)] == blob, "a record lies in one piece"
        offsets.append(at)
        at += len(blob)
    return offsets


def _not_a_file(name: str, error: Exception) -> CorruptValue:
    return CorruptValue(f"{name}: not a Parquet file of clips: {error!r:.200}")
