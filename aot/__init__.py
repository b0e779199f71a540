"""The reduction alone: anchors, transport, pooling, keyframe merging. Pure torch.

Method: "Token Reduction via Local and Global Contexts Optimization for Efficient Video Large
Language Models" (arXiv 2603.01400); where paper and published code differ, the code decides.

Names are looked up in their modules when they are first used, so that `import aot.errors` loads
nothing and `import aot` no torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aot.anchors import count_anchors, select_anchors
    from aot.compressor import ClipCompressor, compress_clip
    from aot.config import AOTConfig
    from aot.errors import AOTError, InvalidConfig, InvalidFeatures, NotIncremental, NotSettled
    from aot.packing import concatenate, stack_clips, unpack
    from aot.pooling import pool_grid, pool_mask, pooled_grid
    from aot.recompression import (
        drop_empty_frames,
        join_clips,
        keep_anchors,
        recompress,
        split_frames,
    )
    from aot.reducers.registry import REDUCERS, check_constants, make_reducer
    from aot.seam import CausalReducer, Reducer
    from aot.spatial import merge_within_frame
    from aot.temporal import merge_across_frames
    from aot.transport import TransportPlan, sinkhorn
    from aot.types import (
        ClipState,
        ClipTokens,
        FeatureBatch,
        FrameFeatures,
        FrameTokens,
        Grid,
        PackedTokens,
        TokenKind,
    )

__all__ = [
    "REDUCERS",
    "AOTConfig",
    "AOTError",
    "CausalReducer",
    "ClipCompressor",
    "ClipState",
    "ClipTokens",
    "FeatureBatch",
    "FrameFeatures",
    "FrameTokens",
    "Grid",
    "InvalidConfig",
    "InvalidFeatures",
    "NotIncremental",
    "NotSettled",
    "PackedTokens",
    "Reducer",
    "TokenKind",
    "TransportPlan",
    "check_constants",
    "compress_clip",
    "concatenate",
    "count_anchors",
    "drop_empty_frames",
    "join_clips",
    "keep_anchors",
    "make_reducer",
    "merge_across_frames",
    "merge_within_frame",
    "pool_grid",
    "pool_mask",
    "pooled_grid",
    "recompress",
    "select_anchors",
    "sinkhorn",
    "split_frames",
    "stack_clips",
    "unpack",
]

_HOMES = {
    "anchors": ("count_anchors", "select_anchors"),
    "compressor": ("ClipCompressor", "compress_clip"),
    "config": ("AOTConfig",),
    "errors": ("AOTError", "InvalidConfig", "InvalidFeatures", "NotIncremental", "NotSettled"),
    "packing": ("concatenate", "stack_clips", "unpack"),
    "pooling": ("pool_grid", "pool_mask", "pooled_grid"),
    "seam": ("CausalReducer", "Reducer"),
    "recompression": (
        *("drop_empty_frames", "join_clips", "keep_anchors", "recompress"),
        "split_frames",
    ),
    "reducers.registry": ("REDUCERS", "check_constants", "make_reducer"),
    "spatial": ("merge_within_frame",),
    "temporal": ("merge_across_frames",),
    "transport": ("TransportPlan", "sinkhorn"),
    "types": (
        *("ClipState", "ClipTokens", "FeatureBatch", "FrameFeatures", "FrameTokens", "Grid"),
        *("PackedTokens", "TokenKind"),
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """A public name, loaded with the module it lives in (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
