"""Tensors of any shapes and dtypes as one run of bytes: one copy between host and device, not many.

Columns lie in falling order of their items' sizes, so that each begins where its dtype may.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

Layout = tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]
"""Name, dtype and shape of the columns, in the order of their bytes."""


@dataclass(frozen=True)
class Parcel:
    """Columns by name, as bytes on some device."""

    data: UInt8[Tensor, " b"]
    layout: Layout

    @property
    def columns(self) -> dict[str, Tensor]:
        """Views of the bytes."""
        sizes = [_size_bytes(dtype, shape) for _, dtype, shape in self.layout]
        runs = self.data.split(sizes)
        return {
            name: run.view(dtype).view(shape)
            for run, (name, dtype, shape) in zip(runs, self.layout, strict=True)
        }

    def moved(self, data: UInt8[Tensor, " b"]) -> "Parcel":
        """The same columns in other memory that holds the same bytes."""
        return replace(self, data=data)

    def __repr__(self) -> str:
        return f"Parcel({', '.join(f'{name}={shape}' for name, _, shape in self.layout)})"


def pack(columns: Mapping[str, Tensor]) -> Parcel:
    """Columns of one device as a parcel on it; in one launch, where they are contiguous."""
    ordered = sorted(columns.items(), key=lambda item: -item[1].element_size())
    data = torch.cat([as_bytes(column) for _, column in ordered])
    return Parcel(data, tuple((name, x.dtype, tuple(x.shape)) for name, x in ordered))


def pack_on_host(
    columns: Mapping[str, Sequence[np.ndarray | Tensor]], *, pinned: bool = False
) -> Parcel:
    """Columns of the host, each in parts that follow one another along the first axis.

    Copied once; `pinned` puts them where an accelerator fetches them while the host goes on.
    """
    first = {name: _as_tensor_like(parts[0]) for name, parts in columns.items()}
    names = sorted(columns, key=lambda name: -first[name].element_size())
    layout = []
    for name in names:
        rows = sum(part.shape[0] for part in columns[name])
        layout.append((name, first[name].dtype, (rows, *first[name].shape[1:])))
    size_bytes = sum(_size_bytes(dtype, shape) for _, dtype, shape in layout)
    data = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=pinned)
    target, start = data.numpy(), 0
    for part in (part for name in names for part in columns[name]):
        source = _host_bytes(part)
        target[start : start + len(source)] = source
        start += len(source)
    return Parcel(data, tuple(layout))


def as_bytes(column: Tensor) -> UInt8[Tensor, " b"]:
    """The bytes of a tensor, without a copy where it is contiguous."""
    return column.contiguous().view(-1).view(torch.uint8)


def _as_tensor_like(part: np.ndarray | Tensor) -> Tensor:
    """Dtype and shape alone; memory of others may be read-only, of which torch makes no tensor."""
    if isinstance(part, Tensor):
        return part
    dtype = torch.from_numpy(np.empty(0, part.dtype)).dtype
    return torch.empty(part.shape, dtype=dtype, device="meta")


def _host_bytes(part: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(part, Tensor):
        return as_bytes(part.detach()).numpy()
    return np.ascontiguousarray(part).reshape(-1).view(np.uint8)


def _size_bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return prod(shape) * dtype.itemsize
