"""The whole reduction of a clip, incrementally: push frames as they come, finish at its end.

Frames' features in, tokens out, state in the caller's hands: every call is a pure function, so
any worker may take any push, and a push may be repeated. Knows no model, no clock, no storage.
"""

from collections.abc import Sequence

import torch

from aot.anchors import select_anchors
from aot.config import AOTConfig
from aot.errors import InvalidFeatures
from aot.pooling import pooled_grid
from aot.spatial import PooledFrames, merge_and_pool, stack_frames
from aot.temporal import concatenate, finish_clip, push_frames
from aot.types import ClipState, ClipTokens, FrameFeatures


class ClipCompressor:
    """Anchors and transport within and across the frames of clips (AOT).

    A clip pushed at once, frame by frame, or in groups, alone or beside other clips, gives the
    same tokens up to rounding.
    """

    def __init__(self, config: AOTConfig | None = None) -> None:
        self.config = config or AOTConfig()

    def push(
        self, features: FrameFeatures, state: ClipState | None = None
    ) -> tuple[ClipTokens, ClipState]:
        """Take the next frames of one clip; None opens a new one.

        Gives the tokens these frames emit, in the dtype of the features, and the state for the
        clip's next frames.

        Raises:
            InvalidFeatures: no frames, NaN or infinity, or a state of another grid or width.
            InvalidConfig: the grid has fewer tokens than anchors are asked for.
        """
        [result] = self.push_many([features], [state])
        return result

    def push_many(
        self, features: Sequence[FrameFeatures], states: Sequence[ClipState | None]
    ) -> list[tuple[ClipTokens, ClipState]]:
        """`push` for several clips of one model in one batch, each with its own state."""
        check_batch(features, states, self.config)
        blocks = [_joined(features)] if _wants_one_batch(features[0].tokens) else features
        frames = stack_frames([self._within_frames(block) for block in blocks])
        lengths = [clip.tokens.shape[0] for clip in features]
        return push_frames(frames, lengths, states, self.config, features[0].tokens.dtype)

    def finish(self, state: ClipState, dtype: torch.dtype = torch.float32) -> ClipTokens:
        """The merged anchors that end a clip, in `dtype`."""
        return finish_clip(state, self.config, dtype)

    def compress_clips(self, features: Sequence[FrameFeatures]) -> list[ClipTokens]:
        """Whole clips in reading order, batched."""
        pushed = self.push_many(features, [None] * len(features))
        return [
            concatenate([emitted, self.finish(state, emitted.tokens.dtype)])
            for emitted, state in pushed
        ]

    def _within_frames(self, features: FrameFeatures) -> PooledFrames:
        maps = features.local_attention, features.global_attention
        anchors = select_anchors(*maps, features.grid, self.config)
        return merge_and_pool(features.tokens, anchors, features.grid, self.config)


def compress_clip(features: FrameFeatures, config: AOTConfig | None = None) -> ClipTokens:
    """A whole clip in reading order: keyframe anchors, distinct tokens, merged anchors."""
    [tokens] = ClipCompressor(config).compress_clips([features])
    return tokens


def _wants_one_batch(tokens: torch.Tensor) -> bool:
    """An accelerator does. On a CPU the tokens of one clip stay in its cache, and a batch would
    first have to be copied together.
    """
    return tokens.is_cuda


def _joined(clips: Sequence[FrameFeatures]) -> FrameFeatures:
    return FrameFeatures(
        tokens=torch.cat([clip.tokens for clip in clips]),
        local_attention=torch.cat([clip.local_attention for clip in clips]),
        global_attention=torch.cat([clip.global_attention for clip in clips]),
        grid=clips[0].grid,
    )


def check_batch(
    features: Sequence[FrameFeatures], states: Sequence[ClipState | None], config: AOTConfig
) -> None:
    """Whether these clips may be pushed together, each onto its state.

    Raises:
        InvalidFeatures: no clips, clips of different models, or a state of another grid or width.
    """
    if not features or len(features) != len(states):
        raise InvalidFeatures(
            f"got {len(features)} clips and {len(states)} states, expected at least one clip and "
            "one state for each; pass None to open a clip"
        )
    kinds = {(clip.grid, clip.tokens.shape[2], clip.tokens.dtype) for clip in features}
    if len(kinds) > 1:
        raise InvalidFeatures(
            f"got clips of different (grid, width, dtype) {sorted(map(str, kinds))}, expected one "
            "for all; batch clips of one model only"
        )
    width = features[0].tokens.shape[2]
    grid = pooled_grid(features[0].grid, config.pooling, stride=config.pool_stride)
    for state in states:
        if state is not None and (state.pooled_grid, state.anchors.shape[1]) != (grid, width):
            raise InvalidFeatures(
                f"got a state of pooled grid {state.pooled_grid} and width "
                f"{state.anchors.shape[1]}, expected {grid} and {width} as the frames have; "
                "keep a clip with one model and configuration"
            )
