"""Where settings come from, and which wins: file, then environment, then what is given.

`load_settings` gives one frozen value in which unknown keys are errors; `explain` tells where each
value came from. The layers are merged here and not by pydantic-settings, which keeps no record of
where a value came from. No error shows what a key holds that may be a secret.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from pipeline.settings.base import ENV_PREFIX
from pipeline.settings.check import check_reducer
from pipeline.settings.groups import Settings, StreamSettings
from pipeline.settings.server import KEY, KEY_FILE, SERVER
from pipeline.values.errors import InvalidSettings
from workers.redact import HIDDEN, redact_text, redact_url

WHOLE = frozenset({"constants", "worker_resources", "session_resources"})
"""Settings that are mappings themselves: one value each."""
OTHERS = frozenset({"AOT_FAIL_WITHOUT_GPU", SERVER, KEY, KEY_FILE})
"""Variables with our prefix that are no settings: the tests', the client's."""
_QUOTED = re.compile(r"'[^']{3,}'|\"[^\"]{3,}\"")


def load_settings(
    path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    strict: bool = True,
) -> Settings:
    """Settings from a file, the environment and `overrides`, the later before the earlier.

    `overrides` has the file's nesting; None in it means "not given". Without `strict` a misspelt
    variable is not an error: for those who look what is wrong.

    Raises:
        InvalidSettings: no such file, no YAML, an unknown key, a value that cannot be, a constant
            that the reducer does not have, a variable that is misspelt.
    """
    if strict:
        _require_known_variables()
    layers = dict(_layers(path, overrides))
    try:
        settings = Settings(**_merged(layers.values()))
    except ValidationError as error:
        raise InvalidSettings(_explained(error, layers)) from None
    check_reducer(settings.ingest)
    return settings


def explain(
    path: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, Any, str]]:
    """Every setting as (dotted name, value fit to be shown, where it came from)."""
    layers = dict(_layers(path, overrides))
    for name, value in _flat(load_settings(path, overrides, strict=False).model_dump()):
        origins = [origin for origin, values in layers.items() if _has(values, name)]
        yield name, _shown(value), origins[-1] if origins else "default"


def stream_url(stream: StreamSettings) -> str:
    """Where a stream comes from, credentials and all: never to be shown.

    Raises:
        InvalidSettings: the variable that should hold it is not set.
    """
    url = stream.url if stream.url_env is None else os.environ.get(stream.url_env)
    if not url:
        raise InvalidSettings(
            f"stream {stream.name}: the variable {stream.url_env} is not set; it holds the URL"
        )
    return url


def read_variable(name: str) -> str:
    """What a variable holds that an option names: a secret that is not to stand there.

    Raises:
        InvalidSettings: it is not set.
    """
    if not (value := os.environ.get(name)):
        raise InvalidSettings(f"the variable {name} is not set; it holds the URL")
    return value


def unknown_variables() -> list[str]:
    """Names of `AOT_...` variables that set nothing, most likely misspelt.

    A setting that does not exist in a group that does is an error already; this is the rest.
    """
    known = _variables()
    groups = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields}
    names = sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX))
    right = known | groups | OTHERS
    return [name for name in names if name.upper() not in right]


def nearest_variable(name: str) -> str | None:
    """The variable that a misspelt one was meant to be, where one is near enough."""
    return next(iter(difflib.get_close_matches(name.upper(), sorted(_variables()), 1, 0.75)), None)


def _require_known_variables() -> None:
    """What was meant for one store must not go to another because a letter is missing."""
    groups = tuple(f"{ENV_PREFIX}{group}__".upper() for group in Settings.model_fields)
    for name in unknown_variables():
        if name.upper().startswith(groups):  # told with its group below
            continue
        if nearest := nearest_variable(name):
            raise InvalidSettings(
                f"{name} sets nothing; did you mean {nearest}? correct it or unset it"
            )


def _variables() -> set[str]:
    return {f"{ENV_PREFIX}{name}".replace(".", "__").upper() for name in _names()}


def _names() -> Iterator[str]:
    yield from (name for name, _ in _flat(Settings().model_dump()))


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


class _UniqueKeys(yaml.SafeLoader):
    """A key that stands twice is an error: which of its values was meant is not to be guessed."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                mark = key.start_mark
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value[:40]} stands there twice; take one out", mark
                )
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InvalidSettings(f"no settings file {str(path)!r}; see configs/ for examples")
    try:
        loader = _UniqueKeys(path.read_text(encoding="utf-8"))
        values = loader.get_single_data()
    except yaml.YAMLError as error:
        raise InvalidSettings(
            f"{path} is not a YAML mapping of settings: {_yaml_problem(error)}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path} cannot be read: {type(error).__name__}") from None
    if values is not None and not isinstance(values, dict):
        raise InvalidSettings(f"{path} is not a YAML mapping of settings, got a {_kind(values)}")
    return values or {}


def _yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the text that stands there."""
    problem = _QUOTED.sub("...", getattr(error, "problem", None) or "it does not read")
    mark = getattr(error, "problem_mark", None)
    return problem if mark is None else f"{problem} (line {mark.line + 1})"


def _kind(value: object) -> str:
    return "list" if isinstance(value, list) else "single value"


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was not given."""
    kept = {
        key: _given(value) if isinstance(value, Mapping) and key not in WHOLE else value
        for key, value in values.items()
        if value is not None
    }
    return {key: value for key, value in kept.items() if value != {}}


def _merged(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = _merged([result[key], value]) if both else value
    return result


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and key not in WHOLE:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _has(values: Any, name: str) -> bool:
    for key in name.split("."):
        if isinstance(values, list):  # `streams.0.fps`
            values = dict(zip(map(str, range(len(values))), values, strict=True))
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_shown(one) for one in value]
    if isinstance(value, dict):
        return {key: _shown(one) for key, one in value.items()}
    return redact_url(value) if isinstance(value, str) else value


def _nearest_name(place: Sequence[str | int]) -> str | None:
    """The setting that may have been meant; within the one of a list that holds the place."""
    if len(place) > 2 and place[0] == "streams":
        *entry, name = map(str, place)
        nearest = difflib.get_close_matches(name, list(StreamSettings.model_fields), 1)
        return ".".join([*entry, *nearest]) if nearest else None
    nearest = difflib.get_close_matches(".".join(map(str, place)), list(_names()), 1)
    return nearest[0] if nearest else None


def _explained(error: ValidationError, layers: Mapping[str, Any]) -> str:
    return "; ".join(_explained_one(dict(problem), layers) for problem in error.errors())


def _explained_one(problem: Mapping[str, Any], layers: Mapping[str, Any]) -> str:
    name = ".".join(map(str, problem["loc"]))
    origins = [origin for origin, values in layers.items() if _has(values, name)]
    where = f" (from {origins[-1]})" if origins else ""
    if problem["type"] == "extra_forbidden":  # whatever it holds, it may be a secret
        nearest = _nearest_name(problem["loc"])
        hint = f", or did you mean {nearest}?" if nearest else ""
        return f"{name}{where}: no such setting; see `aot config` for all of them{hint}"
    text = str(problem["msg"]).removeprefix("Value error, ")
    if "." not in name or "password" in name:  # a whole group, or what must not be shown
        return f"{name}{where}: {text}"
    given = problem["input"]
    shown = redact_url(given) if isinstance(given, str) else redact_text(repr(given))
    return (
        f"{name}{where}: {text}, got {shown!r}"
        if isinstance(given, str)
        else (f"{name}{where}: {text}, got {shown}")
    )
