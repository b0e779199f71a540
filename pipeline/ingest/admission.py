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

from pipeline.ingest.again import has_failed_clips
from pipeline.ingest.identity import (
    Comparison,
    known_info,
    require_same_settings,
    require_same_source,
)
from pipeline.ingest.lease import new_writer, require_free, take_lease
from pipeline.store import ClipStore
from pipeline.values.errors import PipelineError
from pipeline.values.types import StreamInfo
from workers.errors import SourceError, SourceRefused, SourceUnreachable

Compare = Callable[[StreamInfo], Comparison]


def admit(
    store: ClipStore,
    info: StreamInfo,
    look: Callable[[], None],
    *,
    compare: Compare = lambda known: (None, None),
    moved: bool = False,
    restart: bool = False,
    lease_s: float = 30.0,
) -> bool:
    """Whether there is something to ingest, and nothing that is known without a model against it.

    Args:
        info: the stream as it is to be known should its file be refused.
        look: looks at the file; raises a `SourceError`. Not called for a stream that is complete
            and whose file is what it was, or is gone.
        compare: says what the file is now, and what became of the one that is known.
        moved: accept that the stream is known under another source.
        restart: remove what is stored, once the file was found good.

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
    if (
        known is not None
        and begun
        and not restart
        and not _goes_on(store, known, info, compare, moved)
    ):
        return False
    try:
        look()
    except SourceError as error:
        if known is not None or not isinstance(error, (SourceUnreachable, SourceRefused)):
            _try_to_keep(store, known if begun else None, info, error, lease_s)
        raise
    if known is not None and restart:
        store.delete_stream(info.stream_id)
    return True


def _goes_on(
    store: ClipStore, known: StreamInfo, info: StreamInfo, compare: Compare, moved: bool
) -> bool:
    """Whether a stream that has clips may get more of this source."""
    require_same_settings(known, info)
    file, change = compare(known)
    now = replace(info, file=file)
    has_more = require_same_source(known, now, moved=moved, change=change)
    return (
        has_more
        or known.status != "complete"
        or has_failed_clips(store, known.stream_id)
        or not _is_same_model(known, info)
    )


def _is_same_model(known: StreamInfo, info: StreamInfo) -> bool:
    """By name alone; where the names differ, the model's digest decides."""
    if known.made_with is None or info.made_with is None:
        return True
    was, now = known.made_with.model, info.made_with.model
    return (was.id, was.revision, was.dtype) == (now.id, now.revision, now.dtype)


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
