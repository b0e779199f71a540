"""What opens a store: small, picklable, the same on every machine."""

from dataclasses import dataclass
from typing import Literal

from pipeline.store.keys import DEFAULT_NAMESPACE
from workers.redact import redact_url

TokenDtype = Literal["bf16", "int8"]
"""How the values of tokens are kept: `arrow.columns` has the layouts."""
Fsync = Literal["everysec", "always"]


@dataclass(frozen=True)
class StoreConfig:
    """Everything needed to open a store."""

    url: str
    """`embedded:///folder`, `unix:///socket`, `redis://`, `rediss://` or `memory://`."""
    namespace: str = DEFAULT_NAMESPACE
    dtype: TokenDtype = "bf16"
    """How tokens of new clips are stored; every record says its own."""
    timeout_s: float = 5.0
    """Longest wait for one answer of the server."""
    connect_timeout_s: float = 2.0
    outage_s: float = 300.0
    """How long a session waits for a server that is away before it gives up (`patience`)."""
    appendfsync: Fsync = "everysec"
    """Embedded server only: what a power cut may cost, up to a second of clips or none."""
    cold: str | None = None
    """Folder, or URL of one, that old clips are moved to (`cold`); None keeps all in the server."""
    password_file: str | None = None
    """On every machine that opens the store, so that no password travels; None where it is in the
    URL, or there is none."""

    def __repr__(self) -> str:
        return f"StoreConfig({redact_url(self.url)}, {self.namespace}, {self.dtype})"
