"""Pushes on a device or a CPU: the frames of any clips as one batch, reduced onto their states."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from aot import InvalidFeatures, concatenate
from workers.compress.features import fill_patches, split_features, to_host
from workers.models import VisionEncoder
from workers.seams import Push, Pushed


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
    layout = encoder.layout
    steps = [layout.steps(len(push.pixels)) for push in pushes]
    features = encoder.encode(
        np.concatenate(fill_patches([push.pixels for push in pushes], layout))
    )
    parts = split_features(features, steps)
    encoded_s = time.perf_counter()
    try:
        pushed = reducer.push_many(parts, [push.state for push in pushes])
    except InvalidFeatures as error:
        if len(pushes) == 1:
            return [error]
        return [_push_together(encoder, reducer, [push])[0] for push in pushes]
    dtype = features.tokens.dtype
    results = []
    for push, num_steps, (tokens, state) in zip(pushes, steps, pushed, strict=True):
        kept = to_host(tokens, dtype)
        if push.last:
            kept = concatenate([kept, to_host(reducer.finish(state, dtype), dtype)])
        share = num_steps / features.tokens.shape[0]
        cells = kept.grid[0] * kept.grid[1]
        results.append(
            Pushed(
                tokens=kept,
                state=None if push.last else state,
                tokens_in=num_steps * cells,
                encode_s=(encoded_s - began_s) * share,
                reduce_s=(time.perf_counter() - encoded_s) * share,
            )
        )
    return results
