"""Tensors to columns and back: the only place of the pipeline where stored bytes become tensors."""

import numpy as np
import torch

from aot import ClipTokens
from pipeline.store.arrow.columns import Columns, scale_names
from pipeline.store.config import TokenDtype
from pipeline.store.metadata import ClipMetadata
from pipeline.values.errors import InvalidRecord


def to_columns(tokens: ClipTokens, dtype: TokenDtype, parts: tuple[int, ...] = ()) -> Columns:
    """Values as they are stored; bf16 bits as uint16, int8 with a scale for each of the parts."""
    values = tokens.tokens.detach().cpu()
    columns: Columns = {}
    if dtype == "bf16":
        bits = values.to(torch.bfloat16).contiguous().view(torch.int16)
        columns["token"] = bits.numpy().view(np.uint16)
    else:
        pieces = [_quantise(part) for part in _split(values.to(torch.float32).numpy(), parts)]
        columns["token"] = np.concatenate([steps for steps, _ in pieces], axis=1)
        names = scale_names(len(pieces))
        columns |= {name: scale for name, (_, scale) in zip(names, pieces, strict=True)}
    for name, to in (("frame", np.int16), ("cell", np.int16), ("kind", np.uint8)):
        column = getattr(tokens, name).detach().cpu().numpy()
        columns[name] = column.astype(to)
        if not np.array_equal(columns[name], column):
            raise InvalidRecord(f"{name} holds values outside {np.dtype(to).name}")
    columns["mass"] = tokens.mass.detach().cpu().to(torch.float32).numpy()
    return columns


def _split(values: np.ndarray, parts: tuple[int, ...]) -> list[np.ndarray]:
    return np.split(values, np.cumsum(parts)[:-1], axis=1) if parts else [values]


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
        pieces = _split(token, metadata.layout.parts)
        scales = (columns[name][:, None] for name in scale_names(len(pieces)))
        scaled = [steps * scale for steps, scale in zip(pieces, scales, strict=True)]
        tokens = torch.from_numpy(np.concatenate(scaled, axis=1))
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
