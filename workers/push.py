"""The seam of open clips: some frames and a state in, tokens and the next state out.

A push is a pure function of frames and the clip's state: nothing is kept between pushes, so a push
may be repeated, and the next one may go to another worker. Frames of any clips share a batch.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8

from aot import ClipTokens, InvalidFeatures, concatenate
from workers.features import split_features, to_host
from workers.models import VisionEncoder


@dataclass(frozen=True)
class Push:
    """The next frames of one clip."""

    pixels: UInt8[np.ndarray, "t h w 3"]
    state: Any = None
    """What the push before gave; None opens a clip."""
    last: bool = False
    """Nothing comes behind these frames: the clip ends."""


@dataclass(frozen=True)
class Pushed:
    """What a push gave."""

    tokens: ClipTokens
    """Emitted by these frames, and by the clip's end where it ended; on the host."""
    state: Any
    tokens_in: int
    """Pooled tokens before the reduction."""
    encode_s: float
    reduce_s: float


@runtime_checkable
class Pusher(Protocol):
    """Where a live session sends its frames."""

    def push(self, push: Push, *, timeout_s: float) -> Pushed:
        """Compress some frames; waits for its turn.

        Raises:
            WorkerLost: no result within `timeout_s`, or the workers are gone.
            InvalidFeatures: the frames' features are not finite.
        """
        ...

    def finish(self, state: Any, dtype: torch.dtype) -> ClipTokens:
        """What is left to emit of a clip that ends without another frame; on the host."""
        ...


def push_each(
    encoder: VisionEncoder, reducer: Any, pushes: Sequence[Push], *, together: bool
) -> list[Pushed | InvalidFeatures]:
    """Several pushes as one batch, or one after the other."""
    if not together or len({p.pixels.shape[1:] for p in pushes}) > 1:
        return [_push_together(encoder, reducer, [push])[0] for push in pushes]
    return _push_together(encoder, reducer, pushes)


def _push_together(
    encoder: VisionEncoder, reducer: Any, pushes: Sequence[Push]
) -> list[Pushed | InvalidFeatures]:
    began_s = time.perf_counter()
    features = encoder.encode(np.concatenate([push.pixels for push in pushes]))
    parts = split_features(features, [len(push.pixels) for push in pushes])
    encoded_s = time.perf_counter()
    try:
        pushed = reducer.push_many(parts, [push.state for push in pushes])
    except InvalidFeatures as error:
        if len(pushes) == 1:
            return [error]
        return [_push_together(encoder, reducer, [push])[0] for push in pushes]
    dtype = features.tokens.dtype
    results = []
    for push, (tokens, state) in zip(pushes, pushed, strict=True):
        kept = to_host(tokens, dtype)
        if push.last:
            kept = concatenate([kept, to_host(reducer.finish(state, dtype), dtype)])
        share = len(push.pixels) / features.tokens.shape[0]
        cells = kept.grid[0] * kept.grid[1]
        results.append(
            Pushed(
                tokens=kept,
                state=None if push.last else state,
                tokens_in=len(push.pixels) * cells,
                encode_s=(encoded_s - began_s) * share,
                reduce_s=(time.perf_counter() - encoded_s) * share,
            )
        )
    return results
