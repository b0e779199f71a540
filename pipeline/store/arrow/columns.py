"""The columns of a record as numpy arrays: from tensors, to tensors, and what makes them wrong.

bf16 tokens are kept as their bits. int8 tokens have one scale per token. Nothing here knows of
Arrow.
"""

from typing import Literal

import numpy as np
import torch

from aot import ClipTokens, TokenKind
from pipeline.errors import InvalidRecord
from pipeline.store.metadata import ClipMetadata

TokenDtype = Literal["bf16", "int8"]

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_INFINITE_F32 = 0x7F800000

Columns = dict[str, np.ndarray]
"""Name to values: `token` is [m d], the others [m]."""


def to_columns(tokens: ClipTokens, dtype: TokenDtype) -> Columns:
    """Values as they are stored; bf16 bits as uint16."""
    values = tokens.tokens.detach().cpu()
    columns: Columns = {}
    if dtype == "bf16":
        bits = values.to(torch.bfloat16).contiguous().view(torch.int16)
        columns["token"] = bits.numpy().view(np.uint16)
    else:
        columns["token"], columns["scale"] = _quantise(values.to(torch.float32).numpy())
    for name, to in (("frame", np.int16), ("cell", np.int16), ("kind", np.uint8)):
        column = getattr(tokens, name).detach().cpu().numpy()
        columns[name] = column.astype(to)
        if not np.array_equal(columns[name], column):
            raise InvalidRecord(f"{name} holds values outside {np.dtype(to).name}")
    columns["mass"] = tokens.mass.detach().cpu().to(torch.float32).numpy()
    return columns


def _quantise(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 [m d] and the scale of each row; a row of zeros has scale 0."""
    scale = np.abs(values).max(axis=1, initial=0.0) / np.float32(127)
    if not np.isfinite(scale).all():
        raise InvalidRecord("tokens hold NaN or infinity; expected finite features")
    steps = values / np.where(scale > 0, scale, 1)[:, None]
    return np.rint(steps).clip(-127, 127).astype(np.int8), scale.astype(np.float32)


def to_tokens(columns: Columns, metadata: ClipMetadata) -> ClipTokens:
    """The tensors.

    bf16 tokens share the column's memory where it may be written, which means that nobody else has
    it; all else is a copy.
    """
    token = columns["token"]
    if metadata.dtype != "bf16":
        tokens = torch.from_numpy(token * columns["scale"][:, None])
    else:
        is_ours = token.flags.writeable and token.flags.aligned
        tokens = torch.from_numpy(token if is_ours else token.copy()).view(torch.bfloat16)
    return ClipTokens(
        tokens=tokens,
        frame=torch.from_numpy(columns["frame"].astype(np.int64)),
        cell=torch.from_numpy(columns["cell"].astype(np.int64)),
        mass=torch.from_numpy(columns["mass"].copy()),
        kind=torch.from_numpy(columns["kind"].copy()),
        grid=metadata.grid,
    )


def problem_of(columns: Columns, metadata: ClipMetadata) -> str | None:
    """What is wrong with the values, if anything; the same rule for writing and for reading."""
    rows, grid_columns = metadata.grid
    limits = {"frame": len(metadata.pts_s), "cell": rows * grid_columns, "kind": len(TokenKind)}
    for name, limit in limits.items():
        column = columns[name]
        if _largest(column) >= limit:
            return f"{name} runs from {column.min()} to {column.max()}, expected 0 to {limit - 1}"
    for name in ("mass", "scale"):
        if name in columns and _largest(columns[name]) >= _INFINITE_F32:
            return f"{name} holds a negative value, NaN or infinity"
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
