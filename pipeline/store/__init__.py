"""Where compressed clips are kept: records, keys, the store and its embedded server.

Cheap to import: redis-py comes with the first store on a server, Arrow and tensors with the first
record.
"""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.store.base import ClipStore
from pipeline.store.config import StoreConfig
from pipeline.values.errors import InvalidSettings
from workers.redact import redact_url

__all__ = ["ClipStore", "StoreConfig", "embedded_folder", "open_store"]


def open_store(config: StoreConfig) -> ClipStore:
    """The store at `config.url`; an embedded server is started when it does not run yet.

    Cheap to call in every process: hand `store.config` to workers, which opens the same data and
    never starts a server of its own. Raises `StoreError`s, and `InvalidSettings` for a wrong URL.
    """
    scheme = urlsplit(config.url).scheme
    if scheme == "memory":
        from pipeline.store.memory import MemoryStore

        return MemoryStore(config)
    if scheme == "embedded":
        from pipeline.store.embedded import start_embedded
        from pipeline.store.redis import RedisStore

        server = start_embedded(embedded_folder(config.url), appendfsync=config.appendfsync)
        return RedisStore.at_socket(config, server.socket)
    if scheme in ("redis", "rediss", "unix", "sentinel"):
        from pipeline.store.redis import RedisStore

        return RedisStore(config)
    raise InvalidSettings(
        f"store URL {redact_url(config.url)!r}: expected embedded:///folder, "
        "unix:///socket, redis://host:port/db, rediss://... or sentinel://host:port/service"
    )


def embedded_folder(url: str) -> Path:
    """The folder of an `embedded:///folder` URL; `~` is the home folder."""
    parts = urlsplit(url)
    path = unquote(parts.netloc + parts.path)
    if parts.scheme != "embedded" or not path:
        shown = redact_url(url)
        raise InvalidSettings(f"store URL {shown!r}: expected embedded:///folder")
    return Path(path).expanduser().absolute()
