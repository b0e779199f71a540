"""What a device says of itself: memory that is short, a device that is broken; and its threads."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from workers.errors import WorkerBroken, one_line

NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
)
"""What a `RuntimeError` says when memory is short; not all of torch's are `OutOfMemoryError`."""

BROKEN_DEVICE = (
    "CUDA error",
    "HIP error",
    "device-side assert",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_INTERNAL_ERROR",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_MAPPING_ERROR",
)
"""What a `RuntimeError` says that leaves the process without a device."""


def is_out_of_memory(error: BaseException) -> bool:
    """True for what torch and Python raise when memory is short, on a device or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)


def is_device_broken(error: BaseException) -> bool:
    """True for errors after which every call to the device fails until the process ends."""
    if is_out_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return any(text in str(error) for text in BROKEN_DEVICE)


def raise_if_broken(error: Exception) -> None:
    """Raise WorkerBroken where the device can compute no more."""
    if is_device_broken(error):
        raise WorkerBroken(
            f"the device is broken: {one_line(error)}; the worker is replaced"
        ) from error


def give_memory_back() -> None:
    """Let go of what nobody holds any more, on the host and on the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Run torch on this many threads and leave the process as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
