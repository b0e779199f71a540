"""The matrices of a later frame's transport, each in one pass; float64.

`sharpen` makes the kernel that Sinkhorn scales, `give_shares` the plan of what it found. The twins
are `aot.matching.sharpen` and `give_shares`. Needs Triton.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

_LEAST = tl.constexpr(1e-30)


@triton.jit
@no_type_check  # what checks shapes in the tests would hide the source from Triton
def _sharpen(
    product,
    norm,
    anchor_norm,
    count,
    sharpness,
    similarity,
    nearest,
    kernel,
    norm_stride,
    sharpness_stride,
    num_tokens,
    num_anchors,
    LIMIT: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One token and all anchors."""
    token, clip = tl.program_id(0), tl.program_id(1)
    anchor = tl.arange(0, COLUMNS)
    there = anchor < num_anchors
    row = (clip.to(tl.int64) * num_tokens + token) * num_anchors + anchor
    cosine = tl.load(product + row, mask=there, other=0.0)
    cosine = cosine / tl.load(norm + clip * norm_stride + token)
    cosine = cosine / tl.load(anchor_norm + clip * num_anchors + anchor, mask=there, other=1.0)
    # Numbers alone come in float32.
    most = tl.full((COLUMNS,), LIMIT, tl.float64)
    cosine = tl.minimum(tl.maximum(cosine, -most), most)
    reachable = anchor < tl.maximum(tl.load(count + clip), 1)
    best = tl.max(tl.where(reachable, cosine, -1.0), 0)
    sharp = tl.load(sharpness + clip * sharpness_stride)
    entry = tl.where(reachable, tl.exp((cosine - best) * sharp), 0.0)
    tl.store(similarity + row, cosine, mask=there)
    tl.store(kernel + row, entry, mask=there)
    tl.store(nearest + clip * num_tokens + token, best)


@triton.jit
@no_type_check
def _give_shares(
    kernel, anchor_scaling, share, best, num_tokens, num_anchors, COLUMNS: tl.constexpr
):
    """One token and all anchors."""
    token, clip = tl.program_id(0), tl.program_id(1)
    anchor = tl.arange(0, COLUMNS)
    there = anchor < num_anchors
    row = (clip.to(tl.int64) * num_tokens + token) * num_anchors + anchor
    plan = tl.load(kernel + row, mask=there, other=0.0)
    plan *= tl.load(anchor_scaling + clip * num_anchors + anchor, mask=there, other=0.0)
    plan = plan / tl.maximum(tl.sum(plan, 0), _LEAST)
    tl.store(share + row, plan, mask=there)
    tl.store(best + clip * num_tokens + token, tl.max(plan, 0))


@torch.library.custom_op("aot::sharpen", mutates_args=())
def sharpen(
    product: Tensor,
    norm: Tensor,
    anchor_norm: Tensor,
    count: Tensor,
    sharpness: Tensor,
    limit: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines `[c k a]` of at most `limit`, each token's highest `[c k]`, the kernel.

    `product[c k a]`, `anchor_norm[c a]` and `count[c]` contiguous, `norm[c k]` and `sharpness[c]`
    at any distance from clip to clip.
    """
    results = _like(product)
    clips, num_tokens, num_anchors = product.shape
    columns = triton.next_power_of_2(num_anchors)
    launch: Any = _sharpen[(num_tokens, clips)]
    launch(
        product, norm, anchor_norm, count, sharpness, *results, norm.stride(0),
        sharpness.stride(0), num_tokens, num_anchors,
        LIMIT=limit, COLUMNS=columns, num_warps=max(1, min(8, columns // 128)),
    )  # fmt: skip
    return results


@torch.library.custom_op("aot::give_shares", mutates_args=())
def give_shares(kernel: Tensor, anchor_scaling: Tensor) -> tuple[Tensor, Tensor]:
    """Shares `[c k a]`, which add up to one over the anchors, and each token's largest `[c k]`."""
    share, best = _shares_like(kernel, anchor_scaling)
    clips, num_tokens, num_anchors = kernel.shape
    columns = triton.next_power_of_2(num_anchors)
    launch: Any = _give_shares[(num_tokens, clips)]
    launch(
        kernel, anchor_scaling, share, best, num_tokens, num_anchors,
        COLUMNS=columns, num_warps=max(1, min(8, columns // 128)),
    )  # fmt: skip
    return share, best


@sharpen.register_fake
def _(product, norm, anchor_norm, count, sharpness, limit) -> tuple[Tensor, Tensor, Tensor]:
    return _like(product)


@give_shares.register_fake
def _shares_like(kernel: Tensor, anchor_scaling: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(kernel), kernel.new_empty(kernel.shape[:2])


def _like(product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    similarity, kernel = torch.empty_like(product), torch.empty_like(product)
    return similarity, product.new_empty(product.shape[:2]), kernel
