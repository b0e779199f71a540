"""What is done to a stream that is known already: end its session.

Knows of no terminal.
"""

from pipeline.ingest.lease import is_lease_held
from pipeline.settings import Settings
from pipeline.store import open_store


def pause(settings: Settings, stream_id: str) -> str | None:
    """End a detached session; its last state, None where none was running.

    What it stored stays. No cluster is looked for where nobody writes the stream.

    Raises:
        UnknownStream: there is none of that id.
        ClusterUnreachable: somebody writes it, and not in a cluster that can be reached.
    """
    from pipeline.ingest.on_ray import cluster_of  # Ray, only where something is to be ended

    with open_store(settings.store_config()) as store:
        store.get_info(stream_id)
        if not is_lease_held(store, stream_id):
            return None
    with cluster_of(settings) as cluster:
        session = cluster.find_session(stream_id)
        return None if session is None else session.stop().state
