"""All settings: a YAML file, then the environment (`AOT_...`), then the command line.

The one place that reads the environment. `load_settings` gives one frozen value in which unknown
keys are errors; `explain` tells where each value came from.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from pipeline.errors import InvalidSettings
from pipeline.store import StoreConfig
from pipeline.types import without_credentials

if TYPE_CHECKING:
    from workers.answer import AnswerSettings
    from workers.compress import CompressSettings

ENV_PREFIX = "AOT_"
DEFAULT_MODEL = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Group):
    """The checkpoint whose two halves are used."""

    id: str = DEFAULT_MODEL
    """A hub id or a folder."""
    revision: str | None = None
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class IngestSettings(_Group):
    """How a video becomes clips, and clips tokens."""

    fps: float | None = Field(default=1.0, gt=0, le=240)
    """Frames sampled per second of the stream; null keeps every frame."""
    clip_frames: int = Field(default=8, ge=1, le=4096)
    retention: float = Field(default=0.10, gt=0, le=1)
    reducer: str = "adaptive"
    constants: dict[str, Any] = {}
    """Fields of AOTConfig to be set by hand instead of derived from the retention."""
    roots: tuple[str, ...] = ()
    """Folders files may be read from; empty allows all."""
    lease_s: float = Field(default=30.0, ge=1, le=3600)
    """How long a stream stays taken after its writer was cut off."""


class StoreSettings(_Group):
    """Where the records are."""

    url: str = "embedded://~/.local/share/aot-stream"
    """embedded://FOLDER, unix:///SOCKET, redis://HOST:PORT/DB or rediss://..."""
    namespace: str = "aot"
    dtype: Literal["bf16", "int8"] = "bf16"
    timeout_s: float = Field(default=5.0, gt=0, le=600)
    connect_timeout_s: float = Field(default=2.0, gt=0, le=60)
    appendfsync: Literal["everysec", "always"] = "everysec"


class RaySettings(_Group):
    """The cluster the work is spread over."""

    enabled: bool = True
    """False runs everything in this process."""
    address: str | None = None
    """HOST:PORT of a cluster's head, `auto` for this machine's, null for a private one."""
    workers: int = Field(default=1, ge=1, le=4096)
    """Compress workers."""
    worker_cpus: float = Field(default=0.5, gt=0)
    worker_gpus: float | None = None
    clips_in_flight: int = Field(default=4, ge=1, le=1024)
    """Clips a session may have decoded and not yet stored: the back-pressure."""
    threads: int = Field(default=1, ge=1, le=256)
    """CPU threads of one compress worker; part of what makes records byte-identical."""
    local_port: int = Field(default=26379, ge=1024, le=65535)
    """Where the cluster listens that detached sessions run in when no address is given."""


class AskSettings(_Group):
    """How a question is answered."""

    max_visual_tokens: int | None = Field(default=None, ge=1)
    """Most visual tokens of one question; null takes what the model's context holds."""
    max_new_tokens: int = Field(default=256, ge=1, le=32768)
    max_clips: int = Field(default=2048, ge=1)
    """Most clips loaded for one question."""
    marks: Literal["clip", "frame"] | None = None
    """One time mark a clip, or one a frame; null as the checkpoint says, else one a clip."""
    keep_positions: bool | None = None
    """Read every token at the place it had before the reduction, where the context holds them;
    null as the checkpoint says, else not."""


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_parse_none_str="null",
        extra="forbid",
        frozen=True,
    )

    model: ModelSettings = ModelSettings()
    ingest: IngestSettings = IngestSettings()
    store: StoreSettings = StoreSettings()
    ray: RaySettings = RaySettings()
    ask: AskSettings = AskSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Given values come in through the initialiser, merged; see `load_settings`."""
        return (init_settings,)

    def store_config(self) -> StoreConfig:
        """What opens the store, here and in every worker."""
        return StoreConfig(**self.store.model_dump())

    def compress_settings(self) -> "CompressSettings":
        """What decides a clip's tokens."""
        from workers.compress import CompressSettings

        ingest, model = self.ingest, self.model
        return CompressSettings(
            model=model.id,
            revision=model.revision,
            device=model.device,
            dtype=model.dtype,
            reducer=ingest.reducer,
            retention=ingest.retention,
            clip_frames=ingest.clip_frames,
            constants=dict(ingest.constants),
            threads=self.ray.threads,
        )

    def answer_settings(self) -> "AnswerSettings":
        """What opens the language half."""
        from workers.answer import AnswerSettings

        model = self.model
        return AnswerSettings(
            model=model.id, revision=model.revision, device=model.device, dtype=model.dtype
        )


def load_settings(
    path: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Settings from a file, the environment and `overrides`, the later before the earlier.

    `overrides` has the file's nesting; None in it means "not given".

    Raises:
        InvalidSettings: no such file, no YAML, an unknown key, a value that cannot be.
    """
    layers = dict(_layers(path, overrides))
    try:
        return Settings(**_merged(layers.values()))
    except ValidationError as error:
        raise InvalidSettings(_explained(error, layers)) from None


def explain(
    path: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, Any, str]]:
    """Every setting as (dotted name, value, where it came from)."""
    layers = dict(_layers(path, overrides))
    for name, value in _flat(load_settings(path, overrides).model_dump()):
        origins = [origin for origin, values in layers.items() if _has(values, name)]
        yield name, value, origins[-1] if origins else "default"


def _layers(
    path: str | Path | None, overrides: Mapping[str, Any] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where values come from, the weakest first."""
    if path is not None:
        yield str(path), _read_yaml(Path(path))
    yield "environment", _read_environment()
    yield "command line", _given(overrides or {})


def _read_environment() -> dict[str, Any]:
    try:
        return EnvSettingsSource(Settings)()
    except SettingsError as error:
        raise InvalidSettings(
            f"environment: {error}; {ENV_PREFIX}GROUP__NAME takes one value, groups and "
            "constants take JSON"
        ) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InvalidSettings(f"no settings file {str(path)!r}; see configs/ for examples")
    try:
        return YamlConfigSettingsSource(Settings, yaml_file=path)()
    except Exception as error:  # the YAML library's errors have no common public base here
        detail = " ".join(str(error).split())
        raise InvalidSettings(f"{path} is not a YAML mapping of settings: {detail}") from None


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was not given."""
    kept = {
        key: _given(value) if isinstance(value, Mapping) and key != "constants" else value
        for key, value in values.items()
        if value is not None
    }
    return {key: value for key, value in kept.items() if value != {}}


def _merged(layers: Any) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = _merged([result[key], value]) if both else value
    return result


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and key != "constants":
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _has(values: Any, name: str) -> bool:
    for key in name.split("."):
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True


def _explained(error: ValidationError, layers: Mapping[str, Any]) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(map(str, problem["loc"]))
        origins = [origin for origin, values in layers.items() if _has(values, name)]
        where = f" (from {origins[-1]})" if origins else ""
        if problem["type"] == "extra_forbidden":  # whatever it holds, it may be a secret
            lines.append(f"{name}{where}: no such setting; see `aot config` for all of them")
        else:
            got = without_credentials(repr(problem["input"]))
            lines.append(f"{name}{where}: {problem['msg']}, got {got}")
    return "; ".join(lines)


def unknown_variables() -> list[str]:
    """Names of `AOT_...` variables that set nothing, most likely misspelt."""
    known = {
        f"{ENV_PREFIX}{name.replace('.', '__')}".upper()
        for name, _ in _flat(Settings().model_dump())
    }
    groups = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields}
    names = {name for name in os.environ if name.upper().startswith(ENV_PREFIX)}
    return sorted(name for name in names if name.upper() not in known | groups)
