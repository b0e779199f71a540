"""What can be set of the HTTP service: where it listens, and what it grants."""

import ipaddress
from pathlib import Path

from pydantic import ByteSize, Field, SecretStr, field_validator

from pipeline.settings.base import Group, parse_length


class ServeSettings(Group):
    """The HTTP service."""

    host: str = "127.0.0.1"
    """Where it listens; beyond this machine only with keys."""
    port: int = Field(default=8400, ge=0, le=65535)
    """0 takes a free one."""
    keys_file: Path = Path("~/.config/aot-stream/keys.json")
    """Digests of the keys, and what each may do; `aot keys` writes it."""
    max_body: ByteSize = Field(default=ByteSize(256 << 10), ge=1024, le=64 << 20)
    """Of one request."""
    max_range: float = Field(default=31 * 86_400.0, gt=0)
    """Longest range of one question: `24h`, `31d`, or seconds."""
    max_requests: int = Field(default=128, ge=1, le=65_536)
    """Requests that are being answered at one time."""
    requests_per_s: float = Field(default=50.0, gt=0)
    """Of one key, over time; twice as many at once."""
    answers: int = Field(default=1, ge=1, le=256)
    """Workers that answer, where they are on Ray; elsewhere there is one model."""
    together: int = Field(default=8, ge=1, le=256)
    """Questions that each model answers at one time, a word of each in one step."""
    waiting: int = Field(default=32, ge=1, le=4096)
    """Questions that wait behind them; one more is refused."""
    sessions: int = Field(default=4, ge=0, le=256)
    """Streams brought in by this service at one time, each in a process of its own."""
    webhook_secret: SecretStr | None = None
    """Signs what webhooks are told; in the environment rather than in a file."""
    mcp_writes: bool = False
    """Whether agents whose key has the scope `ingest` may add standing questions."""
    receive_timeout_s: float = Field(default=10.0, gt=0, le=600)
    """In which a request must have come whole."""
    send_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """A reader that takes nothing for so long is cut off."""
    drain_s: float = Field(default=8.0, gt=0, le=600)
    """For answers under way once it is asked to end."""

    _parse_range = field_validator("max_range", mode="before")(parse_length)

    @property
    def is_local(self) -> bool:
        """Whether it listens to this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
