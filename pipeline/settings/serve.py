"""What can be set of the HTTP service: where it listens, and what it grants."""

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ByteSize, Field, SecretStr, field_validator, model_validator

from pipeline.settings.base import Group, parse_length

if TYPE_CHECKING:
    from workers.cluster.scaling import Scaling


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
    answers: int = Field(default=1, ge=0, le=256)
    """Workers that answer, where they are on Ray (`ray.answers`), at least; elsewhere there is one
    model. With 0 the first question waits until one has its model."""
    max_answers: int | None = Field(default=None, ge=1, le=256)
    """At most: one more is asked for while questions wait; null keeps `answers` of them, or one."""
    answers_idle: float = Field(default=300.0, gt=0)
    """So long questions must have done with fewer before one is let go: `5m`, or seconds."""
    together: int = Field(default=8, ge=1, le=256)
    """Questions that each model answers at one time, a word of each in one step."""
    retrievals: int | None = Field(default=None, ge=1, le=256)
    """Questions whose index and clips are read at one time; others wait for their turn. null is one
    for two cores."""
    kept_windows: ByteSize = Field(default=ByteSize(256 << 20), ge=0)
    """Merged windows that are kept for the next question on them; 0 keeps none."""
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

    _parse_range = field_validator("max_range", "answers_idle", mode="before")(parse_length)

    @model_validator(mode="after")
    def _check_answers(self) -> "ServeSettings":
        if self.max_answers is not None and self.max_answers < self.answers:
            raise ValueError(f"got max_answers {self.max_answers} below answers {self.answers}")
        return self

    @property
    def most_answers(self) -> int:
        """Workers that answer, at most."""
        return self.max_answers or max(1, self.answers)

    def answer_scaling(self) -> "Scaling":
        """How many workers answer."""
        from workers.cluster.scaling import Scaling

        return Scaling(self.answers, self.most_answers, idle_after_s=self.answers_idle)

    @property
    def is_local(self) -> bool:
        """Whether it listens to this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
