"""Patches that come again are not encoded again: the features of each stream's last one are kept.

Where a camera is still, a session pushes the last new picture over and over. Which patches of a
batch have to be encoded is decided on the host, by their pixels; the features of the others are put
in between where they were kept, on the device, without a wait. What is kept decides nothing: a
patch that is not known any more is encoded again.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from aot import FrameFeatures
from workers.compress.features import fill_patches, split_features
from workers.seams import Push
from workers.types import TokenLayout

KEPT_BYTES = 128 << 20
"""Of features and pixels; the streams that were pushed least recently go first."""

Patch = UInt8[np.ndarray, "t h w 3"]
"""The frames of one temporal step."""


@dataclass(frozen=True)
class Known:
    """A patch and its features."""

    patch: Patch
    features: FrameFeatures
    """Of one temporal step."""

    @property
    def size_bytes(self) -> int:
        """Memory that it takes, on the host and on the device."""
        return self.patch.nbytes + sum(column.nbytes for column in _columns(self.features))


@dataclass(frozen=True)
class SortedPatches:
    """The temporal patches of some pushes, by whether they have to be encoded."""

    new: tuple[Patch, ...]
    """Those that have to be."""
    patches: tuple[tuple[Patch, ...], ...]
    """Of each push, all of them."""
    order: tuple[tuple[int | Known, ...], ...]
    """Where their features are: the place in `new`, or what is known."""

    @property
    def steps(self) -> list[int]:
        """Patches of each push."""
        return [len(places) for places in self.order]

    def count_recalled(self, row: int, num_frames: int) -> int:
        """Frames of a push of so many that are not encoded for it."""
        encoded = {at for at in self.order[row] if isinstance(at, int)}
        return max(0, num_frames - len(encoded) * len(self.patches[row][0]))

    def join(self, encoded: FrameFeatures | None) -> FrameFeatures:
        """The features of all patches in order; `encoded` are those of `new`, None of none."""
        order = [at for places in self.order for at in places]
        if encoded is not None and order == list(range(len(self.new))):
            return encoded
        rows = [] if encoded is None else split_features(encoded, [1] * len(self.new))
        parts = [rows[at] if isinstance(at, int) else at.features for at in order]
        columns = zip(*(_columns(part) for part in parts), strict=True)
        return FrameFeatures(*(torch.cat(column) for column in columns), grid=parts[0].grid)


class Recurring:
    """The last patch of every stream whose pictures may come again; for one thread at a time."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._size_bytes, self._room = 0, kept_bytes

    def sort(self, pushes: Sequence[Push], layout: TokenLayout) -> SortedPatches:
        """Which patches of these pushes have to be encoded."""
        new: list[Patch] = []
        patches = tuple(tuple(_cut(push, layout)) for push in pushes)
        order = [
            self._place(push.recurring, of_push, new)
            for push, of_push in zip(pushes, patches, strict=True)
        ]
        return SortedPatches(tuple(new), patches, tuple(order))

    def keep(self, pushes: Sequence[Push], patches: SortedPatches, features: FrameFeatures) -> None:
        """Have the last patch of each push for what its stream had; `features` are of all."""
        ends = np.cumsum(patches.steps).tolist()
        for row, (push, end) in enumerate(zip(pushes, ends, strict=True)):
            if push.recurring is None:
                continue
            last = patches.order[row][-1]
            if isinstance(last, int):  # a copy: the batch is not held for one of its frames
                columns = [column[end - 1 : end].clone() for column in _columns(features)]
                known = FrameFeatures(*columns, grid=features.grid)
                last = Known(patches.patches[row][-1].copy(), known)
            self._put(push.recurring, last)

    def forget(self) -> None:
        """Give the memory back."""
        self._known.clear()
        self._size_bytes = 0

    def _put(self, stream: str, known: Known) -> None:
        before = self._known.pop(stream, None)
        self._size_bytes += known.size_bytes - (before.size_bytes if before else 0)
        self._known[stream] = known
        while self._size_bytes > self._room:
            self._size_bytes -= self._known.popitem(last=False)[1].size_bytes

    def _place(
        self, stream: str | None, patches: Sequence[Patch], new: list[Patch]
    ) -> tuple[int | Known, ...]:
        """Where each patch's features are; those that are nowhere are added to `new`."""
        known = None if stream is None else self._known.get(stream)
        last = None if known is None else (known.patch, known)
        places: list[int | Known] = []
        for patch in patches:
            if stream is None or last is None or not np.array_equal(patch, last[0]):
                last = patch, len(new)
                new.append(patch)
            places.append(last[1])
        return tuple(places)


def _cut(push: Push, layout: TokenLayout) -> list[Patch]:
    filled = fill_patches([push.pixels], layout)
    frames = filled[0] if len(filled) == 1 else np.concatenate(filled)
    return [frames[at : at + layout.frames] for at in range(0, len(frames), layout.frames)]


def _columns(features: FrameFeatures) -> tuple[Tensor, Tensor, Tensor]:
    return features.tokens, features.local_attention, features.global_attention
