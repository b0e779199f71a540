"""What a device is called."""

import torch


def describe_device(device: str) -> str:
    """Name of an accelerator, or what a CPU has; one line for people."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(torch.device(device))}, torch {torch.__version__}"
    return f"{torch.get_num_threads()} threads, torch {torch.__version__}"
