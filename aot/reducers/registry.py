"""Reducers by name, and the constants each has."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from aot.compressor import ClipCompressor
from aot.config import AOTConfig
from aot.errors import InvalidConfig
from aot.reducers.adaptive import make_adaptive
from aot.reducers.peers import PEERS
from aot.reducers.rule import AdaptiveRule
from aot.reducers.simple import make_none, make_random, make_uniform
from aot.seam import Reducer
from aot.types import Grid


def _aot(retention: float, config: AOTConfig, seed: int = 0) -> Reducer:
    return ClipCompressor(config)


REDUCERS: dict[str, Callable[..., Reducer]] = {
    "aot": _aot,
    "none": make_none,
    "uniform": make_uniform,
    "random": make_random,
    "adaptive": make_adaptive,
    **PEERS,
}
"""All reducers by name: `aot` the method, `adaptive` the project's own in the same frame, `none`
keeps all, `uniform` every k-th cell, `random`, and the published peers of `aot.reducers.peers`.
Called with (retention, config, seed, **the reducer's own constants)."""


def make_reducer(
    name: str,
    retention: float = 0.10,
    *,
    grid: Grid = (27, 27),
    seed: int = 0,
    config: AOTConfig | None = None,
    **constants: Any,
) -> Reducer:
    """The reducer called `name`, set for `retention` of the pooled tokens of `grid`.

    `constants` are the reducer's own (fields of `AdaptiveRule`, keyword arguments of a peer) and
    fields of `AOTConfig`; one that both have is the reducer's. A whole `config` takes the place of
    the retention's and of the latter.

    Raises:
        InvalidConfig: no such reducer, or a constant that it has not or that cannot be.
    """
    check_constants(name, constants, config_given=config is not None)
    own = {key: value for key, value in constants.items() if key in own_constants(name)}
    rest = {key: value for key, value in constants.items() if key not in own}
    chosen = config or AOTConfig.for_retention(retention, grid=grid, **rest)
    return REDUCERS[name](retention, chosen, seed, **own)


def own_constants(name: str) -> tuple[str, ...]:
    """Constants of a reducer beside those of `AOTConfig`.

    Raises:
        InvalidConfig: no such reducer.
    """
    if name not in REDUCERS:
        raise InvalidConfig(f"no reducer {name!r}; choose one of {', '.join(sorted(REDUCERS))}")
    if name == "adaptive":
        return tuple(constant.name for constant in fields(AdaptiveRule))
    given = inspect.signature(REDUCERS[name]).parameters.values()
    return tuple(each.name for each in given if each.kind is inspect.Parameter.KEYWORD_ONLY)


def check_constants(name: str, constants: Mapping[str, Any], *, config_given: bool = False) -> None:
    """Whether the reducer called `name` has all these constants; their values are not looked at.

    Raises:
        InvalidConfig: no such reducer, or a constant that it has not; names those it has.
    """
    own = own_constants(name)
    shared = () if config_given else tuple(constant.name for constant in fields(AOTConfig))
    unknown = sorted(set(constants) - set(own) - set(shared))
    if unknown:
        known = ", ".join(sorted({*own, *shared})) or "none beside the config"
        raise InvalidConfig(
            f"reducer {name} has no constant {unknown[0]!r}; it has: {known}; correct the name"
        )
