"""A clip on the pooled grid, where all reducers but the reference work, and what is kept of it.

`FrameFeatures` in, `CellFeatures` out: tokens and attention after the model's own pooling. Kept
tokens go back as `ClipTokens`. Also the one place where a retention becomes a number of tokens.
Knows no method.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.config import AOTConfig
from aot.errors import InvalidFeatures
from aot.kernels import runs_kernels
from aot.packing import exact_dtype
from aot.pooling import pool_grid, pooled_grid
from aot.types import ClipTokens, FeatureBatch, FrameFeatures, Grid, TokenKind

NORM_FLOOR = 1e-8
"""Lengths are floored here before they divide."""
_LEAST = 1e-30
"""Of a score, and of what one leaves of another, so that logarithms are finite."""
_TAKEN = -1e30
"""Logarithm of the score of what is chosen: below all that others can come to."""
UNLIKE = 0.5
"""Cosine up to which two tokens of a frame have nothing in common: background has about as much
with anything."""
ROUNDS = 8
"""In which unlike tokens are chosen: few tokens one by one, many in as many groups."""


@dataclass(frozen=True)
class CellFeatures:
    """Frames after pooling; `p` cells in raster order."""

    tokens: Float[Tensor, "t p d"]
    """float32 or better."""
    attention: Float[Tensor, "t p"]
    """Attention received in the deep layer; about one on average."""
    local_attention: Float[Tensor, "t p"]
    """The same in the shallow layer."""
    grid: Grid
    dtype: torch.dtype
    """Of the features, and so of what is kept."""

    def unit(self) -> Float[Tensor, "t p d"]:
        """Tokens of length one."""
        return normalise(self.tokens)


@dataclass(frozen=True)
class Kept:
    """Tokens a method keeps, in any order; `frame` counts from the first frame passed in."""

    tokens: Float[Tensor, "m d"]
    frame: Int[Tensor, " m"]
    cell: Int[Tensor, " m"]
    mass: Float[Tensor, " m"]


def normalise(tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """Tokens of length one; zero stays zero."""
    norm = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    return tokens / norm.clamp(min=NORM_FLOOR)


def pool_features(features: FrameFeatures, config: AOTConfig) -> CellFeatures:
    """The model's own pooling of tokens and attention, in float32 or better.

    Raises:
        InvalidFeatures: no frames, NaN or infinity.
    """
    if not features.tokens.shape[0]:
        raise InvalidFeatures("a clip without frames has nothing to push; leave it out")
    exact = torch.float64 if features.tokens.dtype == torch.float64 else torch.float32
    mode, stride = config.pooling, config.pool_stride
    maps = torch.stack([features.global_attention, features.local_attention], dim=2).to(exact)
    tokens = pool_grid(features.tokens.to(exact), features.grid, mode, stride=stride)
    attention = pool_grid(maps, features.grid, mode, stride=stride)
    for name, values in (("tokens", tokens), ("attention", attention)):
        if not bool(torch.isfinite(values).all()):
            raise InvalidFeatures(
                f"{name} of a clip hold NaN or infinity; check the vision tower's output"
            )
    return CellFeatures(
        tokens,
        attention[:, :, 0],
        attention[:, :, 1],
        pooled_grid(features.grid, mode, stride=stride),
        features.tokens.dtype,
    )


def part_lengths(
    tokens: Float[Tensor, "*b d"],
) -> tuple[Float[Tensor, "*b d"], Float[Tensor, "*b"]]:
    """`normalise`, and the lengths; neither finite where a token is not."""
    if _fits_kernels(tokens):
        from aot.kernels import lengths  # Triton is there now

        return lengths.part_lengths(tokens.contiguous(), NORM_FLOOR)
    length = torch.linalg.vector_norm(tokens, dim=-1)
    return tokens / length.clamp(min=NORM_FLOOR)[..., None], length


def scale_tokens(
    tokens: Float[Tensor, "*b d"], factor: Float[Tensor, "*b"]
) -> Float[Tensor, "*b d"]:
    """Each token times its factor."""
    if _fits_kernels(tokens):
        from aot.kernels import lengths

        return lengths.scale_tokens(tokens.contiguous(), factor.contiguous())
    return tokens * factor[..., None]


def _fits_kernels(tokens: Tensor) -> bool:
    """Plain torch goes over tokens several times, or by a kernel that finds each place anew."""
    return tokens.dtype == torch.float32 and runs_kernels(tokens.device)


@dataclass(frozen=True)
class CellBatch:
    """Frames of clips side by side after pooling; `p` cells in raster order."""

    tokens: Float[Tensor, "c t p d"]
    """float32 or better, unless they were to keep their dtype."""
    attention: Float[Tensor, "c t p"]
    """Attention received in the deep layer; about one on average."""
    local_attention: Float[Tensor, "c t p"]
    """The same in the shallow layer."""
    grid: Grid


def pool_batch(batch: FeatureBatch, config: AOTConfig, *, exact: bool = True) -> CellBatch:
    """The model's own pooling of tokens and attention, in float32 or better.

    `exact` off pools tokens in their own dtype, as a model does that keeps all of them.
    """
    mode, stride = config.pooling, config.pool_stride
    clips, frames = batch.tokens.shape[:2]
    wide = exact_dtype(batch.tokens.dtype)
    maps = torch.stack([batch.global_attention, batch.local_attention], dim=3).flatten(0, 1)
    tokens = batch.tokens.flatten(0, 1)
    if exact and mode == "bilinear" and wide == torch.float32 and runs_kernels(tokens.device):
        maps, tokens = (_pool_at_once(values, batch.grid, stride) for values in (maps, tokens))
    else:
        maps = pool_grid(maps.to(wide), batch.grid, mode, stride=stride)
        tokens = pool_grid(tokens.to(wide) if exact else tokens, batch.grid, mode, stride=stride)
    return CellBatch(
        tokens.unflatten(0, (clips, frames)),
        maps[..., 0].unflatten(0, (clips, frames)),
        maps[..., 1].unflatten(0, (clips, frames)),
        pooled_grid(batch.grid, mode, stride=stride),
    )


def _pool_at_once(tokens: Float[Tensor, "t n d"], grid: Grid, stride: int) -> Tensor:
    """Bilinear pooling in one pass over the tokens, without a copy in float32."""
    from aot.kernels.pooling import pool_bilinear  # Triton is there now

    size = pooled_grid(grid, "bilinear", stride=stride)
    return pool_bilinear(tokens.contiguous(), *grid, *size)


def count_clip(retention: float, num_tokens: int) -> int:
    """Tokens to keep of a whole clip: the nearest number, at least one."""
    return min(num_tokens, max(1, round(retention * num_tokens)))


def count_frame(retention: float, num_cells: int, position: int) -> int:
    """Tokens to keep of the frame at `position`; over frames they add up to the retention.

    What rounding takes from one frame the next ones get, so that a clip of `t` frames keeps
    exactly `count_clip(retention, t * num_cells)`, as long as that is at least one a clip.
    """
    before, after = (count_clip_so_far(retention, num_cells, p) for p in (position, position + 1))
    return after - before


def count_clip_so_far(retention: float, num_cells: int, frames: int) -> int:
    """Tokens to keep of the first `frames` frames."""
    return count_clip(retention, frames * num_cells) if frames else 0


def space_out(length: int, count: int) -> Int[Tensor, " c"]:
    """`count` of `length` places, evenly spread."""
    places = torch.arange(count) * length + length // 2
    return places.div(max(count, 1), rounding_mode="floor")


def to_clip_tokens(kept: Kept, cells: CellFeatures) -> ClipTokens:
    """Kept tokens of a whole clip by frame, then cell; equal places keep their order."""
    order = torch.argsort(kept.frame * (cells.grid[0] * cells.grid[1]) + kept.cell, stable=True)
    frame = kept.frame[order]
    kind = torch.where(frame == 0, int(TokenKind.KEYFRAME), int(TokenKind.DISTINCT))
    return ClipTokens(
        tokens=kept.tokens[order].to(cells.dtype),
        frame=frame,
        cell=kept.cell[order],
        mass=kept.mass[order].float(),
        kind=kind.to(torch.uint8),
        grid=cells.grid,
    )


def highest(values: Float[Tensor, " n"], count: int) -> Int[Tensor, " k"]:
    """Indices of the `count` highest values, the lowest index first among equals, rising."""
    order = values.argsort(descending=True, stable=True)
    return order[:count].sort().values


@lru_cache(maxsize=32)
def count_up(count: int, device: torch.device) -> Int[Tensor, " n"]:
    """0, 1, and so on, made once. Never written to."""
    return torch.arange(count, device=device)


def choose_unlike(
    score: Float[Tensor, "c p"],
    left_over: Float[Tensor, "c p p"],
    count: Int[Tensor, " c"],
    spread: float,
) -> Bool[Tensor, "c p"]:
    """Mask of `count` high scores of each clip whose tokens are unlike each other.

    Every chosen token takes from the scores of those like it, and the highest of what is left is
    next. In at most `ROUNDS` rounds, so that many tokens take no longer than few, and in always as
    many, so that it is not for the host to ask. Sums of logarithms take the place of products: one
    product of a matrix and a mask applies all that a round's tokens take, and marks them as taken.

    Args:
        left_over: from `leave_over`.
    """
    rounds = ROUNDS if spread else 1
    size = (count + (rounds - 1)).div(rounds, rounding_mode="floor")[:, None]
    quota = torch.minimum(size, count[:, None] - count_up(rounds, count.device) * size)
    place = count_up(score.shape[1], count.device)
    wanted = (place < quota[..., None]).to(score.dtype).unbind(dim=1)
    left = score.clamp(min=_LEAST).log()[..., None]
    nothing = torch.zeros_like(score)
    for among in wanted:
        order = left[..., 0].sort(dim=1, descending=True, stable=True).indices
        left = torch.baddbmm(left, left_over, nothing.scatter(1, order, among)[..., None])
    return left[..., 0] < _TAKEN / 2


def leave_over(unit: Float[Tensor, "*c p d"], spread: float) -> Float[Tensor, "*c p p"]:
    """Logarithm of what a chosen token (column) leaves of another's score (row): nothing of its
    own.

    A chosen token takes `spread` times its likeness off the scores of the others, likeness being 0
    up to a cosine of `UNLIKE` and 1 for the same direction.
    """
    if not spread:
        left = unit.new_zeros(unit.shape[-2], unit.shape[-2]).expand(*unit.shape[:-1], -1).clone()
    else:
        like = ((unit @ unit.mT - UNLIKE) / (1 - UNLIKE)).clamp_(min=0, max=1)
        left = (1 - spread * like).clamp_(min=_LEAST).log_()
    left.diagonal(dim1=-2, dim2=-1).fill_(_TAKEN)
    return left
