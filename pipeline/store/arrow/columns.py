"""The columns of a record as numpy arrays, and what makes them wrong.

bf16 tokens are kept as their bits. int8 tokens have one scale per token, and where a token has
several parts one for each, since these differ in size. Nothing here knows of
Arrow or of tensors.
"""

from collections.abc import Iterable

import numpy as np

from pipeline.store.metadata import ClipMetadata

NUM_KINDS = 3
"""Of `aot.TokenKind`."""

SCALE = "scale"
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_INFINITE_F32 = 0x7F800000

Columns = dict[str, np.ndarray]
"""Name to values: `token` is [m d], the others [m]."""


def scale_names(num_scales: int) -> tuple[str, ...]:
    """Columns of the scales of int8 tokens."""
    return tuple(f"{SCALE}_{part}" if part else SCALE for part in range(num_scales))


def count_scales(names: Iterable[str]) -> int:
    """How many of the columns are scales."""
    return sum(name.startswith(SCALE) for name in names)


def problem_of(columns: Columns, metadata: ClipMetadata) -> str | None:
    """What is wrong with the values, if anything; the same rule for writing and for reading."""
    rows, grid_columns = metadata.grid
    limits = {"frame": len(metadata.pts_s), "cell": rows * grid_columns, "kind": NUM_KINDS}
    for name, limit in limits.items():
        column = columns[name]
        if _largest(column) >= limit:
            return f"{name} runs from {column.min()} to {column.max()}, expected 0 to {limit - 1}"
    for name, column in columns.items():
        is_measure = name == "mass" or name.startswith(SCALE)
        if is_measure and _largest(column) >= _INFINITE_F32:
            return f"{name} holds a negative value, NaN or infinity"
    parts, width = metadata.layout.parts, columns["token"].shape[1]
    if parts and sum(parts) != width:
        return f"tokens are {width} wide, expected {sum(parts)} for parts {parts}"
    num_scales = max(1, len(parts)) if metadata.dtype == "int8" else 0
    if count_scales(columns) != num_scales:
        return f"got {count_scales(columns)} scales, expected {num_scales}"
    if metadata.dtype == "bf16" and not _is_finite_bf16(columns["token"]):
        return "tokens hold NaN or infinity; expected finite features"
    return None


def _largest(column: np.ndarray) -> int:
    """The largest bit pattern, read as unsigned; -1 of nothing.

    Negative integers, negative floats, infinities and NaN all lie above what is allowed, so that
    one pass tells what two would: every read pays for it.
    """
    if not column.size:
        return -1
    return int(np.maximum.reduce(column.view(_UNSIGNED[column.dtype.itemsize])))


def _is_finite_bf16(bits: np.ndarray) -> bool:
    """No exponent of all ones; two reductions instead of a mask keep this at 8 us for 450 kB."""
    if not bits.size:
        return True
    flat = bits.reshape(-1)
    largest, signed = np.maximum.reduce(flat), np.maximum.reduce(flat.view(np.int16))
    return bool(largest < 0xFF80 and signed < 0x7F80)
