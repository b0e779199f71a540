"""Muon for the matrices inside the blocks, AdamW for everything else, one schedule for both."""

import torch
from torch import nn


def build_optimizers(
    blocks: nn.Module, others: list[nn.Parameter], *, muon_lr: float, adam_lr: float
) -> list[torch.optim.Optimizer]:
    """`blocks`' matrices go to Muon, its vectors and `others` to AdamW.

    Every group remembers its peak rate in `initial_lr`, which `set_progress` scales.
    """
    matrices = [p for p in blocks.parameters() if p.ndim == 2 and p.requires_grad]
    chosen = {id(p) for p in matrices}
    rest = [p for p in blocks.parameters() if id(p) not in chosen and p.requires_grad]
    rest += [p for p in others if p.requires_grad]
    muon = torch.optim.Muon(
        matrices, lr=muon_lr, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return [muon, adam]


def set_rates(
    optimizers: list[torch.optim.Optimizer], step: int, steps: int, decay: float = 0.25
) -> None:
    """Short warm-up, the peak rate, then down to a fiftieth over the last `decay` of the steps."""
    left = (steps - step) / (decay * steps)
    factor = min((step + 1) / 40, 1.0, max(left, 0.02))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]
