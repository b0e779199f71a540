"""Counts what a call would have an accelerator do, on any device.

A `TorchDispatchMode` sees every operator below autograd. Those that start a kernel on a card are
launches (at least one each); those that read the card's memory on the host, allocate by a value of
it or copy to it from pageable memory are waits. What runs on the device `meta` cannot have read a
value at all.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from aot import matching, transport
from aot.reducers import cells, fused_scan

NO_KERNEL = {
    "view", "_unsafe_view", "view_as", "_reshape_alias", "expand", "slice", "select", "transpose",
    "t", "permute", "unsqueeze", "squeeze", "unbind", "unfold", "split", "split_with_sizes",
    "chunk", "diagonal", "as_strided", "detach", "alias", "lift_fresh", "empty", "empty_like",
    "empty_strided", "new_empty", "new_empty_strided", "is_same_size", "sym_size", "prim_device",
}  # fmt: skip
READ = {
    "_local_scalar_dense", "item", "nonzero", "argwhere", "masked_select", "equal", "is_nonzero",
    "allclose", "unique_dim", "unique_consecutive", "_unique2", "bincount", "histc",
    "_linalg_check_errors",
}  # fmt: skip
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class LaunchCounter(TorchDispatchMode):
    """Counts while it is entered; `waits` and `by_operator` tell of which kind."""

    def __init__(self) -> None:
        super().__init__()
        self.by_operator: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    @property
    def launches(self) -> int:
        return self.by_operator.total()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        result = func(*args, **kwargs)
        if name not in NO_KERNEL:
            self.by_operator[name] += 1
        if _waits(name, args, kwargs, result):
            self.waits[name] += 1
        return result


def count_launches(call: Callable[[], Any]) -> LaunchCounter:
    """Of a second call: the first makes the tables that are kept."""
    with torch.no_grad():
        call()
        with LaunchCounter() as counter:
            call()
    return counter


def turn_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operator as on an accelerator without Triton."""
    for module in (cells, fused_scan, matching, transport):
        monkeypatch.setattr(module, "runs_kernels", lambda device: False)


def _waits(name: str, args: tuple, kwargs: dict, result: Any) -> bool:
    if name in READ:
        return True
    if name in INDEXED:
        masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
        fills = name.startswith(("index_put", "_index_put")) and args[2].numel() == 1
        return bool(masks) and not (fills and len(masks) == 1)  # a fill is a masked_fill
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if name == "lift_fresh":
        return args[0].dim() > 0  # a list of the host's, on the way to the device
    return _crosses(args, result)


def _crosses(args: tuple, result: Any) -> bool:
    """Whether memory of the host and of a device meet; numbers that were wrapped do not count."""
    values = [*args, result] if isinstance(result, Tensor) else args
    devices = {value.device.type for value in values if isinstance(value, Tensor) and value.dim()}
    return len(devices) > 1
