"""Exported clips back into a store, as a stream of its own or beside what is there."""

from dataclasses import replace
from pathlib import Path

from pipeline.errors import InvalidQuery
from pipeline.ingest.identity import describe_source, known_info
from pipeline.ingest.lease import new_writer, take_lease
from pipeline.store import ClipStore
from pipeline.store.arrow import decode_clip, exported_info, iter_exported
from pipeline.types import Lease, StreamInfo

LEASE_S = 30.0


def import_stream(store: ClipStore, stream_id: str, path: Path) -> int:
    """Put all clips of an exported file into their stream; how many.

    A clip that is there already is left as it is.

    Raises:
        InvalidQuery: the file is of another stream, or holds no clip.
        CorruptValue, SchemaMismatch: the file is not what was exported.
        Conflict, FingerprintMismatch, LeaseHeld: the stream holds something else.
    """
    lease = take_lease(store, stream_id, writer=new_writer(), lease_s=LEASE_S)
    count = 0
    try:
        for key, blob in iter_exported(path):
            record = decode_clip(blob, key=key)
            if record.clip.stream_id != stream_id:
                raise InvalidQuery(
                    f"{path} holds stream {record.clip.stream_id}, got {stream_id}; import it "
                    "under its own id"
                )
            if not count:
                _make_known(store, stream_id, path, record.fingerprint, lease)
            store.put_record(key, blob, lease)
            store.renew_lease(lease)
            count += 1
    finally:
        store.release_lease(lease)
    if not count:
        raise InvalidQuery(f"{path} holds no clip; export a range that has footage")
    return count


def _make_known(
    store: ClipStore, stream_id: str, path: Path, fingerprint: str, lease: Lease
) -> None:
    known = known_info(store, stream_id)
    if known is None:
        store.put_info(_exported_info(stream_id, path, fingerprint), lease=lease)


def _exported_info(stream_id: str, path: Path, fingerprint: str) -> StreamInfo:
    """What the export says of its stream; nothing writes an imported one, so it is not running."""
    info = exported_info(path)
    if info is None or (info.stream_id, info.fingerprint) != (stream_id, fingerprint):
        source = describe_source(str(path))
        return StreamInfo(stream_id, source, "imported", fingerprint, "complete")
    return replace(info, status="paused") if info.status == "running" else info
