"""Training on several cores: every worker takes a share of a step's videos, gradients are averaged.

Started by `python -m torch.distributed.run --nproc-per-node 2 -m demo.training.train`; without it
there is one worker and nothing here does anything.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

PATIENCE = timedelta(minutes=15)
"""How long workers wait for one that is making a shard of scenes."""


@contextmanager
def joined() -> Iterator[None]:
    """Meet the other workers, where this process was started as one of several, and part again."""
    if not dist.is_torchelastic_launched():
        yield
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def find_share() -> tuple[int, int]:
    """Which worker this is, and of how many."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the workers."""
    if not dist.is_initialized():
        return
    with_grad = [p for p in parameters if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten()
                      for p in with_grad])  # fmt: skip
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for parameter, part in zip(with_grad, flat.split([p.numel() for p in with_grad]), strict=True):
        parameter.grad = part.view_as(parameter)


def any_worker(flag: bool) -> bool:
    """True on all workers when it is on one."""
    if not dist.is_initialized():
        return flag
    agreed = torch.tensor(float(flag))
    dist.all_reduce(agreed, dist.ReduceOp.MAX)
    return bool(agreed)
