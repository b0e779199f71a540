"""Stages of the reduction as single launches on an accelerator, written in Triton.

Every kernel is an operator of torch (`torch.ops.aot`): a graph captures it, a counter of operators
sees it as the one launch it is, and on the device `meta` it gives shapes. Its twin in plain torch
says what it computes and runs wherever kernels do not; the tests hold the two together, in
Triton's interpreter where there is no card. Only `runs_kernels` is imported without Triton.
"""

from functools import cache
from importlib.util import find_spec

import torch

__all__ = ["has_triton", "runs_kernels"]


def runs_kernels(device: torch.device) -> bool:
    """Whether the kernels run there; `meta` does as an accelerator would."""
    return device.type in ("cuda", "meta") and has_triton()


@cache
def has_triton() -> bool:
    """Whether Triton is installed; torch for CUDA brings it on Linux."""
    return find_spec("triton") is not None
