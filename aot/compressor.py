"""The whole reduction of a clip, incrementally: push frames as they come, finish at its end.

Frames' features in, tokens out, state in the caller's hands: every call is a pure function, so
any worker may take any push, and a push may be repeated. Knows no model, no clock, no storage.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from aot.anchors import choose_anchors
from aot.clip_batch import AnchorState, open_anchors
from aot.config import AOTConfig
from aot.errors import NotSettled
from aot.seam import CausalReducer
from aot.spatial import PooledFrames, merge_and_pool
from aot.temporal import finish_clips, push_frames
from aot.transport import UNROLLED
from aot.types import ClipTokens, FeatureBatch, FrameFeatures, Grid, PackedTokens


class ClipCompressor(CausalReducer[AnchorState]):
    """Anchors and transport within and across the frames of clips (AOT).

    A clip pushed at once, frame by frame, or in groups, alone or beside other clips, gives the
    same tokens up to rounding.

    `unrolled` iterations of every transport run on an accelerator without the kernels; where they
    were too few, callers with single clips are given the result of all that may be needed, and
    `PackedTokens.settled` tells the others.
    """

    def __init__(self, config: AOTConfig | None = None, *, unrolled: int = UNROLLED) -> None:
        self.config = config or AOTConfig()
        self._unrolled = unrolled

    def push_batch(
        self, batch: FeatureBatch, state: AnchorState | None = None
    ) -> tuple[PackedTokens, AnchorState]:
        """See `CausalReducer.push_batch`."""
        clips = batch.tokens.shape[0]
        frames = self._within_frames(batch)
        return push_frames(
            frames,
            clips,
            batch.active,
            state,
            self.config,
            batch.tokens.dtype,
            unrolled=self._unrolled,
        )

    def open_state(
        self, clips: int, grid: Grid, width: int, dtype: torch.dtype, device: torch.device
    ) -> AnchorState:
        """See `CausalReducer.open_state`."""
        rows = grid[0] * grid[1] if self.config.merge_frames else 0
        return open_anchors(clips, rows, grid, width, dtype, device)

    def finish_batch(self, state: AnchorState, dtype: torch.dtype = torch.float32) -> PackedTokens:
        """The merged anchors that end the clips."""
        return finish_clips(state, dtype)

    def describe(self) -> dict[str, Any]:
        """See `Reducer.describe`."""
        return {"reducer": "aot", "version": 2, **asdict(self.config)}

    def _push_together(
        self, features: Sequence[FrameFeatures], states: Sequence[AnchorState | None]
    ) -> list[tuple[ClipTokens, AnchorState]]:
        try:
            return super()._push_together(features, states)
        except NotSettled:
            return self._thorough()._push_together(features, states)

    def _compress_together(self, features: Sequence[FrameFeatures]) -> list[ClipTokens]:
        try:
            return super()._compress_together(features)
        except NotSettled:
            return self._thorough()._compress_together(features)

    def _thorough(self) -> "ClipCompressor":
        return ClipCompressor(self.config, unrolled=self.config.max_iterations)

    def _within_frames(self, batch: FeatureBatch) -> PooledFrames:
        tokens, *maps = (
            values.flatten(0, 1)
            for values in (batch.tokens, batch.local_attention, batch.global_attention)
        )
        anchors = choose_anchors(maps[0], maps[1], batch.grid, self.config)
        frames = merge_and_pool(tokens, anchors, batch.grid, self.config, unrolled=self._unrolled)
        finite = torch.isfinite(torch.stack(maps)).all(dim=2).all(dim=0)
        return replace(frames, finite=frames.finite & finite)


def compress_clip(features: FrameFeatures, config: AOTConfig | None = None) -> ClipTokens:
    """A whole clip in reading order: keyframe anchors, distinct tokens, merged anchors."""
    [tokens] = ClipCompressor(config).compress_clips([features])
    return tokens
