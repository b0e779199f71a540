"""May a video come in: its stream and its file, looked at before a model is loaded.

What would end a session at its start comes out here in milliseconds instead: the stream is being
written by another, holds another source, or its file cannot be read. The errors are the session's
own. A file that is refused is kept as the stream's failure, as a session would keep it. What is
found good may still fail later: a session trusts none of this. Knows of no model and no cluster.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from pipeline.errors import PipelineError
from pipeline.ingest.sink import (
    known_info,
    new_writer,
    require_free,
    require_same_source,
    take_lease,
)
from pipeline.store import ClipStore
from pipeline.types import StreamInfo
from workers.errors import SourceError


def admit(
    store: ClipStore,
    info: StreamInfo,
    look: Callable[[], None],
    *,
    moved: bool = False,
    lease_s: float = 30.0,
) -> None:
    """Return when nothing that can be known without a model speaks against ingesting.

    Args:
        info: the stream as it is to be known should its file be refused.
        look: looks at the file; raises a `SourceError`. Not called for a stream that is complete,
            whose file is not read again and may be gone.
        moved: accept that the stream is known under another source.

    Raises:
        LeaseHeld: somebody else writes the stream.
        Conflict: it came from another source, or began at another time.
        SourceError: what `look` raised; the stream's status is `failed` then.
    """
    require_free(store, info.stream_id)
    known = known_info(store, info.stream_id)
    begun = known is not None and store.get_position(info.stream_id) is not None
    if known is not None and begun:
        require_same_source(known, info, moved=moved)
        if known.status == "complete":
            return
    try:
        look()
    except SourceError as error:
        try:
            _keep_failure(store, known if begun else None, info, error, lease_s)
        except PipelineError as record_error:  # it must not hide why the file was refused
            error.add_note(f"the store could not record it: {record_error}")
        raise


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
