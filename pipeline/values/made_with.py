"""What a stream was asked to be: all that it takes to go on with it, in one value.

Written once, when the stream is begun; `aot streams resume` reads it, a mismatch is explained from
it, and people see it flat (`settings`). It holds no credentials. Knows of no store and no model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypeVar

VERSION = 1
Setting = str | int | float | bool | None

T = TypeVar("T")


@dataclass(frozen=True)
class SourceAsked:
    """What was read, and which part of it."""

    url: str
    """Path or URL without credentials."""
    needs_credentials: bool = False
    """The URL had a user, a password or a token, which are kept nowhere: to go on, it is given
    again."""
    fps: float | None = None
    start_s: float = 0.0
    end_s: float | None = None
    max_hold_s: float | None = None
    """How long one picture may stand for the stream; None by container."""
    wall_start_s: float | None = None
    zone: str | None = None
    """In which wall times of the stream are told: an IANA name or an offset such as +02:00."""
    follow: bool = False
    """The file was still being written."""


@dataclass(frozen=True)
class ModelAsked:
    """The checkpoint as it was named, and how it was to be run."""

    id: str
    """Hub id or folder, as given."""
    revision: str | None = None
    device: str = "cpu"
    dtype: str = "float32"


@dataclass(frozen=True)
class TokensAsked:
    """How frames become clips, and clips tokens."""

    reducer: str
    retention: float
    clip_frames: int
    stored_dtype: str
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Those set by hand."""
    threads: int = 1


@dataclass(frozen=True)
class Loaded:
    """What was found when the model was loaded; the fingerprint hashes it."""

    model_type: str
    revision: str
    weights: str
    """Digest of the weight files."""
    processor: str
    """Digest of the pixel settings."""
    dtype: str
    frame_tokens: int
    """Tokens of a frame before the reduction."""
    rule: Mapping[str, Any] = field(default_factory=dict)
    """What the reducer says of itself: version and all its constants."""


@dataclass(frozen=True)
class MadeWith:
    """See the module."""

    source: SourceAsked
    model: ModelAsked
    tokens: TokensAsked
    loaded: Loaded | None = None
    """None where the source was refused before a model was loaded."""
    version: int = VERSION

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """The value from JSON; fields of later releases are passed over."""
        loaded = values.get("loaded")
        return cls(
            source=_read(SourceAsked, values["source"]),
            model=_read(ModelAsked, values["model"]),
            tokens=_read(TokensAsked, values["tokens"]),
            loaded=None if loaded is None else _read(Loaded, loaded),
            version=int(values.get("version", VERSION)),
        )

    def for_people(self) -> dict[str, Setting]:
        """Flat, one name a setting."""
        tokens, loaded = self.tokens, self.loaded
        shown: dict[str, Setting] = {}
        if loaded is not None:
            shown |= {
                "model_type": loaded.model_type,
                "revision": loaded.revision,
                "weights": loaded.weights,
                "processor": loaded.processor,
                "dtype": loaded.dtype,
                "frame_tokens": loaded.frame_tokens,
            }
        return shown | {
            "stored_dtype": tokens.stored_dtype,
            "reducer": tokens.reducer,
            "retention": tokens.retention,
            "clip_frames": tokens.clip_frames,
            "fps": self.source.fps,
        }

    def changes_to(self, other: "MadeWith") -> list[str]:
        """What would make other tokens, as `name old -> new`, by what both know."""
        mine, theirs = dict(self._deciding()), dict(other._deciding())
        return [
            f"{name} {value} -> {theirs[name]}"
            for name, value in mine.items()
            if name in theirs and theirs[name] != value
        ]

    def _deciding(self) -> Iterator[tuple[str, Any]]:
        for name, value in asdict(self.tokens).items():
            if name not in ("threads", "constants"):
                yield name, value
        yield "fps", self.source.fps
        yield "start_s", self.source.start_s
        yield "max_hold_s", self.source.max_hold_s
        if self.loaded is None:
            return
        for name in ("model_type", "weights", "processor", "dtype"):
            yield name, getattr(self.loaded, name)
        yield from ((f"{self.tokens.reducer}.{key}", v) for key, v in self.loaded.rule.items())


def _read(kind: type[T], values: Mapping[str, Any]) -> T:
    names = {item.name for item in fields(kind)}  # pyright: ignore[reportArgumentType]
    return kind(**{name: value for name, value in values.items() if name in names})
