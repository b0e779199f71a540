"""What is done to a stream that is known already: end its session, start it again.

Knows of no terminal.
"""

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.ingest.lease import is_lease_held
from pipeline.ingest.outbox import name_store
from pipeline.settings import Settings
from pipeline.store import ClipStore, open_store
from pipeline.store.roster import Roster
from pipeline.store.spool import discard
from pipeline.values.errors import Conflict, InvalidQuery
from pipeline.values.made_with import MadeWith
from pipeline.values.types import DeletedCounts, StreamInfo
from workers.errors import ClusterUnreachable

if TYPE_CHECKING:
    from pipeline.ingest.request import IngestRequest

logger = logging.getLogger(__name__)

END_S = 60.0
"""For a host to commit what is open of a stream and let it go."""
POLL_S = 0.2


def pause(settings: Settings, stream_id: str) -> str | None:
    """End a detached session; its last state, None where none was running.

    What it stored stays. A stream that a cluster's hosts share is taken off their list, which takes
    no cluster that answers. No cluster is looked for where nobody writes the stream.

    Raises:
        UnknownStream: there is none of that id.
        ClusterUnreachable: somebody writes it, and not in a cluster that can be reached.
    """
    from pipeline.ingest.on_ray import connect_cluster  # Ray, only where something is to be ended

    if (state := pause_shared(settings, stream_id)) is not None:
        return state
    with open_store(settings.store_config()) as store:
        store.get_info(stream_id)
        if not is_lease_held(store, stream_id):
            return None
    with connect_cluster(settings) as cluster:
        session = cluster.find_session(stream_id)
        return None if session is None else session.stop().state


def pause_shared(settings: Settings, stream_id: str) -> str | None:
    """The same of a stream that a cluster's hosts share, and of no other; needs no Ray."""
    with open_store(settings.store_config()) as store:
        if isinstance(store, Roster) and store.pause(stream_id):
            return _await_end(store, settings, stream_id)
    return None


def _await_end(store: ClipStore, settings: Settings, stream_id: str) -> str:
    """Until no host has the stream any more: `stopped`; `stopping` where that takes too long."""
    assert isinstance(store, Roster)
    until_s, silent_s = time.monotonic() + END_S, settings.ray.session_silent_s
    while store.is_held(stream_id, silent_s=silent_s) or is_lease_held(store, stream_id):
        if time.monotonic() > until_s:
            return "stopping"
        time.sleep(POLL_S)
    return "stopped"


def resume_shared(settings: Settings, stream_id: str, url: str | None = None) -> bool:
    """Have a cluster's hosts read a paused stream of theirs again; False where it is none.

    `url`: the source where it lies elsewhere now.

    Raises:
        InvalidQuery: a URL that may hold a secret.
    """
    with open_store(settings.store_config()) as store:
        text = store.get_paused(stream_id) if isinstance(store, Roster) else None
        if text is None:
            return False
        assert isinstance(store, Roster)
        if url is not None:
            from pipeline.ingest.request import move_stream

            text = move_stream(text, url)
        store.add_wanted({stream_id: text})
    return True


def remove(settings: Settings, stream_id: str) -> DeletedCounts:
    """Remove a stream with all its records, and what this machine has spooled and logged of it.

    A detached session of it is ended, and hosts of a cluster read it no more; whoever else writes
    it is refused from then on.

    Raises:
        UnknownStream: there is none of that id.
    """
    config, rules = settings.store_config(), settings.spool_rules()
    if _forget(settings, stream_id):
        return DeletedCounts(0, 0, 0)
    if settings.ray.enabled:
        try:
            pause(settings, stream_id)
        except ClusterUnreachable as error:
            logger.info("%s: its writer is in no cluster: %s", stream_id, error)
    with open_store(config) as store:
        removed = store.delete_stream(stream_id)
    logs = settings.stream_logs()
    if logs is not None:
        logs.remove(stream_id)
    if rules is not None:
        discard(rules, name_store(config.url, config.namespace), stream_id)
    return removed


def _forget(settings: Settings, stream_id: str) -> bool:
    """Take a stream off the list that hosts share; whether that was all there was of it."""
    with open_store(settings.store_config()) as store:
        if not isinstance(store, Roster) or not store.forget(stream_id):
            return False
        _await_end(store, settings, stream_id)
        return stream_id not in store.list_streams()


def prepare_resume(
    settings: Settings, stream_id: str, url: str | None = None
) -> "tuple[Settings, IngestRequest]":
    """What goes on with a stream as it was begun: its own settings, source, range and start.

    Store and cluster are those of `settings`. `url`: the source where it lies elsewhere now, or
    where it has credentials, which no store keeps.

    Raises:
        UnknownStream: there is none of that id.
        Conflict: an earlier release began it and did not write down what it takes.
        InvalidQuery: the source needs its credentials.
    """
    from pipeline.ingest.request import IngestRequest
    from workers.types import VideoSource  # what decodes, only where something is to be started

    with open_store(settings.store_config()) as store:
        info = store.get_info(stream_id)
        files = tuple(segment.path for segment in store.list_segments(stream_id))
    made = _made_with(info)
    if made.source.needs_credentials and url is None:
        raise InvalidQuery(
            f"stream {stream_id} reads {made.source.url}, whose user and password are kept "
            "nowhere; give its whole URL again: --source URL"
        )
    source = VideoSource(
        url or made.source.url,
        stream_id,
        made.source.fps,
        start_s=made.source.start_s,
        end_s=made.source.end_s,
        wall_start_s=made.source.wall_start_s,
        max_hold_s=made.source.max_hold_s,
        follow_s=settings.ingest.follow_limit_s if made.source.follow else None,
    )
    request = IngestRequest(source, resume=url is not None, zone=made.source.zone, files=files)
    return _take_over(settings, made), request


def _made_with(info: StreamInfo) -> MadeWith:
    if info.made_with is None:
        raise Conflict(
            f"stream {info.stream_id} was begun by an earlier release, which did not keep how; "
            "give its source to `aot ingest` with the settings of then: it goes on behind what is "
            "stored"
        )
    return info.made_with


def _take_over(settings: Settings, made: MadeWith) -> Settings:
    """`settings` with all that decides the stream's tokens as the stream has it."""
    tokens, model = made.tokens, made.model
    changes: Mapping[str, Mapping[str, Any]] = {
        "model": {
            "id": model.id,
            "revision": model.revision,
            "device": model.device,
            "dtype": model.dtype,
        },
        "ingest": {
            "fps": made.source.fps,
            "clip_frames": tokens.clip_frames,
            "retention": tokens.retention,
            "reducer": tokens.reducer,
            "constants": dict(tokens.constants),
        },
        "store": {"dtype": tokens.stored_dtype},
        "ray": {"threads": tokens.threads},
    }
    groups = {
        name: getattr(settings, name).model_copy(update=dict(values))
        for name, values in changes.items()
    }
    return settings.model_copy(update=groups)
