"""The seam all reducers share: frames of clips in, tokens out; pure, the state is the caller's.

A causal reducer is written once, for many clips side by side in fixed shapes (`push_batch`,
`finish_batch`); what callers with single clips use is made of that here, for all of them alike.
Knows nothing but features.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch

from aot.config import AOTConfig
from aot.errors import InvalidFeatures
from aot.packing import (
    check_finite_features,
    exact_dtype,
    join_packed,
    no_tokens,
    stack_clips,
    unpack,
)
from aot.pooling import pooled_grid
from aot.types import ClipState, ClipTokens, FeatureBatch, FrameFeatures, Grid, PackedTokens

S = TypeVar("S", bound=ClipState)


@runtime_checkable
class Reducer(Protocol):
    """What takes clips and keeps some tokens of them."""

    config: AOTConfig

    def push_many(
        self, features: Sequence[FrameFeatures], states: Sequence[Any]
    ) -> list[tuple[ClipTokens, Any]]:
        """Take the next frames of several clips, each with its own state (None opens one)."""
        ...

    def finish(self, state: Any, dtype: torch.dtype = torch.float32) -> ClipTokens:
        """What is left to emit at a clip's end."""
        ...

    def compress_clips(self, features: Sequence[FrameFeatures]) -> list[ClipTokens]:
        """Whole clips in reading order."""
        ...

    def describe(self) -> dict[str, Any]:
        """Name, version and every constant that decides which tokens are kept: plain values, equal
        where and only where the same features give the same tokens.
        """
        ...


class CausalReducer(ABC, Generic[S]):
    """A reducer whose clips may be pushed in any groups of frames, alone or beside others.

    `push_batch` and `finish_batch` run in fixed shapes: nothing in them reads a value of a device,
    allocates by one or copies to one, so that they can be captured as a CUDA graph. (On a CPU,
    where asking is free, they may trim what is not needed.)
    """

    config: AOTConfig

    @abstractmethod
    def push_batch(self, batch: FeatureBatch, state: S | None = None) -> tuple[PackedTokens, S]:
        """The tokens that the batch's frames emit, and the state for the clips' next frames.

        `state` holds the clips in the order of the batch; None opens all of them, which saves what
        is only needed for a clip that has begun.
        """

    @abstractmethod
    def open_state(
        self, clips: int, grid: Grid, width: int, dtype: torch.dtype, device: torch.device
    ) -> S:
        """The state of clips that have had no frame: pooled grid, width and dtype of tokens."""

    def finish_batch(self, state: S, dtype: torch.dtype = torch.float32) -> PackedTokens:
        """What is left to emit at the clips' ends; nothing, unless a reducer says otherwise."""
        return no_tokens(len(state), state.grid, state.width, dtype, state.position.device)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """See `Reducer.describe`."""

    def compress_batch(self, batch: FeatureBatch) -> PackedTokens:
        """Whole clips in reading order."""
        emitted, state = self.push_batch(batch)
        return join_packed(emitted, self.finish_batch(state, batch.tokens.dtype))

    def push(self, features: FrameFeatures, state: S | None = None) -> tuple[ClipTokens, S]:
        """Take the next frames of one clip; None opens a new one.

        Gives the tokens these frames emit, in the dtype of the features, and the state for the
        clip's next frames.

        Raises:
            InvalidFeatures: no frames, NaN or infinity, or a state of another grid or width.
            InvalidConfig: the grid is too small for the constants.
        """
        [result] = self.push_many([features], [state])
        return result

    def push_many(
        self, features: Sequence[FrameFeatures], states: Sequence[S | None]
    ) -> list[tuple[ClipTokens, S]]:
        """`push` for several clips of one model, each with its own state."""
        check_batch(features, states, self.config)
        if not wants_one_batch(features[0].tokens):
            return [
                self._push_together([clip], [state])[0]
                for clip, state in zip(features, states, strict=True)
            ]
        return self._push_together(features, states)

    def finish(self, state: S, dtype: torch.dtype = torch.float32) -> ClipTokens:
        """What is left to emit at a clip's end, in `dtype`."""
        [tokens] = unpack(self.finish_batch(state, dtype))
        return tokens

    def compress_clips(self, features: Sequence[FrameFeatures]) -> list[ClipTokens]:
        """Whole clips in reading order, batched.

        Raises:
            InvalidFeatures, InvalidConfig: as `push`.
        """
        check_batch(features, [None] * len(features), self.config)
        if not wants_one_batch(features[0].tokens):
            return [tokens for clip in features for tokens in self._compress_together([clip])]
        return self._compress_together(features)

    def _push_together(
        self, features: Sequence[FrameFeatures], states: Sequence[S | None]
    ) -> list[tuple[ClipTokens, S]]:
        packed, state = self.push_batch(stack_clips(features), self._stack_states(features, states))
        tokens = unpack_finite(packed, features)
        return list(zip(tokens, state.split(), strict=True))

    def _compress_together(self, features: Sequence[FrameFeatures]) -> list[ClipTokens]:
        return unpack_finite(self.compress_batch(stack_clips(features)), features)

    def _stack_states(
        self, features: Sequence[FrameFeatures], states: Sequence[S | None]
    ) -> S | None:
        if all(state is None for state in states):
            return None
        tokens = features[0].tokens
        grid, exact = reduced_grid(features[0].grid, self.config), exact_dtype(tokens.dtype)
        opened = self.open_state(1, grid, tokens.shape[2], exact, tokens.device)
        given = [opened if state is None else state for state in states]
        return given[0].stack(given)


def wants_one_batch(tokens: torch.Tensor) -> bool:
    """An accelerator does. On a CPU the tokens of one clip stay in its cache, a batch would first
    have to be copied together, and what a clip gives would depend on its neighbours in rounding.
    """
    return tokens.device.type != "cpu"


def reduced_grid(grid: Grid, config: AOTConfig) -> Grid:
    """The grid after the pooling of `config`."""
    return pooled_grid(grid, config.pooling, stride=config.pool_stride)


def unpack_finite(packed: PackedTokens, features: Sequence[FrameFeatures]) -> list[ClipTokens]:
    """`unpack`, naming the value where the features are not finite."""
    try:
        return unpack(packed)
    except InvalidFeatures:
        check_finite_features(features)
        raise


def check_batch(
    features: Sequence[FrameFeatures], states: Sequence[Any], config: AOTConfig
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
    grid = reduced_grid(features[0].grid, config)
    for state in states:
        if state is not None and (state.grid, state.width) != (grid, width):
            raise InvalidFeatures(
                f"got a state of pooled grid {state.grid} and width {state.width}, expected {grid} "
                f"and {width} as the frames have; a clip stays with one model and configuration"
            )
