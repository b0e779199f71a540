"""What a live session decides by itself; read before there is a model: it needs no torch."""

from dataclasses import dataclass, field

from workers.errors import InvalidSettings
from workers.live.overload import OverloadRule
from workers.live.stillness import StillnessRule


@dataclass(frozen=True)
class LiveSettings:
    """What a live session decides by itself; the tokens are decided by `CompressSettings`."""

    stillness: StillnessRule | None = None
    """Hold frames that show nothing new; None encodes all."""
    overload: OverloadRule = field(default_factory=OverloadRule)
    push_timeout_s: float = 30.0
    """For one frame's tokens, its wait for a turn included."""
    tell_held_s: float = 10.0
    """How often a held stretch that grows is told anew."""

    def __post_init__(self) -> None:
        for name in ("push_timeout_s", "tell_held_s"):
            if getattr(self, name) <= 0:
                raise InvalidSettings(f"{name} must be above 0, got {getattr(self, name)}")
