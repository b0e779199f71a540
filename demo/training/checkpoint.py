"""Training state on disk: weights and optimizer moments as safetensors, written atomically.

A stage saves every so many steps and starts again from the last file; the data of a step depends
on the seed and the step alone, so an interrupted run goes on as if it had not been.
"""

import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


def save_state(
    path: Path, modules: dict[str, nn.Module], optimizers: list[torch.optim.Optimizer], step: int
) -> None:
    """Write weights, moments and the step to `path`."""
    tensors = {
        f"weights/{name}/{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    for index, optimizer in enumerate(optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"moments/{index}/{parameter}/{key}"] = torch.as_tensor(value)
    # Tied weights share memory, which safetensors refuses; a clone costs nothing here.
    tensors = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial")
    save_file(tensors, partial, metadata={"step": str(step)})
    os.replace(partial, path)


def load_state(
    path: Path, modules: dict[str, nn.Module], optimizers: list[torch.optim.Optimizer]
) -> int:
    """Read what `save_state` wrote; returns the step, 0 when there is no file."""
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        step = int(file.metadata()["step"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for name, module in modules.items():
        head = f"weights/{name}/"
        module.load_state_dict(
            {k[len(head) :]: v for k, v in tensors.items() if k.startswith(head)}
        )
    for index, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"moments/{index}/"):
                _, _, parameter, name = key.split("/")
                state.setdefault(int(parameter), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    return step
