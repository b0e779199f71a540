"""The seam between the product and a model family: its two halves and what passes between them.

The vision half turns frames into projected tokens and the attention they received; the language
half reads tokens back, whoever compressed or stored them meanwhile. A family is one adapter file
that has both; `open_vision_encoder` and `open_language_model` choose it by the checkpoint's
`model_type`. Nothing here knows of the reduction, of a store or of a cluster.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from aot import FrameFeatures, Grid, InvalidFeatures
from aot.types import Pooling
from workers.models.relevance import RelevanceRule
from workers.types import PixelFormat, TokenLayout


@dataclass(frozen=True)
class ModelIdentity:
    """Which tokens these are: what must agree for cached tokens to be read beside others."""

    model_id: str
    """Hub id, or the folder's name; for people, not part of the digest."""
    revision: str
    """Commit of the hub repository, or `local`; for people, not part of the digest."""
    model_type: str
    weights: str
    """Digest of the weight files; a copy of the same checkpoint has the same one."""
    processor: str
    """Digest of the pixel settings: size, interpolation, rescaling, mean, deviation."""
    dtype: str
    """In which the half computes, e.g. `float32`."""

    def digest(self) -> str:
        """32 hex digits; equal for a hub id and for a copy of it in a folder."""
        fields = [self.model_type, self.weights, self.processor, self.dtype]
        return hashlib.blake2b(json.dumps(fields).encode(), digest_size=16).hexdigest()

    def same_model(self, other: "ModelIdentity") -> bool:
        """True when a language half of one may read tokens of the other, in whatever dtype."""
        mine = (self.model_type, self.weights, self.processor)
        return mine == (other.model_type, other.weights, other.processor)


Marks = Literal["clip", "frame"]
"""One time mark a clip, or one a frame."""
TimeFormat = Literal["clock", "seconds"]
"""HH:MM:SS, or as in "12.5 seconds"."""


@dataclass(frozen=True)
class ReadingStyle:
    """How a model was taught to read the tokens of a clip; the defaults are the families'."""

    marks: Marks = "clip"
    keep_positions: bool = False
    """Every token is read at the place it had before the reduction."""
    name_streams: bool = True
    """Where several streams are read, the first mark of each names it."""
    mark: str = "[{}]"
    """What stands around the time in a mark."""
    times: TimeFormat = "clock"
    """How stream times are written; a wall clock's always as HH:MM:SS."""
    row_newlines: int = 0
    """Most newlines that the family adds to the tokens of one frame."""
    frames_per_mark: int = 1
    """Where frames are marked: those of a temporal patch share one."""
    relevance: tuple[RelevanceRule, ...] = ()
    """How it is asked whether a clip matters; empty asks in words."""
    needs_records: bool = False
    """Tokens are told by the records they are stored in, so that others cannot be read."""


@dataclass(frozen=True)
class Places:
    """Where the tokens of a run stood in time and space, before the reduction."""

    time_s: Float[Tensor, " m"]
    """Of the token's frame, from the run's first frame; float64."""
    cell: Int[Tensor, " m"]
    """Row-major cell of the grid."""
    grid: Grid
    """Rows and columns, as the language model reads them."""

    @property
    def row(self) -> Int[Tensor, " m"]:
        """Row of the grid, from the top."""
        return self.cell.div(self.grid[1], rounding_mode="floor")

    @property
    def column(self) -> Int[Tensor, " m"]:
        """Column of the grid, from the left."""
        return self.cell % self.grid[1]


@dataclass(frozen=True)
class StoredRows:
    """Where a run's tokens are stored, so that who has the store needs no more than this."""

    record: str
    """`fingerprint/stream/epoch/clip@level`: the level says what it was faded to."""
    rows: Int[Tensor, " m"]
    """Of the record, in the order they are read."""


@dataclass(frozen=True)
class VisualSegment:
    """A text mark, and the visual tokens that are read after it as one run."""

    mark: str
    """Such as "[00:12:30]"; may be empty."""
    tokens: Float[Tensor, "m d"]
    positions: Int[Tensor, " m"] | None = None
    """Where each token stood in the run before the reduction, `frame * cells + cell`; None reads
    the tokens as neighbours."""
    num_positions: int | None = None
    """Tokens of the run before the reduction; given together with `positions`."""
    places: Places | None = None
    """Needed by families that number time and space, or end rows by a token."""
    stored: StoredRows | None = None
    """Where the same tokens are stored; None where they were merged further since."""

    def __post_init__(self) -> None:
        if (self.positions is None) != (self.num_positions is None):
            raise InvalidFeatures("got one of positions and num_positions; give both or neither")
        num_tokens = self.tokens.shape[0]  # a prompt has hundreds: torch's own len() is slow
        if self.positions is not None and self.positions.shape[0] != num_tokens:
            raise InvalidFeatures(
                f"got {len(self.positions)} positions for {num_tokens} tokens; give one each"
            )
        if self.places is not None and self.places.cell.shape[0] != num_tokens:
            raise InvalidFeatures(
                f"got {len(self.places.cell)} places for {num_tokens} tokens; give one each"
            )

    def __repr__(self) -> str:
        return f"VisualSegment({self.mark!r}, tokens={tuple(self.tokens.shape)})"


@runtime_checkable
class VisionEncoder(Protocol):
    """Frames in, projected patch tokens and the attention they received out."""

    @property
    def identity(self) -> ModelIdentity:
        """Which checkpoint it is, and how it was loaded."""
        ...

    @property
    def pixel_format(self) -> PixelFormat:
        """Size and interpolation of the frames `encode` takes."""
        ...

    @property
    def grid(self) -> Grid:
        """Patch rows and columns of a frame, before any pooling."""
        ...

    @property
    def pooling(self) -> Pooling:
        """How the family pools a frame's grid before the language model reads it."""
        ...

    @property
    def dim(self) -> int:
        """Width of a token: that of the language model, for each part of the token."""
        ...

    @property
    def layout(self) -> TokenLayout:
        """What a token is, for models where it is more than one embedding of one frame."""
        ...

    def encode(
        self, pixels: UInt8[np.ndarray, "t h w 3"] | UInt8[Tensor, "t h w 3"]
    ) -> FrameFeatures:
        """Encode RGB frames that have the pixel format's size already.

        Tokens come in the model's dtype, attention in float32, both on the model's device. The
        first axis of the features counts temporal patches of `layout.frames` frames.

        Raises:
            InvalidFeatures: no frame, frames of another size, or a patch that is not full.
        """
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """Answers questions from visual tokens alone."""

    @property
    def identity(self) -> ModelIdentity:
        """Which checkpoint it is, and how it was loaded."""
        ...

    @property
    def dim(self) -> int:
        """Width of the tokens it reads."""
        ...

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        ...

    @property
    def reading(self) -> ReadingStyle:
        """How it wants stored clips to be read to it."""
        ...

    def count_tokens(self, question: str, segments: Sequence[VisualSegment]) -> int:
        """Length of the prompt in tokens: template, marks, visual tokens, newlines, question."""
        ...

    def score_relevance(
        self, question: str, parts: Sequence[Sequence[VisualSegment]]
    ) -> list[float]:
        """How much each part matters for the question, each read by itself; higher is more.

        Log-odds of yes where it is asked for that, else the log-probability of its first word:
        comparable between parts, not between questions.

        Raises:
            PromptTooLong: a part does not fit the context.
        """
        ...

    def stream_answer(
        self,
        question: str,
        segments: Sequence[VisualSegment],
        *,
        max_new_tokens: int | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[str]:
        """Yield the answer piece by piece; greedy unless the generation config says otherwise.

        Leaving the iterator early stops the generation, and so does `stop` once it is set; a
        prompt that is being read is read to its end first.

        Raises:
            PromptTooLong: prompt and answer do not fit the context.
            ModelError: the generation failed, or gave nothing within its time limit.
        """
        ...
