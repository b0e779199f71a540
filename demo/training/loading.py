"""Work done ahead by other processes: what a step trains on is drawn while the last one runs.

An accelerator takes a step in the time in which one core draws a few videos.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")

PATIENCE_S = 900.0
"""How long the next result is waited for: a shard of scenes may have to be made first."""
AHEAD = 2
"""Results that a process has ready at most."""


def map_ahead(
    function: Callable[[int], T], numbers: Sequence[int], processes: int
) -> Iterator[tuple[int, T]]:
    """Every number with `function` of it, in order.

    `processes` work ahead; without any it is done here, each when it is asked for.

    Raises:
        RuntimeError: a process died, or a result took longer than `PATIENCE_S`.
    """
    if not processes:
        yield from ((number, function(number)) for number in numbers)
        return
    results = DataLoader(
        _Mapped(function, numbers),
        batch_size=None,
        num_workers=processes,
        collate_fn=_as_it_is,
        prefetch_factor=AHEAD,
        timeout=PATIENCE_S,
        multiprocessing_context="fork",  # what is mapped holds a model: nothing to be sent over
    )
    yield from zip(numbers, results, strict=True)


def send(value: Any, device: torch.device) -> Any:
    """`value` with every tensor in it, in dictionaries and tuples too, on the device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: send(part, device) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(send(part, device) for part in value)
    return value


class _Mapped(Dataset):
    """A function of numbers as what a `DataLoader` reads."""

    def __init__(self, function: Callable[[int], Any], numbers: Sequence[int]) -> None:
        self.function, self.numbers = function, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Any:
        return self.function(self.numbers[index])


def _as_it_is(value: Any) -> Any:
    """Results are handed on unchanged; the loader would take tuples apart."""
    return value
