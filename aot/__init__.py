"""The reduction alone: anchors, transport, pooling, keyframe merging. Pure torch."""

from aot.errors import AOTError, InvalidConfig, InvalidFeatures
from aot.types import ClipState, ClipTokens, FrameFeatures, FrameTokens, Grid, TokenKind

__all__ = [
    "AOTError",
    "ClipState",
    "ClipTokens",
    "FrameFeatures",
    "FrameTokens",
    "Grid",
    "InvalidConfig",
    "InvalidFeatures",
    "TokenKind",
]
