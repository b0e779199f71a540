"""Clips by one batch of frames, and what is done about a batch that fails.

On a CPU a batch is one clip, so that its bytes depend on no neighbour; on a device the frames of
all clips go through the encoder together. Nothing here knows of a settings' model or of a thread.
"""

import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from aot import Reducer
from workers.compress.accelerator.lanes import Mark, PlainMark
from workers.compress.device import give_memory_back, is_out_of_memory, raise_if_broken
from workers.compress.features import fill_patches, split_features, to_host
from workers.errors import one_line
from workers.models import VisionEncoder
from workers.seams import Pushed
from workers.types import Clip, ClipStats, CompressedClip, FailedClip, TokenLayout

logger = logging.getLogger(__name__)

TRIES = 3
"""How often a clip that does not fit into memory by itself is tried before it is given up."""


def compress_each(
    encoder: VisionEncoder, reducer: Reducer, clips: Sequence[Clip]
) -> list[CompressedClip | FailedClip]:
    """Compress every clip by itself, so that its bytes do not depend on its neighbours."""
    return [result for clip in clips for result in compress_batch(encoder, reducer, [clip])]


def compress_batch(
    encoder: VisionEncoder,
    reducer: Reducer,
    clips: Sequence[Clip],
    *,
    mark: Callable[[], Mark] = PlainMark,
) -> list[CompressedClip | FailedClip]:
    """Compress clips with one batch of frames; a batch that fails is taken apart.

    One that does not fit into memory is halved; of one that fails otherwise the clips are tried
    one by one. What fails by itself, for want of memory only after three tries, comes back as a
    `FailedClip`; the others are not touched by it.

    Raises:
        WorkerBroken: the device can compute no more.
    """
    if len(clips) > 1 and len({clip.pixels.shape[1:] for clip in clips}) > 1:
        return [
            result
            for clip in clips
            for result in compress_batch(encoder, reducer, [clip], mark=mark)
        ]
    failure, no_memory = "", False
    for _ in range(TRIES if len(clips) == 1 else 1):
        try:
            return list(_compress_once(encoder, reducer, clips, mark))
        except Exception as error:  # whatever it is, it is of one clip until the others fail too
            raise_if_broken(error)
            no_memory = is_out_of_memory(error)
            failure = f"{'no memory' if no_memory else type(error).__name__}: {one_line(error)}"
        # The failed batch is only let go once its exception is: so not in the except block.
        give_memory_back()
        if not no_memory:
            break
    logger.warning("%d clips from %r not compressed: %s", len(clips), clips[0], failure)
    if len(clips) == 1:
        return [FailedClip.of(clips[0], failure)]
    size = len(clips) // 2 if no_memory else 1
    parts = [clips[start : start + size] for start in range(0, len(clips), size)]
    return [
        result for part in parts for result in compress_batch(encoder, reducer, part, mark=mark)
    ]


def _compress_once(
    encoder: VisionEncoder, reducer: Reducer, clips: Sequence[Clip], mark: Callable[[], Mark]
) -> Iterator[CompressedClip]:
    began = mark()
    layout = encoder.layout
    frames = fill_patches([clip.pixels for clip in clips], layout)
    features = encoder.encode(frames[0] if len(frames) == 1 else np.concatenate(frames))
    encoded = mark()
    parts = split_features(features, [layout.steps(len(clip.pts_s)) for clip in clips])
    tokens = reducer.compress_clips(parts)
    reduced = mark()
    hosted = [to_host(kept, features.tokens.dtype) for kept in tokens]
    reduced.wait()
    for clip, part, kept in zip(clips, parts, hosted, strict=True):
        share = part.tokens.shape[0] / features.tokens.shape[0]
        pushed = Pushed(
            tokens=kept,
            state=None,
            tokens_in=part.tokens.shape[0] * kept.grid[0] * kept.grid[1],
            encode_s=encoded.seconds_since(began) * share,
            reduce_s=reduced.seconds_since(encoded) * share,
        )
        yield as_compressed(clip, pushed, layout)


def as_compressed(clip: Clip, pushed: Pushed, layout: TokenLayout) -> CompressedClip:
    """What is stored of a clip that was compressed whole."""
    return CompressedClip(
        stream_id=clip.stream_id,
        epoch=clip.epoch,
        index=clip.index,
        start_s=float(clip.pts_s[0]),
        end_s=clip.end_s,
        pts_s=tuple(float(pts) for pts in clip.pts_s),
        tokens=layout.with_frames(pushed.tokens),
        stats=_stats(clip, pushed),
        layout=layout,
    )


def _stats(clip: Clip, pushed: Pushed) -> ClipStats:
    return ClipStats(
        decode_s=clip.decode_s,
        encode_s=pushed.encode_s,
        reduce_s=pushed.reduce_s,
        frames_in=len(clip.pts_s),
        tokens_in=pushed.tokens_in,
        tokens_out=len(pushed.tokens),
        damaged=clip.damaged,
    )
