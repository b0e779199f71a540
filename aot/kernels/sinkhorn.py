"""Sinkhorn's scaling as one launch: one program an element of the batch, which stops by itself.

The twin is `aot.transport.scale_kernel`. Needs Triton.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_NUM_ANCHORS = 4096
"""Anchors are held in registers, a row of the kernel at once."""
_TILE_BYTES = 16384
"""Of the kernel, worked on at once: 32 rows of 128 anchors in float32, in registers."""
#: As in the twin: denominators that no source reaches, and exponents that stay finite.
_FLOOR, _LARGEST_SHIFT = tl.constexpr(1e-30), tl.constexpr(80.0)


@triton.jit
@no_type_check  # what checks shapes in the tests would hide the source from Triton
def _scale(
    kernel,
    shift,
    source_marginal,
    anchor_marginal,
    source_scaling,
    anchor_scaling,
    iterations,
    element_stride,
    source_stride,
    anchor_stride,
    marginal_stride,
    num_sources,
    num_anchors,
    max_iterations,
    tolerance,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """`r = u / (K c)`, then `c = v / (K^T r)`, until the mean change of `r` is below `tolerance`.

    `K` is read once an iteration: a tile of its rows gives their part of `r`, and with it at once
    their part of `K^T r`. The `r` of the iteration before is made anew from the `c` before, on the
    same tile, so that nothing passes between iterations but two rows of anchors in registers.
    """
    element = tl.program_id(0)
    kernel += element.to(tl.int64) * element_stride
    shift += element * num_sources
    source_marginal += element.to(tl.int64) * marginal_stride
    source_scaling += element * num_sources
    column = tl.arange(0, COLUMNS)
    is_anchor = column < num_anchors
    v = tl.load(anchor_marginal + element * num_anchors + column, mask=is_anchor, other=0.0)
    zero = v * 0.0

    present = tl.sum(zero)
    for start in range(0, num_sources, ROWS):
        row = start + tl.arange(0, ROWS)
        u = tl.load(source_marginal + row, mask=row < num_sources, other=0.0)
        present += tl.sum((u > 0).to(u.dtype))
    unit = 1.0 / tl.maximum(present, 1.0)

    # Two values, not one with two names: Triton would take `before` for constant in the loop.
    c, before = zero + 1.0, zero + 1.0
    done = 0
    active = done < max_iterations
    while active:
        sums, change = zero, tl.sum(zero)
        for start in range(0, num_sources, ROWS):
            row = start + tl.arange(0, ROWS)
            inside = row < num_sources
            tile = tl.load(
                kernel + row[:, None] * source_stride + column[None, :] * anchor_stride,
                mask=inside[:, None] & is_anchor[None, :],
                other=0.0,
            )
            u = tl.load(source_marginal + row, mask=inside, other=0.0)
            lift = tl.load(shift + row, mask=inside, other=0.0)
            r = u / tl.maximum(tl.sum(tile * c[None, :], 1), _FLOOR)
            earlier = u / tl.maximum(tl.sum(tile * before[None, :], 1), _FLOOR)
            weight = tl.where(u > 0, unit * tl.exp(tl.minimum(lift, _LARGEST_SHIFT)), 0.0)
            # Unshifted, as the reference has them; they start at one.
            earlier = tl.where(done == 0, tl.where(u > 0, unit, 0.0), earlier * weight)
            change += tl.sum(tl.abs(r * weight - earlier))
            sums += tl.sum(tile * r[:, None], 0)
            tl.store(source_scaling + row, r, mask=inside)
        before = c
        c = v / tl.maximum(sums, _FLOOR)
        done += 1
        active = (change >= tolerance) & (done < max_iterations)
    tl.store(anchor_scaling + element * num_anchors + column, c, mask=is_anchor)
    tl.store(iterations + element, done)


@torch.library.custom_op("aot::scale_kernel", mutates_args=())
def scale_kernel(
    kernel: Tensor,
    shift: Tensor,
    source_marginal: Tensor,
    anchor_marginal: Tensor,
    max_iterations: int,
    tolerance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The scalings `[b s]` and `[b a]` and each element's iterations `[b]`; see the twin.

    Any strides of `kernel`, contiguous rows of `source_marginal`, the rest contiguous; float32 or
    float64, at most `LARGEST_NUM_ANCHORS` anchors, at least one iteration.
    """
    results = _allocate(kernel, source_marginal, anchor_marginal)
    batch, num_sources, num_anchors = kernel.shape
    columns = max(16, 1 << (num_anchors - 1).bit_length())
    launch: Any = _scale[(batch,)]
    launch(
        kernel,
        shift,
        source_marginal,
        anchor_marginal,
        *results,
        *kernel.stride(),
        source_marginal.stride(0),
        num_sources,
        num_anchors,
        max_iterations,
        tolerance,
        ROWS=rows_at_once(columns, kernel.element_size()),
        COLUMNS=columns,
        num_warps=8 if kernel.element_size() > 4 else 4,
    )
    return results


def rows_at_once(columns: int, entry_bytes: int) -> int:
    """Rows of a tile, a power of two."""
    return max(1, min(32, _TILE_BYTES // (columns * entry_bytes)))


@scale_kernel.register_fake
def _allocate_for(
    kernel: Tensor,
    shift: Tensor,
    source_marginal: Tensor,
    anchor_marginal: Tensor,
    max_iterations: int,
    tolerance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return _allocate(kernel, source_marginal, anchor_marginal)


def _allocate(
    kernel: Tensor, source_marginal: Tensor, anchor_marginal: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    iterations = torch.empty(kernel.shape[0], dtype=torch.int64, device=kernel.device)
    r = torch.empty(kernel.shape[:2], dtype=kernel.dtype, device=kernel.device)
    return r, torch.empty_like(anchor_marginal), iterations
