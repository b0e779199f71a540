"""The ways to and from a device: what is sent there, fetched from there, and when.

On CUDA each way is a stream of its own, so that copies run beside the work, and nothing here waits
but `Mark.wait`. `PlainLanes` does the same one after the other on any device.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Mark(Protocol):
    """A place in the order of a device's work."""

    def wait(self) -> None:
        """Until the device has come to it."""
        ...

    def seconds_since(self, earlier: Any) -> float:
        """Of the device's time; both places must have been reached."""
        ...


@runtime_checkable
class Lanes(Protocol):
    """A device's way in, its work and its way out."""

    pinned: bool
    """Whether what is sent should lie in pinned memory."""

    def entered(self) -> AbstractContextManager[Any]:
        """Inside, the device is the current one."""
        ...

    def upload(self, data: Tensor) -> Tensor:
        """Memory of the host on the device, for work that is launched from now on."""
        ...

    def download(self, data: Tensor) -> tuple[Tensor, Mark]:
        """Memory of the device on the host, filled once the mark is reached."""
        ...

    def mark(self) -> Mark:
        """The end of the work that was launched so far."""
        ...


class CudaMark:
    """An event, recorded on the current stream."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event(enable_timing=True, blocking=True)
        self._event.record()

    def wait(self) -> None:
        """See `Mark.wait`; the thread sleeps meanwhile."""
        self._event.synchronize()

    def seconds_since(self, earlier: "CudaMark") -> float:
        """See `Mark.seconds_since`."""
        return earlier._event.elapsed_time(self._event) / 1000


class CudaLanes:
    """`Lanes` of a CUDA card; work runs on the stream that is current."""

    pinned = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with self.entered():
            self._way_in, self._way_out = torch.cuda.Stream(), torch.cuda.Stream()

    def entered(self) -> AbstractContextManager[Any]:
        """See `Lanes.entered`."""
        return torch.cuda.device(self._device)

    def upload(self, data: Tensor) -> Tensor:
        """See `Lanes.upload`."""
        work = torch.cuda.current_stream()
        with torch.cuda.stream(self._way_in):
            there = data.to(self._device, non_blocking=True)
        work.wait_stream(self._way_in)
        there.record_stream(work)
        return there

    def download(self, data: Tensor) -> tuple[Tensor, CudaMark]:
        """See `Lanes.download`."""
        self._way_out.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._way_out):
            here = torch.empty(data.shape, dtype=data.dtype, pin_memory=True)
            here.copy_(data, non_blocking=True)
            data.record_stream(self._way_out)
            return here, CudaMark()

    def mark(self) -> CudaMark:
        """See `Lanes.mark`."""
        return CudaMark()


class PlainMark:
    """A moment: what was called before has been done. By the CPU time of the process, unless told
    otherwise.
    """

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self._at_s = clock()

    def wait(self) -> None:
        """See `Mark.wait`."""

    def seconds_since(self, earlier: "PlainMark") -> float:
        """See `Mark.seconds_since`."""
        return self._at_s - earlier._at_s


class PlainLanes:
    """`Lanes` of any device: every copy is done when its call returns."""

    pinned = False

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._clock = time.process_time if device.type == "cpu" else time.perf_counter

    def entered(self) -> AbstractContextManager[Any]:
        """See `Lanes.entered`."""
        return nullcontext()

    def upload(self, data: Tensor) -> Tensor:
        """See `Lanes.upload`."""
        return data.to(self._device)

    def download(self, data: Tensor) -> tuple[Tensor, PlainMark]:
        """See `Lanes.download`."""
        return data.to("cpu"), self.mark()

    def mark(self) -> PlainMark:
        """See `Lanes.mark`."""
        return PlainMark(self._clock)


def open_lanes(device: torch.device) -> Lanes:
    """The lanes of a device."""
    return CudaLanes(device) if device.type == "cuda" else PlainLanes(device)
