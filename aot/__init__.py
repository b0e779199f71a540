"""The reduction alone: anchors, transport, pooling, keyframe merging. Pure torch.

Method: "Token Reduction via Local and Global Contexts Optimization for Efficient Video Large
Language Models" (arXiv 2603.01400); where paper and published code differ, the code decides.
"""

from aot.anchors import count_anchors, select_anchors
from aot.compressor import ClipCompressor, compress_clip
from aot.config import AOTConfig
from aot.errors import AOTError, InvalidConfig, InvalidFeatures, NotIncremental
from aot.pooling import pool_grid, pool_mask, pooled_grid
from aot.reducers.base import Reducer
from aot.reducers.registry import REDUCERS, make_reducer
from aot.spatial import merge_within_frame
from aot.temporal import concatenate, merge_across_frames
from aot.transport import TransportPlan, sinkhorn
from aot.types import ClipState, ClipTokens, FrameFeatures, FrameTokens, Grid, TokenKind

__all__ = [
    "REDUCERS",
    "AOTConfig",
    "AOTError",
    "ClipCompressor",
    "ClipState",
    "ClipTokens",
    "FrameFeatures",
    "FrameTokens",
    "Grid",
    "InvalidConfig",
    "InvalidFeatures",
    "NotIncremental",
    "Reducer",
    "TokenKind",
    "TransportPlan",
    "compress_clip",
    "concatenate",
    "count_anchors",
    "make_reducer",
    "merge_across_frames",
    "merge_within_frame",
    "pool_grid",
    "pool_mask",
    "pooled_grid",
    "select_anchors",
    "sinkhorn",
]
