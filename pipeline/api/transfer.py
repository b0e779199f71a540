"""Exported clips back into a store, as a stream of its own or beside what is there; all streams of
a store into a folder, and back."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from pipeline.ingest.identity import describe_source, known_info
from pipeline.ingest.lease import new_writer, take_lease
from pipeline.store import ClipStore
from pipeline.store.arrow import (
    ExportedFacts,
    Folder,
    decode_clip,
    export_clips,
    exported_facts,
    iter_exported,
    iter_parquet,
    parquet_facts,
)
from pipeline.store.keys import record_id
from pipeline.values.errors import InvalidQuery, MissingValue
from pipeline.values.types import ClipSpan, Lease, StreamInfo

logger = logging.getLogger(__name__)

LEASE_S = 30.0
SUFFIX = ".arrow"
"""Of a stream's file in a backup; its name is the stream's."""
PARQUET = ".parquet"
"""Of the cold tier's files."""
UNFINISHED = "ImportBrokenOff: not all clips of the export are there; import it again"


def import_stream(store: ClipStore, stream_id: str, source: str | Path) -> int:
    """Put all clips of an exported file, or of files of the cold tier, into their stream; how many.

    `source`: a file of `export_clips`; a Parquet file of the cold tier, a folder of some, or the
    URL of either.

    A clip that is there already is left as it is. Until the last one is there the stream is
    `paused` and says that an import was broken off; gaps and status come with the last one.

    Raises:
        InvalidQuery: the file is of another stream, or holds no clip.
        CorruptValue, SchemaMismatch: the file is not what was exported.
        Conflict, FingerprintMismatch, LeaseHeld: the stream holds something else.
    """
    lease = take_lease(store, stream_id, writer=new_writer(), lease_s=LEASE_S)
    count, final = 0, None
    try:
        export = _open_export(source)
        for key, blob in export.records:
            record = decode_clip(blob, key=key)
            if record.clip.stream_id != stream_id:
                raise InvalidQuery(
                    f"{source} holds stream {record.clip.stream_id}, got {stream_id}; import it "
                    "under its own id"
                )
            if not count:
                final = _begin(store, stream_id, source, export, record.fingerprint, lease)
            store.put_record(key, blob, lease)
            store.renew_lease(lease)
            count += 1
        if final is not None:
            _end(store, final, lease)
    finally:
        store.release_lease(lease)
    if not count:
        raise InvalidQuery(f"{source} holds no clip; export a range that has footage")
    return count


def back_up(store: ClipStore, folder: Path) -> dict[str, int]:
    """Export every stream that has clips to a file of its own; how many clips each has.

    A file that is there is replaced once its successor is whole. A record that is lost is left out
    with a warning: it must not cost the backup of all others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for stream_id in store.list_streams():
        spans = store.list_spans(stream_id)
        if spans:
            path = folder / f"{stream_id}{SUFFIX}"
            info, gaps = store.get_info(stream_id), store.list_gaps(stream_id)
            records = iter_records(store, spans)
            counts[stream_id] = export_clips(records, path, info=info, gaps=gaps, replace=True)
    return counts


def restore(store: ClipStore, folder: Path) -> dict[str, int]:
    """Import every stream that `back_up` wrote; clips that are there already stay as they are.

    Raises:
        InvalidQuery: the folder holds none.
    """
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    if not paths:
        raise InvalidQuery(f"{folder} holds no {SUFFIX} file; name a folder of `aot store backup`")
    names = [path.name.removesuffix(SUFFIX) for path in paths]
    return {name: import_stream(store, name, path) for name, path in zip(names, paths, strict=True)}


def iter_records(store: ClipStore, spans: Iterable[ClipSpan]) -> Iterator[tuple[str, bytes]]:
    """Records with their ids, as an export takes them, without those that are lost."""
    for span in spans:
        try:
            record = store.get_record(span)
        except MissingValue as error:
            logger.warning("%s; left out", error)
            continue
        yield record_id(span.stream_id, span.epoch, span.index), record


@dataclass(frozen=True)
class _Export:
    """What is imported."""

    records: Iterator[tuple[str, bytes]]
    facts: ExportedFacts | None


def _open_export(source: str | Path) -> _Export:
    text = str(source)
    if "://" not in text and not Path(text).is_dir() and not text.endswith(PARQUET):
        return _Export(iter_exported(Path(text)), exported_facts(Path(text)))
    folder = Folder(text)
    names = [one.name for one in folder.list() if one.name.endswith(PARQUET)]
    if not names and text.endswith(PARQUET):
        head, _, tail = text.rpartition("/")
        folder, names = Folder(head or "."), [tail]
    told = [facts for name in names if (facts := parquet_facts(folder, name)) is not None]
    gaps = {gap.identity: gap for facts in told for gap in facts.gaps}
    latest = max(told, key=lambda facts: facts.info.updated_at_s, default=None)
    records = chain.from_iterable(iter_parquet(folder, name) for name in names)
    facts = None if latest is None else ExportedFacts(latest.info, tuple(gaps.values()))
    return _Export(records, facts)


def _begin(
    store: ClipStore,
    stream_id: str,
    source: str | Path,
    export: _Export,
    fingerprint: str,
    lease: Lease,
) -> ExportedFacts:
    """Make the stream known as not whole; what it is to be once all clips are there."""
    known, facts = known_info(store, stream_id), _facts_of(stream_id, source, export, fingerprint)
    if known is None:
        begun = replace(facts.info, status="paused", error=UNFINISHED)
        store.put_info(begun, lease=lease)
    elif known.error != UNFINISHED:
        return replace(facts, info=known)  # what is known here stays
    return facts


def _end(store: ClipStore, final: ExportedFacts, lease: Lease) -> None:
    there = {gap.identity for gap in store.list_gaps(lease.stream_id)}
    for gap in final.gaps:
        if gap.identity not in there:
            store.put_gap(gap, lease)
    store.put_info(final.info, lease=lease)


def _facts_of(
    stream_id: str, origin: str | Path, export: _Export, fingerprint: str
) -> ExportedFacts:
    """What the export says of its stream; nothing writes an imported one, so it is not running."""
    facts = export.facts
    if facts is None or (facts.info.stream_id, facts.info.fingerprint) != (stream_id, fingerprint):
        source = describe_source(str(origin))
        return ExportedFacts(StreamInfo(stream_id, source, "imported", fingerprint, "complete"))
    if facts.info.status == "running":
        return replace(facts, info=replace(facts.info, status="paused"))
    return facts
