"""The values the reduction passes along: features of frames in, tokens of clips out.

Letters in shapes: `t` frames, `h w` patch grid, `n = h*w`, `k` tokens of one frame after the
within-frame stage, `m` tokens of one clip, `d` token width. Cells are row-major indices into the
*pooled* grid. Nothing here knows of models, time in seconds, or storage.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from jaxtyping import Float, Int, UInt8
from torch import Tensor

from aot.errors import InvalidFeatures

Grid = tuple[int, int]
"""(rows, columns)."""

Pooling = Literal["bilinear", "average", "none"]
"""How a model family pools its patch grid; `none` leaves it."""


class TokenKind(IntEnum):
    """Why a token is there; stored as one byte per token."""

    KEYFRAME = 0
    """An anchor of the clip's keyframe, before anything of later frames was merged into it."""
    DISTINCT = 1
    """A later frame's token that the keyframe's anchors do not explain."""
    MERGED = 2
    """An anchor of the keyframe after it gathered what is alike in the later frames."""


@dataclass(frozen=True)
class FrameFeatures:
    """What the vision half of a model gives for the frames of one clip, or of a part of it."""

    tokens: Float[Tensor, "t n d"]
    """Projected patch tokens in raster order."""
    local_attention: Float[Tensor, "t n"]
    """Attention a patch receives in the shallow layer, summed over queries, mean of the heads."""
    global_attention: Float[Tensor, "t n"]
    """The same in the deep layer."""
    grid: Grid
    """Patch rows and columns; `n == rows * columns`."""

    def __post_init__(self) -> None:
        if self.tokens.dim() != 3:
            raise InvalidFeatures(
                f"tokens have shape {tuple(self.tokens.shape)}, expected (frames, tokens, width); "
                "add the missing axis"
            )
        frames, num_tokens, _ = self.tokens.shape
        if not frames:
            raise InvalidFeatures("got a clip of 0 frames, expected at least 1; leave it out")
        expected = (frames, num_tokens)
        for name in ("local_attention", "global_attention"):
            got = tuple(getattr(self, name).shape)
            if got != expected:
                raise InvalidFeatures(
                    f"{name} has shape {got}, expected {expected} as in tokens; "
                    "pass one attention value per token"
                )
        if self.grid[0] * self.grid[1] != num_tokens:
            raise InvalidFeatures(
                f"grid {self.grid} has {self.grid[0] * self.grid[1]} cells, got {num_tokens} "
                "tokens per frame; pass the grid the tokens were cut from"
            )

    def __repr__(self) -> str:
        return f"FrameFeatures(tokens={tuple(self.tokens.shape)}, grid={self.grid})"


@dataclass(frozen=True)
class FrameTokens:
    """One frame after the within-frame stage and the pooling."""

    tokens: Float[Tensor, "k d"]
    cell: Int[Tensor, " k"]
    mass: Float[Tensor, " k"]
    """How many pooled input tokens each stands for; adds up to the cells of the pooled grid."""

    def __repr__(self) -> str:
        return f"FrameTokens(tokens={tuple(self.tokens.shape)})"


@dataclass(frozen=True)
class ClipState:
    """What the next frame of an open clip needs, and nothing else (about 0.25 MB)."""

    anchors: Float[Tensor, "k d"]
    """The keyframe's anchors with all that was merged into them so far, float32 (float64 where the
    features are); none where `AOTConfig.merge_frames` is off."""
    cell: Int[Tensor, " k"]
    mass: Float[Tensor, " k"]
    """What each anchor gathered from the frames after the keyframe."""
    keyframe: int
    """Position of the keyframe; the number of frames so far when none had a token."""
    position: int
    """Frames pushed so far."""
    pooled_grid: Grid

    def __repr__(self) -> str:
        return f"ClipState(anchors={tuple(self.anchors.shape)}, position={self.position})"


@dataclass(frozen=True)
class ClipTokens:
    """The tokens kept of one clip, in the order the language model reads them.

    The order is keyframe anchors, then each later frame's distinct tokens in raster order, then
    the merged anchors. Masses add up to `frames * cells` of what went in: KEYFRAME tokens carry
    the keyframe's mass, and the MERGED ones (the same anchors, read a second time) carry only what
    they gathered from the later frames, so that nothing counts twice. A frame that kept no token
    is carried by the anchors. What nothing can carry is not counted: a clip none of whose frames
    kept a token, and such frames where `AOTConfig.merge_frames` is off.
    """

    tokens: Float[Tensor, "m d"]
    frame: Int[Tensor, " m"]
    """Position in the clip of the frame the token came from; the keyframe's for MERGED."""
    cell: Int[Tensor, " m"]
    """Row-major cell of the pooled grid."""
    mass: Float[Tensor, " m"]
    """How many pooled input tokens the token stands for."""
    kind: UInt8[Tensor, " m"]
    """A `TokenKind`."""
    grid: Grid
    """Pooled rows and columns."""

    def __post_init__(self) -> None:
        sizes = {
            name: getattr(self, name).shape[0]
            for name in ("tokens", "frame", "cell", "mass", "kind")
        }
        if len(set(sizes.values())) > 1:
            raise InvalidFeatures(f"columns of ClipTokens differ in length: got {sizes}")

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __repr__(self) -> str:
        return f"ClipTokens(tokens={tuple(self.tokens.shape)}, grid={self.grid})"
