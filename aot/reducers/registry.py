"""Reducers by name."""

from collections.abc import Callable

from aot.compressor import ClipCompressor
from aot.config import AOTConfig
from aot.errors import InvalidConfig
from aot.reducers.adaptive import make_adaptive
from aot.reducers.peers import PEERS
from aot.reducers.simple import make_none, make_random, make_uniform
from aot.seam import Reducer
from aot.types import Grid


def _aot(retention: float, config: AOTConfig, seed: int) -> Reducer:
    return ClipCompressor(config)


REDUCERS: dict[str, Callable[[float, AOTConfig, int], Reducer]] = {
    "aot": _aot,
    "none": make_none,
    "uniform": make_uniform,
    "random": make_random,
    "adaptive": make_adaptive,
    **PEERS,
}
"""All reducers by name: `aot` the method, `adaptive` the project's own in the same frame, `none`
keeps all, `uniform` every k-th cell, `random`, and the published peers of `aot.reducers.peers`."""


def make_reducer(
    name: str,
    retention: float = 0.10,
    *,
    grid: Grid = (27, 27),
    seed: int = 0,
    config: AOTConfig | None = None,
    **constants,
) -> Reducer:
    """The reducer called `name`, set for `retention` of the pooled tokens of `grid`.

    `constants` are fields of `AOTConfig`; a whole `config` takes the place of both.

    Raises:
        InvalidConfig: no such reducer, or a constant that cannot be.
    """
    if name not in REDUCERS:
        raise InvalidConfig(f"no reducer {name!r}; choose one of {', '.join(sorted(REDUCERS))}")
    chosen = config or AOTConfig.for_retention(retention, grid=grid, **constants)
    return REDUCERS[name](retention, chosen, seed)
