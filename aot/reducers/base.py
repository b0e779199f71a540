"""The seam all reducers share.

A reducer takes a clip's frames in pushes, like `ClipCompressor`, and knows nothing but features.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from aot.config import AOTConfig
from aot.types import ClipState, ClipTokens, FrameFeatures


@runtime_checkable
class Reducer(Protocol):
    """Frames of clips in, tokens kept out; pure, the state is the caller's."""

    config: AOTConfig

    def push_many(
        self, features: Sequence[FrameFeatures], states: Sequence[ClipState | None]
    ) -> list[tuple[ClipTokens, ClipState]]:
        """Take the next frames of several clips, each with its own state (None opens one)."""
        ...

    def finish(self, state: ClipState, dtype: torch.dtype = torch.float32) -> ClipTokens:
        """What is left to emit at a clip's end."""
        ...

    def compress_clips(self, features: Sequence[FrameFeatures]) -> list[ClipTokens]:
        """Whole clips in reading order."""
        ...
