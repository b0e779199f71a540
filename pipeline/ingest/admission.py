"""May a video come in: its stream and its file, looked at before a model is loaded.

What would end a session at its start comes out here in milliseconds instead: the stream is being
written by another, holds another source, or its file cannot be read. The errors are the session's
own. A file that is there and is refused is kept as the stream's failure, as a session would keep
it. What is found good may still fail later: a session trusts none of this. Knows of no model and
no cluster.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from pipeline.errors import PipelineError
from pipeline.ingest.identity import known_info, require_same_settings, require_same_source
from pipeline.ingest.lease import new_writer, require_free, take_lease
from pipeline.store import ClipStore
from pipeline.types import StreamInfo
from workers.errors import SourceError, SourceRefused, SourceUnreachable


def admit(
    store: ClipStore,
    info: StreamInfo,
    look: Callable[[], None],
    *,
    moved: bool = False,
    lease_s: float = 30.0,
) -> bool:
    """Whether there is something to ingest, and nothing that is known without a model against it.

    Args:
        info: the stream as it is to be known should its file be refused.
        look: looks at the file; raises a `SourceError`. Not called for a stream that is complete,
            whose file is not read again and may be gone.
        moved: accept that the stream is known under another source.

    Raises:
        LeaseHeld: somebody else writes the stream.
        Conflict: it came from another source, or began at another time.
        FingerprintMismatch: it holds tokens made with other settings.
        SourceError: what `look` raised; the stream's status is `failed` then, unless there is no
            such stream and no such file: a mistyped path leaves nothing behind.
    """
    require_free(store, info.stream_id)
    known = known_info(store, info.stream_id)
    begun = known is not None and store.get_position(info.stream_id) is not None
    if known is not None and begun:
        require_same_source(known, info, moved=moved)
        require_same_settings(known, info)
        if known.status == "complete":
            return False
    try:
        look()
    except SourceError as error:
        if known is not None or not isinstance(error, (SourceUnreachable, SourceRefused)):
            _try_to_keep(store, known if begun else None, info, error, lease_s)
        raise
    return True


def _try_to_keep(
    store: ClipStore, begun: StreamInfo | None, info: StreamInfo, error: SourceError, lease_s: float
) -> None:
    try:
        _keep_failure(store, begun, info, error, lease_s)
    except PipelineError as record_error:  # it must not hide why the file was refused
        error.add_note(f"the store could not record it: {record_error}")


def _keep_failure(
    store: ClipStore,
    begun: StreamInfo | None,
    info: StreamInfo,
    error: SourceError,
    lease_s: float,
) -> None:
    """A stream that has clips stays what it is but for its status."""
    now_s = time.time()
    failed = replace(
        begun or replace(info, created_at_s=now_s),
        status="failed",
        error=f"{error.code}: {error}",
        updated_at_s=now_s,
    )
    lease = take_lease(store, info.stream_id, writer=new_writer(), lease_s=lease_s)
    try:
        store.put_info(failed, lease=lease)
    finally:
        store.release_lease(lease)
