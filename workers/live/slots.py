"""Memory that a decoder's process and its supervisor both see: where pictures cross.

A picture is copied in on the one side and looked at on the other; what crosses the pipe is which
slot it lies in. So few slots as there are bound what both hold, and the decoder waits for a free
one. The memory is sealed: its size is what the supervisor gave it, whatever the other side does.
"""

import fcntl
import mmap
import os
import weakref

import numpy as np
from jaxtyping import UInt8

SLOTS = 3
"""One is filled while another is read and the one before it is still held."""
MOST_LENT = SLOTS - 1
"""Who keeps more pictures than these gets copies: there is always a slot to fill."""
SLOT_BYTES = 3 * 4096 * 4096
"""The largest picture that is decoded at all, in RGB; only what was used of a slot is in memory."""


class PictureSlots:
    """One side's view of the slots."""

    def __init__(self, memory_fd: int, free_fd: int, freed_fd: int | None = None) -> None:
        """`freed_fd` is for the side that takes pictures: where it writes which slots are free."""
        self.fds = (memory_fd, free_fd)
        """Of the memory, and of a pipe of the slots that are free: what the other side needs."""
        self._freed_fd = freed_fd
        self._map = mmap.mmap(memory_fd, SLOTS * SLOT_BYTES)
        self._lent: dict[int, weakref.finalize[..., np.ndarray]] = {}

    @classmethod
    def create(cls) -> "PictureSlots":
        """New ones, all of them free."""
        memory_fd = os.memfd_create("pictures", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(memory_fd, SLOTS * SLOT_BYTES)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(memory_fd, fcntl.F_ADD_SEALS, seals)
        free_fd, freed_fd = os.pipe()
        os.write(freed_fd, bytes(range(SLOTS)))
        return cls(memory_fd, free_fd, freed_fd)

    def put(self, rgb: UInt8[np.ndarray, "rows cols 3"]) -> int:
        """Copy a picture into a slot, once one is free; which one it is."""
        [slot] = os.read(self.fds[1], 1)
        self._flat(slot, rgb.shape[0], rgb.shape[1]).reshape(rgb.shape)[...] = rgb
        return slot

    def take(self, slot: int, rows: int, columns: int) -> UInt8[np.ndarray, "rows cols 3"]:
        """The picture in a slot, which is free again once nobody holds the picture.

        Raises:
            ValueError: there is no such slot, or no such picture fits into one, or its picture was
                taken and is still held.
        """
        if not 0 <= slot < SLOTS or min(rows, columns) < 1 or rows * columns * 3 > SLOT_BYTES:
            raise ValueError(f"got a picture of {rows} x {columns} in slot {slot}")
        if slot in self._lent:
            raise ValueError(f"got a second picture in slot {slot} before the first was read")
        flat = self._flat(slot, rows, columns)
        if len(self._lent) < MOST_LENT:
            self._lent[slot] = weakref.finalize(flat, self._give_back, slot)
        else:
            flat = flat.copy()
            self._free(slot)
        return flat.reshape(rows, columns, 3)

    def close(self) -> None:
        """Give this side's view back; the memory of pictures that are still held stays."""
        for lent in self._lent.values():
            lent.detach()
        self._lent.clear()
        for fd in (*self.fds, self._freed_fd):
            if fd is not None:
                os.close(fd)

    def _give_back(self, slot: int) -> None:
        del self._lent[slot]
        self._free(slot)

    def _free(self, slot: int) -> None:
        assert self._freed_fd is not None, "pictures are taken by the other side"
        os.write(self._freed_fd, bytes([slot]))

    def _flat(self, slot: int, rows: int, columns: int) -> UInt8[np.ndarray, " n"]:
        return np.frombuffer(self._map, np.uint8, rows * columns * 3, slot * SLOT_BYTES)
