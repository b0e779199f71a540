"""Many clips as one Arrow file that opens anywhere, and back.

The file is an Arrow IPC file (Feather version 2), one record batch per clip, uncompressed:

    epoch, index    int32      the clip
    start_s, end_s  float64    of the clip, seconds of the stream
    time_s          float64    of the token's frame
    token ...       as in a record

    pandas.read_feather("clips.arrow")
    pyarrow.ipc.open_file("clips.arrow").read_all()

bf16 tokens are uint16 bits: `(bits.astype("u4") << 16).view("f4")` is their value. Each batch
carries its record's metadata and a digest over metadata and values, and the import checks both, so
that a clip that comes back is the clip that went out.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from pipeline.store import envelope
from pipeline.store.arrow.columns import Columns
from pipeline.store.arrow.stream import (
    ARROW_ERRORS,
    as_text,
    check_batch,
    check_batch_message,
    check_schema,
    read_batch,
    serialise,
)
from pipeline.store.metadata import ClipMetadata, from_text
from pipeline.values.errors import (
    Conflict,
    CorruptValue,
    InvalidRecord,
    NoFootage,
    SchemaMismatch,
    StoreFull,
    StoreUnavailable,
)
from pipeline.values.types import Gap, StreamInfo

DIGEST = "aot.content_sha256"
STREAM = "aot.stream_info"
GAPS = "aot.stream_gaps"
FACTS_DIGEST = "aot.stream_sha256"
PLACE = pa.schema(
    [
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("time_s", pa.float64(), nullable=False),
    ]
)
_FILE_MAGIC_BYTES = 8
"""An Arrow file is `ARROW1\\0\\0`, then an IPC stream, then a footer."""


@dataclass(frozen=True)
class ExportedFacts:
    """What an export says of its stream beside the clips."""

    info: StreamInfo
    gaps: tuple[Gap, ...] = ()


def export_clips(
    records: Iterable[tuple[str, bytes]],
    path: Path,
    *,
    info: StreamInfo | None = None,
    gaps: Iterable[Gap] = (),
    replace: bool = True,
) -> int:
    """Write (record id, record) pairs to `path`; how many. One clip in memory at a time.

    `info` and `gaps`, what is known of their stream, go with them, under a digest. The file appears
    whole and on disk, or not at all. All clips must be of one dtype and width.

    Raises:
        NoFootage: no clip.
        CorruptValue: one that is not what was written.
        Conflict: the file is there and is not to be replaced.
    """
    if not replace and path.exists():
        raise Conflict(f"{path} is there already; name another file, or replace it with --force")
    num_clips = 0
    widened = (_widen(key, blob) for key, blob in records)
    with replacing(path) as sink:
        first = next(widened, None)
        if first is None:
            raise NoFootage("no clips to export; widen the range")
        schema = first[0].schema
        if info is not None:
            facts = facts_text(info, gaps)
            schema = schema.with_metadata({**(schema.metadata or {}), **facts})
        with pa.ipc.new_file(sink, schema) as writer:
            for batch, metadata in chain([first], widened):
                if not batch.schema.equals(schema):
                    raise SchemaMismatch(
                        f"clip {num_clips} of the export is of another dtype or width than the "
                        "first; export clips of one fingerprint at a time"
                    )
                writer.write_batch(batch, custom_metadata=metadata)
                num_clips += 1
    return num_clips


def exported_facts(path: Path) -> ExportedFacts | None:
    """What was known of the stream an export was made of; None where the export does not say.

    Raises `CorruptValue` for a file that is not what was written.
    """
    with _opened(path) as handle:
        try:
            text = as_text(_open_sequence(handle).schema.metadata, path.name)
        except ARROW_ERRORS as error:
            raise CorruptValue(
                f"{path.name}: not an exported Arrow file: {error!r:.200}"
            ) from error
    return facts_from_text(text, path.name)


def facts_from_text(text: Mapping[str, str], name: str) -> ExportedFacts | None:
    """The other way of `facts_text`, for the file `name`; None where nothing is said.

    Raises `CorruptValue`.
    """
    if STREAM not in text:
        return None
    try:
        if FACTS_DIGEST in text and text[FACTS_DIGEST] != _facts_digest(text):
            raise ValueError("what it says of its stream changed")
        gaps = (Gap(**gap) for gap in json.loads(text.get(GAPS, "[]")))
        return ExportedFacts(StreamInfo(**json.loads(text[STREAM])), tuple(gaps))
    except (*ARROW_ERRORS, AttributeError, InvalidRecord) as error:
        raise CorruptValue(f"{name}: not an exported Arrow file: {error!r:.200}") from error


def facts_text(info: StreamInfo, gaps: Iterable[Gap]) -> dict[str, str]:
    """What is known of a stream as metadata of a file, under a digest."""
    text = {
        STREAM: json.dumps(asdict(info), separators=(",", ":")),
        GAPS: json.dumps([asdict(gap) for gap in gaps], separators=(",", ":")),
    }
    return {**text, FACTS_DIGEST: _facts_digest(text)}


def _facts_digest(text: Mapping[str, str]) -> str:
    facts = [text.get(name, "") for name in (STREAM, GAPS)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def iter_exported(path: Path) -> Iterator[tuple[str, bytes]]:
    """The (record id, record) pairs of an exported file, each checked, one at a time.

    Only messages that were looked at are read, in their sequence: the footer could name others that
    lie within them. Raises `CorruptValue` for a file that is not what was written, whatever
    happened to it.
    """
    with _opened(path) as handle:
        try:
            num_batches = _check_messages(handle)
            handle.seek(0)
            reader = pa.ipc.open_file(handle)  # its footer says whether the end is there
            check_schema(reader.schema, path.name, before=PLACE)
            if reader.num_record_batches != num_batches:
                raise ValueError(f"{num_batches} clips, expected {reader.num_record_batches}")
            sequence = _open_sequence(handle)
        except ARROW_ERRORS as error:
            raise CorruptValue(
                f"{path.name}: not an exported Arrow file: {error!r:.200}"
            ) from error
        for number in range(num_batches):
            try:
                wide = sequence.read_next_batch_with_custom_metadata()
                wide.batch.validate(full=True)
                metadata = dict(wide.custom_metadata or {})
            except ARROW_ERRORS as error:
                raise CorruptValue(f"{path.name}, clip {number}: {error!r:.200}") from error
            yield _narrow(wide.batch, metadata, f"{path.name}, clip {number}")


def _open_sequence(handle: BinaryIO) -> Any:
    """The messages as they follow each other, whatever the footer says."""
    handle.seek(_FILE_MAGIC_BYTES)
    return pa.ipc.open_stream(handle)


def _widen(key: str, blob: bytes) -> tuple[pa.RecordBatch, dict[str, str]]:
    """The batch of a record with the columns that say where it lies, and its metadata apart."""
    version, body = envelope.unseal(blob, key)
    batch = read_batch(pa.py_buffer(body), key)
    clip, columns = check_batch(batch, key, version)
    text = as_text(batch.schema.metadata, key)
    schema = pa.schema([*PLACE, *batch.schema], metadata={"aot.dtype": clip.dtype})
    arrays = [*_place(clip, columns), *batch.columns]
    return pa.record_batch(arrays, schema=schema), {**text, DIGEST: _content_digest(text, columns)}


def _place(clip: ClipMetadata, columns: Columns) -> list[pa.Array]:
    times_s = np.asarray(clip.pts_s)[columns["frame"]]
    constants = (clip.epoch, clip.index, clip.start_s, clip.end_s)
    placed = [np.full(clip.num_tokens, value) for value in constants] + [times_s]
    return [pa.array(column, type=field.type) for column, field in zip(placed, PLACE, strict=True)]


def _narrow(wide: pa.RecordBatch, metadata: dict[bytes, bytes], where: str) -> tuple[str, bytes]:
    """The record of one exported batch, after its values and metadata proved to be unchanged."""
    text = as_text(metadata, where)
    digest = text.pop(DIGEST, "")
    clip = from_text(text)
    names = wide.schema.names[len(PLACE) :]
    schema = pa.schema([wide.schema.field(name) for name in names], metadata=text)
    batch = pa.record_batch([wide.column(name) for name in names], schema=schema)
    clip, columns = check_batch(batch, clip.record_id, int(text["aot.version"]))
    if clip.dtype.encode() != (wide.schema.metadata or {}).get(b"aot.dtype"):
        raise CorruptValue(f"{where}: {clip.record_id} is of another dtype than its file")
    if _content_digest(text, columns) != digest:
        raise CorruptValue(f"{where}: values or metadata of {clip.record_id} changed; export again")
    placed = zip(PLACE.names, _place(clip, columns), strict=True)
    if not all(wide.column(name).equals(expected) for name, expected in placed):
        raise CorruptValue(f"{where}: times or numbers of {clip.record_id} changed; export again")
    return clip.record_id, envelope.seal(serialise(batch), clip.record_id, clip.version)


def _content_digest(text: Mapping[str, str], columns: Columns) -> str:
    """SHA-256 over metadata and values, whatever the layout of the stream around them."""
    sha = hashlib.sha256(json.dumps(text, sort_keys=True).encode())
    for name, column in sorted(columns.items()):
        sha.update(name.encode())
        sha.update(np.ascontiguousarray(column).data)
    return sha.hexdigest()


def _check_messages(handle: BinaryIO) -> int:
    """How many batches; compressed and oversized ones are refused before one would be loaded."""
    handle.seek(_FILE_MAGIC_BYTES)
    messages = pa.ipc.MessageReader.open_stream(handle)
    check_schema(pa.ipc.read_schema(messages.read_next_message()), "export", before=PLACE)
    num_batches = 0
    for message in messages:
        if message.type != "record batch":
            raise ValueError(f"a message of type {message.type!r} in an export")
        check_batch_message(message)
        num_batches += 1
    return num_batches


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        handle = path.open("rb")
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror}; check the path") from error
    with handle:
        yield handle


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its place, on disk, when the block ends well.

    Raises `StoreFull`, `StoreUnavailable`.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        kind = StoreFull if "No space left" in str(error) else StoreUnavailable
        raise kind(f"{path}: {error.strerror or error}; nothing was written there") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """So that the new name is on disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
