"""Which of a frame's tokens lie below a quantile: one program a clip, no sort.

The twin is `aot.matching.find_thinnest`. Needs Triton.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_NUM_TOKENS = 4096
"""Every token is compared with every other, and a program holds them all."""
_ENTRIES = 4096
"""Comparisons made at once."""


@triton.jit
@no_type_check  # what checks shapes in the tests would hide the source from Triton
def _rank(value, values, sources, place, num_tokens, BLOCK: tl.constexpr):
    """How many values are lower, or as high and come before."""
    rank = place * 0
    for start in range(0, num_tokens, BLOCK):
        at = start + tl.arange(0, BLOCK)
        there = at < num_tokens
        other = tl.load(values + at, mask=there, other=float("inf"))
        is_source = tl.load(sources + at, mask=there, other=0) != 0
        other = tl.where(is_source, other, float("inf"))[None, :]
        lower = other < value[:, None]
        before = (other == value[:, None]) & (at[None, :] < place[:, None])
        rank += tl.sum((there[None, :] & (lower | before)).to(tl.int32), 1)
    return rank


@triton.jit
@no_type_check
def _find_thinnest(
    best,
    sources,
    edges,
    between,
    distinct,
    sources_stride,
    edges_stride,
    between_stride,
    num_tokens,
    tie,
    LANES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One clip: the values at two ranks, the quantile between them, what is below it."""
    clip = tl.program_id(0).to(tl.int64)
    best += clip * num_tokens
    sources += clip * sources_stride
    edges += clip * edges_stride
    place = tl.arange(0, LANES)
    there = place < num_tokens
    is_source = tl.load(sources + place, mask=there, other=0) != 0
    value = tl.load(best + place, mask=there, other=0.0)
    value = tl.where(is_source, value, float("inf"))
    rank = _rank(value, best, sources, place, num_tokens, BLOCK)
    below = tl.sum(tl.where(rank == tl.load(edges), value, 0.0))
    above = tl.sum(tl.where(rank == tl.load(edges + 1), value, 0.0))
    far = tl.load(between + clip * between_stride)
    quantile = tl.where(
        far < 0.5, below + far * (above - below), above - (above - below) * (1 - far)
    )
    # Not times one less a tie: numbers come to a kernel in float32, in which that is one.
    is_below = is_source & (value < quantile - quantile * tie)
    tl.store(distinct + clip * num_tokens + place, is_below.to(tl.int8), mask=there)


@torch.library.custom_op("aot::find_thinnest", mutates_args=())
def find_thinnest(
    best: Tensor, sources: Tensor, edges: Tensor, between: Tensor, tie: float
) -> Tensor:
    """Marks `[c k]` of the sources whose `best[c k]` is below the quantile by more than `tie`.

    `sources[c k]` and `edges[c 2]` at any distance from clip to clip, as `between[c]`.
    """
    distinct = _allocate(best, sources, edges, between, tie)
    clips, num_tokens = best.shape
    lanes = triton.next_power_of_2(num_tokens)
    launch: Any = _find_thinnest[(clips,)]
    launch(
        best.contiguous(), sources.view(torch.uint8), edges, between, distinct.view(torch.uint8),
        sources.stride(0), edges.stride(0), between.stride(0), num_tokens, tie,
        LANES=lanes, BLOCK=max(1, _ENTRIES // lanes), num_warps=8,
    )  # fmt: skip
    return distinct


@find_thinnest.register_fake
def _allocate(best: Tensor, sources: Tensor, edges: Tensor, between: Tensor, tie: float) -> Tensor:
    return torch.empty(best.shape, dtype=torch.bool, device=best.device)
