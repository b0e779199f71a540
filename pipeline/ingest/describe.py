"""What the store keeps of a stream beside its clips: what it was asked to be, and its fingerprint.

The fingerprint decides whether tokens belong together: it covers everything that decides them. What
the first release left out (retention, the reducer's version and the constants of its own rule) is
hashed where it differs from what that release had. So streams of that release, made with its
defaults, keep their fingerprint and their records' bytes; those made with another retention have
another one now, and are recognised by `first_fingerprint`. Knows of no store's layout and starts
nothing.
"""

import hashlib
import json
import math
import os
from dataclasses import asdict, replace
from typing import Any

from aot import pooled_grid
from pipeline.ingest.identity import describe_source, has_credentials
from pipeline.settings import Settings
from pipeline.values.made_with import Loaded, MadeWith, ModelAsked, SourceAsked, TokensAsked
from pipeline.values.types import StreamInfo
from workers.seams import WorkerInfo
from workers.types import VideoSource

_FIRST_RULES: dict[str, dict[str, Any]] = {
    "adaptive": {
        "powers": {"attention": 0.25, "novelty": 1.0},
        "position_weight": 0.25,
        "novelty_floor": 0.1,
        "keyframe_weight": 0.7,
        "threshold": 0.35,
        "advance": 0.2,
        "arrears": 0.05,
        "keep_mode": "budget",
        "merge_similarity": 0.75,
        "spread": 0.3,
        "memory": 8,
        "patience": 8.0,
        "merged_tokens": 1,
    },
    "random": {"seed": 0},
    "visionzip": {"contextual_share": 10 / 64},
    "tome": {"step_share": 0.5},
    "temporal_difference": {"first_share": 0.25},
    "holitom": {"static_similarity": 0.8, "contextual_share": 10 / 64},
}
"""Constants of reducers' own that no fingerprint of the first release covered, as they were."""
_FIRST_RETENTION = 0.1
"""Free in the first release, this by default, and not covered either."""


def stream_info(
    source: VideoSource, info: WorkerInfo, settings: Settings, *, zone: str | None = None
) -> StreamInfo:
    """What the store keeps of a stream beside its clips."""
    identity = info.identity
    unread = unread_stream_info(source, settings, zone=zone)
    assert unread.made_with is not None
    loaded = Loaded(
        model_type=identity.model_type,
        revision=identity.revision,
        weights=identity.weights,
        processor=identity.processor,
        dtype=identity.dtype,
        frame_tokens=info.layout.steps(math.prod(pooled_grid(info.grid, info.config.pooling))),
        rule={**asdict(info.config), **info.rule},
    )
    return replace(
        unread,
        model_id=identity.model_id,
        fingerprint=fingerprint(info, settings.store.dtype, source.fps, settings.ingest.retention),
        made_with=replace(unread.made_with, loaded=loaded),
    )


def unread_stream_info(
    source: VideoSource, settings: Settings, *, zone: str | None = None
) -> StreamInfo:
    """The same of a stream whose file is refused before a model tells the rest."""
    return StreamInfo(
        stream_id=source.stream_id,
        source=describe_source(source.url),
        model_id=settings.model.id,
        fingerprint="",
        wall_start_s=source.wall_start_s,
        made_with=_asked(source, settings, zone),
    )


def _asked(source: VideoSource, settings: Settings, zone: str | None) -> MadeWith:
    model, ingest = settings.model, settings.ingest
    return MadeWith(
        source=SourceAsked(
            url=describe_source(source.url),
            needs_credentials=has_credentials(source.url),
            fps=source.fps,
            start_s=source.start_s,
            end_s=source.end_s,
            max_hold_s=source.max_hold_s,
            wall_start_s=source.wall_start_s,
            zone=zone,
            follow=source.follow_s is not None,
        ),
        model=ModelAsked(_full_path(model.id), model.revision, model.device, model.dtype),
        tokens=TokensAsked(
            reducer=ingest.reducer,
            retention=ingest.retention,
            clip_frames=ingest.clip_frames,
            stored_dtype=settings.store.dtype,
            constants=dict(ingest.constants),
            threads=settings.ray.threads,
        ),
    )


def _full_path(model_id: str) -> str:
    """A folder is found again from wherever the stream is resumed; a hub id stays."""
    return os.path.abspath(model_id) if os.path.isdir(model_id) else model_id


def fingerprint(info: WorkerInfo, stored_dtype: str, fps: float | None, retention: float) -> str:
    """32 hex digits over all that decides a stream's tokens and how they are stored."""
    later = _later(info, retention)
    return _digest(info, stored_dtype, fps, [later] if later else [])


def first_fingerprint(
    info: WorkerInfo, stored_dtype: str, fps: float | None, retention: float
) -> str | None:
    """As the first release made it; None where it could not make these tokens."""
    if set(_later(info, retention)) - {"retention"}:
        return None
    return _digest(info, stored_dtype, fps, [])


def _later(info: WorkerInfo, retention: float) -> dict[str, Any]:
    """What is not as it was in the first release, of what its fingerprint did not cover."""
    first: dict[str, Any] = {
        **asdict(info.config),
        **_FIRST_RULES.get(info.reducer, {}),
        "reducer": info.rule.get("reducer"),  # covered by the name it is chosen by
        "version": 1,
        "retention": _FIRST_RETENTION,
    }
    today = {**info.rule, "retention": retention}
    return {name: value for name, value in today.items() if first.get(name, _NEW) != value}


_NEW = object()


def _digest(info: WorkerInfo, stored_dtype: str, fps: float | None, more: list[Any]) -> str:
    parts = [
        info.identity.digest(),
        info.reducer,
        asdict(info.config),
        info.grid,
        info.clip_frames,
        stored_dtype,
        fps,
        *more,
    ]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
