"""The seams of a session: what compresses clips, what keeps them, and what passes between.

Protocols and what workers and sessions say of themselves. Nothing here knows of Ray, of a decoder
or of a store: `InlineWorkers` and `ClusterWorkers` are worker groups, a store offers sinks, and
sessions are written against the protocols alone.

Whole clips go through a `WorkerGroup`, open ones through a `Pusher`: a push is a pure function of
frames and the clip's state, nothing is kept between pushes, so that a push may be repeated, and the
next one may go to another worker.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8

from aot import AOTConfig, ClipTokens, Grid
from workers.models.base import ModelIdentity, ReadingStyle, VisualSegment
from workers.types import (
    PLAIN_LAYOUT,
    Clip,
    CompressedClip,
    Cursor,
    FailedClip,
    PixelFormat,
    StopSignal,
    StreamGap,
    TokenLayout,
)

SessionState = Literal["starting", "running", "complete", "stopped", "failed"]


@dataclass(frozen=True)
class WorkerInfo:
    """What workers have loaded: what a session decodes for, and what decides a clip's tokens."""

    identity: ModelIdentity
    """Of the vision half."""
    pixel_format: PixelFormat
    """The size and interpolation frames are decoded to."""
    grid: Grid
    """Patch rows and columns of a frame, before pooling."""
    dim: int
    """Width of a token."""
    reducer: str
    config: AOTConfig
    """As it was derived for the model's grid and pooling."""
    clip_frames: int
    """Sampled frames in a clip."""
    layout: TokenLayout = PLAIN_LAYOUT
    """What a token is."""
    rule: dict[str, Any] = field(default_factory=dict)
    """What the reducer says of itself: version, and every constant that decides the tokens."""


@dataclass(frozen=True)
class SessionReport:
    """How a session ended; the sink keeps it as the stream's status."""

    state: SessionState
    truncated: bool = False
    """The source ended before its own declared end."""
    damaged: int = 0
    """Frames the decoder reported as damaged."""
    error_code: str | None = None
    error: str | None = None


@runtime_checkable
class WorkerGroup(Protocol):
    """Workers that hold a loaded vision encoder and a reducer."""

    @property
    def info(self) -> WorkerInfo:
        """What loaded models and reducer are."""
        ...

    def compress_stream(
        self, clips: Iterable[Clip], *, stop: StopSignal | None = None
    ) -> Iterator[CompressedClip | FailedClip]:
        """Compress clips in order, pulling them as needed and holding a bounded number.

        An error of `clips` is raised after every clip pulled before it was yielded. Once `stop`
        is set no clip is pulled any more; those in work are yielded if they come soon.
        """
        ...

    def close(self) -> None:
        """Free what the group holds."""
        ...


@dataclass(frozen=True)
class Push:
    """The next frames of one clip."""

    pixels: UInt8[np.ndarray, "t h w 3"]
    state: Any = None
    """What the push before gave; None opens a clip."""
    last: bool = False
    """Nothing comes behind these frames: the clip ends."""
    recurring: str | None = None
    """Whose frames they are, where the last one may come again, as where a camera is still: a
    worker that can tells it from its pixels, and does not encode it again."""


@dataclass(frozen=True)
class Pushed:
    """What a push gave."""

    tokens: ClipTokens
    """Emitted by these frames, and by the clip's end where it ended; on the host. `frame` counts
    temporal patches, which are frames unless the encoder's layout says otherwise."""
    state: Any
    tokens_in: int
    """Pooled tokens before the reduction."""
    encode_s: float
    reduce_s: float
    recalled: int = 0
    """Frames that were not encoded, since the same ones were before."""
    away_s: float = 0.0
    """Seconds that it waited while no worker was there that could take it."""


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


@runtime_checkable
class ClipSink(Protocol):
    """Where one stream's compressed clips go, in order; holds the right to write to it."""

    def position(self) -> Cursor | None:
        """The last stored clip, None for a stream that has none."""
        ...

    def put(self, clip: CompressedClip) -> int:
        """Store a clip and move the position, both or neither; return the bytes stored.

        Storing the same clip twice is the same as storing it once.
        """
        ...

    def put_gap(self, gap: StreamGap) -> None:
        """Store a gap; storing the same gap twice is the same as storing it once."""
        ...

    def finish(self, report: SessionReport) -> None:
        """Record how the session ended."""
        ...

    def close(self) -> None:
        """Give the stream back to other writers."""
        ...


@runtime_checkable
class SinkFactory(Protocol):
    """A picklable recipe for a sink, opened where the session runs.

    A session that is started again after a crash opens the same factory, so the factory carries
    the writer's name: a new sink takes over what its predecessor of that name held.
    """

    def open(self) -> ClipSink:
        """Open the sink where the session runs."""
        ...


@runtime_checkable
class Answerer(Protocol):
    """What a question needs of a language half, whether it is in this process or elsewhere."""

    @property
    def identity(self) -> ModelIdentity:
        """Which checkpoint answers."""
        ...

    @property
    def reading(self) -> ReadingStyle:
        """How it wants stored clips to be read to it."""
        ...

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        ...

    def count_tokens(self, question: str, segments: Sequence[VisualSegment]) -> int:
        """Length of the prompt in tokens; of a segment only mark and length count."""
        ...

    def score_relevance(
        self, question: str, parts: Sequence[Sequence[VisualSegment]]
    ) -> list[float]:
        """How much each part matters for the question; comparable between parts alone."""
        ...

    def stream_answer(
        self, question: str, segments: Sequence[VisualSegment], *, max_new_tokens: int
    ) -> Iterator[str]:
        """Yield the answer's text in pieces, each as soon as it is certain."""
        ...
