"""Attention received, without the matrix: two launches, or one where the layer gave its log-sums.

With scores `s[i, j] = scaling * q_i k_j`, what key `j` receives is `sum_i exp(s[i, j] - l[i])`,
where `l[i] = log sum_j exp(s[i, j])` is what flash attention keeps beside its output. Scores live
in registers, a block at a time. Products take the inputs' precision, sums are in float32. The
twin is `workers.models.attention.attention_received`. Needs Triton.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

_WARPS = 4
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
@no_type_check  # what checks shapes in the tests would hide the source from Triton
def _load_rows(
    start,
    stride,
    row,
    num_rows,
    FIRST: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Columns `FIRST` to `FIRST + SIZE` of some rows; zero where there are none."""
    column = FIRST + tl.arange(0, SIZE)
    there = (row < num_rows)[:, None] & (column < WIDTH)[None, :]
    values = tl.load(start + row[:, None] * stride + column[None, :], mask=there, other=0.0)
    if UPCAST:
        values = values.to(tl.float32)
    return values


@triton.jit
@no_type_check
def _log_sums(
    query,
    key,
    log_sums,
    query_batch,
    query_head,
    query_row,
    key_batch,
    key_head,
    key_row,
    num_tokens,
    num_heads,
    scaling,
    WIDTH: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    UPCAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Natural logarithm of each query's sum of exponentials, a block of queries a program.

    A head's width is taken as `MAIN + REST` columns, so that 72 needs 80 and not 128.
    """
    block, head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    query += batch * query_batch + head * query_head
    key += batch * key_batch + head * key_head
    row = block * ROWS + tl.arange(0, ROWS)
    q = _load_rows(query, query_row, row, num_tokens, 0, MAIN, WIDTH, UPCAST)
    q_rest = _load_rows(query, query_row, row, num_tokens, MAIN, REST, WIDTH, UPCAST)
    highest = tl.full((ROWS,), -1e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, num_tokens, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        k = _load_rows(key, key_row, column, num_tokens, 0, MAIN, WIDTH, UPCAST)
        k_rest = _load_rows(key, key_row, column, num_tokens, MAIN, REST, WIDTH, UPCAST)
        score = tl.dot(q, tl.trans(k), input_precision="ieee")
        score = tl.dot(q_rest, tl.trans(k_rest), score, input_precision="ieee")
        score = tl.where((column < num_tokens)[None, :], score * (scaling * _LOG2_E), -1e30)
        top = tl.maximum(highest, tl.max(score, 1))
        total = total * tl.exp2(highest - top) + tl.sum(tl.exp2(score - top[:, None]), 1)
        highest = top
    place = (batch * num_heads + head) * num_tokens + row
    tl.store(log_sums + place, (highest + tl.log2(total)) / _LOG2_E, mask=row < num_tokens)


@triton.jit
@no_type_check
def _received(
    query,
    key,
    log_sums,
    received,
    query_batch,
    query_head,
    query_row,
    key_batch,
    key_head,
    key_row,
    num_tokens,
    num_heads,
    scaling,
    WIDTH: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    UPCAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """What a block of keys receives from all queries of its head. Heads are added up elsewhere, so
    that no result depends on the order in which programs end.
    """
    block, head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    query += batch * query_batch + head * query_head
    key += batch * key_batch + head * key_head
    of_head = (batch * num_heads + head) * num_tokens
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    k = _load_rows(key, key_row, column, num_tokens, 0, MAIN, WIDTH, UPCAST)
    k_rest = _load_rows(key, key_row, column, num_tokens, MAIN, REST, WIDTH, UPCAST)
    total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, num_tokens, ROWS):
        row = start + tl.arange(0, ROWS)
        q = _load_rows(query, query_row, row, num_tokens, 0, MAIN, WIDTH, UPCAST)
        q_rest = _load_rows(query, query_row, row, num_tokens, MAIN, REST, WIDTH, UPCAST)
        score = tl.dot(k, tl.trans(q), input_precision="ieee")
        score = tl.dot(k_rest, tl.trans(q_rest), score, input_precision="ieee")
        # Queries that are not there are so improbable that they give nothing.
        norm = tl.load(log_sums + of_head + row, mask=row < num_tokens, other=1e30) * _LOG2_E
        total += tl.sum(tl.exp2(score * (scaling * _LOG2_E) - norm[None, :]), 1)
    tl.store(received + of_head + column, total, mask=column < num_tokens)


@torch.library.custom_op("aot::attention_log_sums", mutates_args=())
def attention_log_sums(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """`log sum_j exp(scaling * q_i k_j)`, `[b h n]` in float32, of queries and keys `[b h n c]`
    with contiguous rows.
    """
    log_sums = _allocate(query)
    launch: Any = _log_sums[_grid(query, "ROWS")]
    launch(query, key, log_sums, *_sizes(query, key), scaling, **_constants(query))
    return log_sums


@torch.library.custom_op("aot::attention_received", mutates_args=())
def attention_received(query: Tensor, key: Tensor, log_sums: Tensor, scaling: float) -> Tensor:
    """What each key receives, `[b h n]` in float32; `log_sums` as `attention_log_sums` gives them,
    contiguous.
    """
    received = _allocate(query)
    launch: Any = _received[_grid(query, "COLUMNS")]
    launch(query, key, log_sums, received, *_sizes(query, key), scaling, **_constants(query))
    return received


@attention_log_sums.register_fake
def _log_sums_shape(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    return _allocate(query)


@attention_received.register_fake
def _received_shape(query: Tensor, key: Tensor, log_sums: Tensor, scaling: float) -> Tensor:
    return _allocate(query)


def _allocate(query: Tensor) -> Tensor:
    return torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)


def _grid(query: Tensor, side: str) -> tuple[int, int, int]:
    batch, heads, num_tokens, _ = query.shape
    block = block_of_scores(query.element_size())[side]
    return -(-num_tokens // block), heads, batch


def _sizes(query: Tensor, key: Tensor) -> tuple[int, ...]:
    return (*query.stride()[:3], *key.stride()[:3], query.shape[2], query.shape[1])


def _constants(query: Tensor) -> dict[str, Any]:
    main, rest = split_width(query.shape[3])
    # The interpreter, which runs on a CPU, multiplies bfloat16 wrongly.
    upcast = query.device.type == "cpu"
    return {
        "WIDTH": query.shape[3],
        "MAIN": main,
        "REST": rest,
        "UPCAST": upcast,
        "num_warps": _WARPS,
        **block_of_scores(query.element_size()),
    }


def block_of_scores(entry_bytes: int) -> dict[str, int]:
    """Queries and keys of one block: small in float32, which multiplies without tensor cores."""
    if entry_bytes > 2:
        return {"ROWS": 32, "COLUMNS": 32}
    return {"ROWS": 128, "COLUMNS": 64}


def split_width(width: int) -> tuple[int, int]:
    """Two powers of two, 16 at least, whose sum holds a head's width: 64 and 16 for 72."""
    main = max(16, 1 << (width.bit_length() - 1))
    return main, max(16, 1 << (width - main - 1).bit_length() if width > main else 0)
