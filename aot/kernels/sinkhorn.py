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
_TILE_BYTES, _WARPS = 16384, 16
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
    unshifted,
    weights,
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
    their part of `K^T r`. Between iterations `c` stays in registers; the unshifted `r` of the one
    before, as the stop rule compares it, goes through memory: from one half of `unshifted` to the
    other, so that no thread reads what another writes until all have come to the barrier.
    """
    element = tl.program_id(0)
    half = tl.num_programs(0) * num_sources
    kernel += element.to(tl.int64) * element_stride
    source_marginal += element.to(tl.int64) * marginal_stride
    shift += element * num_sources
    source_scaling += element * num_sources
    unshifted += element * num_sources
    weights += element * num_sources
    anchor_marginal += element * num_anchors
    column = tl.arange(0, COLUMNS)
    is_anchor = column < num_anchors
    zero = tl.load(anchor_marginal + column, mask=is_anchor, other=0.0) * 0.0

    present = tl.sum(zero)
    for start in range(0, num_sources, ROWS):
        row = start + tl.arange(0, ROWS)
        u = tl.load(source_marginal + row, mask=row < num_sources, other=0.0)
        present += tl.sum((u > 0).to(u.dtype))
    unit = 1.0 / tl.maximum(present, 1.0)
    for start in range(0, num_sources, ROWS):
        row = start + tl.arange(0, ROWS)
        u = tl.load(source_marginal + row, mask=row < num_sources, other=0.0)
        lift = tl.load(shift + row, mask=row < num_sources, other=0.0)
        weight = tl.where(u > 0, unit * tl.exp(tl.minimum(lift, _LARGEST_SHIFT)), 0.0)
        tl.store(weights + row, weight, mask=row < num_sources)
        # As in the reference they start at one.
        tl.store(unshifted + row, tl.where(u > 0, unit, 0.0), mask=row < num_sources)
    tl.debug_barrier()

    within = tl.arange(0, ROWS)[:, None] * source_stride + column[None, :] * anchor_stride
    c = zero + 1.0
    done = 0
    active = done < max_iterations
    while active:
        # Added up within threads; they come together once, after the last tile.
        sums, change = tl.zeros((ROWS, COLUMNS), c.dtype), tl.zeros((ROWS,), c.dtype)
        earlier, later = unshifted + (done % 2) * half, unshifted + ((done + 1) % 2) * half
        for start in range(0, num_sources, ROWS):
            row = start + tl.arange(0, ROWS)
            inside = row < num_sources
            tile = tl.load(
                kernel + start * source_stride + within,
                mask=inside[:, None] & is_anchor[None, :],
                other=0.0,
            )
            u = tl.load(source_marginal + row, mask=inside, other=0.0)
            r = u / tl.maximum(tl.sum(tile * c[None, :], 1), _FLOOR)
            sums += tile * r[:, None]
            now = r * tl.load(weights + row, mask=inside, other=0.0)
            change += tl.abs(now - tl.load(earlier + row, mask=inside, other=0.0))
            tl.store(later + row, now, mask=inside)
            tl.store(source_scaling + row, r, mask=inside)
        v = tl.load(anchor_marginal + column, mask=is_anchor, other=0.0)
        c = v / tl.maximum(tl.sum(sums, 0), _FLOOR)
        done += 1
        active = (tl.sum(change) >= tolerance) & (done < max_iterations)
        tl.debug_barrier()
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
        kernel.new_empty(2, batch, num_sources),
        kernel.new_empty(batch, num_sources),
        *kernel.stride(),
        source_marginal.stride(0),
        num_sources,
        num_anchors,
        max_iterations,
        tolerance,
        ROWS=rows_at_once(columns, kernel.element_size()),
        COLUMNS=columns,
        num_warps=_WARPS,
    )
    return results


def rows_at_once(columns: int, entry_bytes: int) -> int:
    """Rows of a tile, a power of two."""
    return max(1, min(128, _TILE_BYTES // (columns * entry_bytes)))


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
