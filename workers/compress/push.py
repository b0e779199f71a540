"""Pushes on a device or a CPU: the frames of any clips as one batch, reduced onto their states."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from aot import InvalidFeatures, concatenate
from workers.compress.features import split_features, to_host
from workers.compress.recurring import Recurring
from workers.models import VisionEncoder
from workers.seams import Push, Pushed


def push_each(
    encoder: VisionEncoder,
    reducer: Any,
    pushes: Sequence[Push],
    *,
    together: bool,
    recurring: Recurring | None = None,
) -> list[Pushed | InvalidFeatures]:
    """Several pushes as one batch, or one after the other."""
    recurring = recurring or Recurring()
    if not together or len({p.pixels.shape[1:] for p in pushes}) > 1:
        return [_push_together(encoder, reducer, [push], recurring)[0] for push in pushes]
    return _push_together(encoder, reducer, pushes, recurring)


def _push_together(
    encoder: VisionEncoder, reducer: Any, pushes: Sequence[Push], recurring: Recurring
) -> list[Pushed | InvalidFeatures]:
    began_s = time.perf_counter()
    patches = recurring.sort(pushes, encoder.layout)
    steps, new = patches.steps, patches.new
    features = patches.join(encoder.encode(np.concatenate(new)) if new else None)
    recurring.keep(pushes, patches, features)
    parts = split_features(features, steps)
    encoded_s = time.perf_counter()
    try:
        pushed = reducer.push_many(parts, [push.state for push in pushes])
    except InvalidFeatures as error:
        if len(pushes) == 1:
            return [error]
        return [_push_together(encoder, reducer, [push], recurring)[0] for push in pushes]
    dtype = features.tokens.dtype
    results = []
    for row, (push, num_steps, (tokens, state)) in enumerate(
        zip(pushes, steps, pushed, strict=True)
    ):
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
                recalled=patches.count_recalled(row, len(push.pixels)),
            )
        )
    return results
