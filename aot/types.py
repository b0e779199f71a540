"""The values the reduction passes along: features of frames in, tokens of clips out.

Letters in shapes: `c` clips side by side, `t` frames, `h w` patch grid, `n = h*w`, `k` tokens of
one frame after the within-frame stage, `m` tokens of one clip, `r` rows of a buffer that has room
for them, `d` token width. Cells are row-major indices into the *pooled* grid. Nothing here knows
of models, time in seconds, or storage.

Values come in two forms: those of one clip, which is what callers hold (`FrameFeatures`,
`ClipTokens`), and those of many clips in fixed shapes, whose decisions stay on their device
(`FeatureBatch`, `ClipState`, `PackedTokens`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from aot.errors import InvalidFeatures

Grid = tuple[int, int]
"""(rows, columns)."""

S = TypeVar("S", bound="ClipState")

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
class FeatureBatch:
    """Features of the next frames of several clips of one model, padded to the longest."""

    tokens: Float[Tensor, "c t n d"]
    local_attention: Float[Tensor, "c t n"]
    global_attention: Float[Tensor, "c t n"]
    grid: Grid
    """Patch rows and columns."""
    active: Bool[Tensor, "c t"] | None = None
    """Which frames are there, a clip's from the first on; None where all are. What a padding frame
    holds must be finite and decides nothing."""

    def __repr__(self) -> str:
        return f"FeatureBatch(tokens={tuple(self.tokens.shape)}, grid={self.grid})"


@dataclass(frozen=True)
class ClipState:
    """What the next frames of open clips need: tensors whose first axis is the clip.

    Shapes are fixed by the reducer, its constants and the model, so that states of any clips stack
    into a batch, move between devices and travel as plain tensors. A reducer that needs more than
    the position has a class of its own with more columns. What a clip's caller holds is a batch of
    one. Never written to.
    """

    grid: Grid
    """Pooled rows and columns."""
    width: int
    """Of a token."""
    position: Int[Tensor, " c"]
    """Frames pushed so far."""

    @property
    def columns(self) -> dict[str, Tensor]:
        """All tensors by name."""
        values = {column.name: getattr(self, column.name) for column in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def map(self: S, change: Callable[[Tensor], Tensor]) -> S:
        """The state with every tensor changed alike."""
        return replace(self, **{name: change(value) for name, value in self.columns.items()})

    def to(self: S, device: torch.device | str, *, non_blocking: bool = False) -> S:
        """The state on a device; itself where it is there."""
        if self.position.device == torch.device(device):
            return self
        return self.map(lambda value: value.to(device, non_blocking=non_blocking))

    def __len__(self) -> int:
        return self.position.shape[0]

    def split(self: S) -> list[S]:
        """The state of each clip, owning no more than itself."""
        if len(self) == 1:
            return [self]
        return [
            self.map(lambda value, row=row: value[row : row + 1].clone())
            for row in range(len(self))
        ]

    @classmethod
    def stack(cls: type[S], states: Sequence[S]) -> S:
        """States of one reducer side by side.

        Raises:
            InvalidFeatures: none, or states of different grids or widths.
        """
        kinds = {(type(state), state.grid, state.width) for state in states}
        if len(kinds) != 1:
            raise InvalidFeatures(
                f"got states of {sorted(map(str, kinds))}, expected one kind, grid and width; "
                "stack the states of one reducer and model"
            )
        first = states[0]
        if len(states) == 1:
            return first
        columns = [state.columns for state in states]
        joined = {name: torch.cat([each[name] for each in columns]) for name in columns[0]}
        return replace(first, **joined)

    def tensors(self) -> dict[str, Tensor]:
        """The state as plain tensors by name, as a file or a message takes them."""
        size = torch.tensor([*self.grid, self.width])
        return {"size": size, **self.columns}

    @classmethod
    def from_tensors(cls: type[S], tensors: Mapping[str, Tensor]) -> S:
        """The state that `tensors` gave.

        Raises:
            InvalidFeatures: the tensors of another kind of state.
        """
        expected = {column.name for column in fields(cls)} - {"grid", "width"} | {"size"}
        if set(tensors) != expected:
            raise InvalidFeatures(
                f"got tensors {sorted(tensors)}, expected {sorted(expected)}; "
                f"give what {cls.__name__}.tensors() gave"
            )
        rows, columns, width = tensors["size"].tolist()
        rest = {name: value for name, value in tensors.items() if name != "size"}
        return cls(grid=(rows, columns), width=width, **rest)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(clips={len(self)}, grid={self.grid}, width={self.width})"


TOKEN_COLUMNS = ("tokens", "frame", "cell", "mass", "kind")
"""Fields of `ClipTokens` and `PackedTokens` with an entry for every token."""


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
        sizes = {name: getattr(self, name).shape[0] for name in TOKEN_COLUMNS}
        if len(set(sizes.values())) > 1:
            raise InvalidFeatures(f"columns of ClipTokens differ in length: got {sizes}")

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __repr__(self) -> str:
        return f"ClipTokens(tokens={tuple(self.tokens.shape)}, grid={self.grid})"


@dataclass(frozen=True)
class PackedTokens:
    """Tokens kept of several clips, each at the front of a buffer that has room for more.

    How many they are is decided on the device and stays there: `count` is for the host to read
    when it copies the tokens. Rows beyond it hold anything. The columns are those of `ClipTokens`.
    """

    tokens: Float[Tensor, "c r d"]
    frame: Int[Tensor, "c r"]
    cell: Int[Tensor, "c r"]
    mass: Float[Tensor, "c r"]
    kind: UInt8[Tensor, "c r"]
    count: Int[Tensor, " c"]
    """Tokens of each clip."""
    finite: Bool[Tensor, " c"]
    """False where a clip's features held NaN or infinity; its tokens mean nothing then."""
    grid: Grid
    """Pooled rows and columns."""
    settled: Bool[Tensor, " c"] | None = None
    """False where a transport was left before its stop rule was met; None where none can have
    been (see `aot.transport.scale_kernel`)."""

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __repr__(self) -> str:
        return f"PackedTokens(tokens={tuple(self.tokens.shape)}, grid={self.grid})"
