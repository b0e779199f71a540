"""What the store keeps of a stream beside its clips: where from, and what its tokens are made with.

The fingerprint decides whether tokens belong together; the rest is for people to read. Knows of no
store's layout and starts nothing.
"""

import hashlib
import json
import math
from dataclasses import asdict

from aot import pooled_grid
from pipeline.ingest.sink import describe_source
from pipeline.settings import Settings
from pipeline.types import StreamInfo
from workers.seams import WorkerInfo
from workers.types import VideoSource


def stream_info(source: VideoSource, info: WorkerInfo, settings: Settings) -> StreamInfo:
    """What the store keeps of a stream beside its clips."""
    identity = info.identity
    return StreamInfo(
        stream_id=source.stream_id,
        source=describe_source(source.url),
        model_id=identity.model_id,
        fingerprint=fingerprint(info, settings.store.dtype, source.fps),
        wall_start_s=source.wall_start_s,
        zone=settings.ingest.zone,
        settings={
            "model_type": identity.model_type,
            "revision": identity.revision,
            "weights": identity.weights,
            "processor": identity.processor,
            "dtype": identity.dtype,
            "stored_dtype": settings.store.dtype,
            "reducer": info.reducer,
            "retention": settings.ingest.retention,
            "clip_frames": info.clip_frames,
            "fps": source.fps,
            "frame_tokens": math.prod(pooled_grid(info.grid, info.config.pooling)),
        },
    )


def unread_stream_info(source: VideoSource, settings: Settings) -> StreamInfo:
    """The same of a stream whose file is refused before a model tells the rest."""
    ingest = settings.ingest
    return StreamInfo(
        stream_id=source.stream_id,
        source=describe_source(source.url),
        model_id=settings.model.id,
        fingerprint="",
        wall_start_s=source.wall_start_s,
        zone=settings.ingest.zone,
        settings={
            "stored_dtype": settings.store.dtype,
            "reducer": ingest.reducer,
            "retention": ingest.retention,
            "clip_frames": ingest.clip_frames,
            "fps": source.fps,
        },
    )


def fingerprint(info: WorkerInfo, stored_dtype: str, fps: float | None) -> str:
    """32 hex digits over all that decides a stream's tokens and how they are stored."""
    parts = [
        info.identity.digest(),
        info.reducer,
        asdict(info.config),
        info.grid,
        info.clip_frames,
        stored_dtype,
        fps,
    ]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
