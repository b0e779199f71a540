"""From stored clips to what a language half reads: time marks with their visual tokens.

A clip is read as one run behind one mark, in the order it was emitted, or frame by frame, each
behind its own mark (temporal patch by patch, where a token speaks of several frames); of a clip
that reaches out of the asked range only what speaks of it. Every token goes with its place in time
and space. Knows of no store and no model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from aot import ClipTokens, TokenKind
from aot.types import TOKEN_COLUMNS
from workers.models.base import (
    Marks,
    Places,
    ReadingStyle,
    StoredRows,
    TimeFormat,
    VisualSegment,
)
from workers.types import CompressedClip


def format_time(time_s: float) -> str:
    """Seconds as `HH:MM:SS`; negative times count as zero."""
    minutes, seconds = divmod(max(int(time_s), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}"


def format_seconds(time_s: float) -> str:
    """Seconds as `12.5 seconds`; negative times count as zero."""
    return f"{max(time_s, 0.0):.1f} seconds"


def stream_time(times: TimeFormat) -> Callable[[float], str]:
    """How a stream's own times are written."""
    return format_seconds if times == "seconds" else format_time


def format_mark(
    time_s: float,
    *,
    mark: str = "[{}]",
    name: str | None = None,
    time_text: Callable[[float], str] = format_time,
) -> str:
    """A time as `[HH:MM:SS]` or `[name HH:MM:SS]`, as `time_text` and `mark` write it."""
    text = time_text(time_s)
    return mark.format(text if name is None else f"{name} {text}")


def placeholder(mark: str, num_tokens: int) -> VisualSegment:
    """A segment of some length that holds nothing: enough to count what a prompt takes."""
    return VisualSegment(mark, torch.empty(num_tokens, 0))


def read_clip(
    clip: CompressedClip,
    *,
    marks: Marks = "clip",
    keep_positions: bool = False,
    name: str | None = None,
    within: tuple[float, float] | None = None,
    mark: str = "[{}]",
    time_text: Callable[[float], str] = format_time,
    skip_empty: bool = False,
    record: str | None = None,
) -> list[VisualSegment]:
    """Segments of one clip; its first mark says `name` where one is given.

    With `keep_positions` every token is read at the place it had before the reduction, so that
    the model sees which ones are missing; it takes as much of the context as all tokens would.
    `within` leaves out the tokens of frames that were not shown in [start_s, end_s); merged anchors
    stay, as they speak for the whole clip. `skip_empty` leaves out frames that kept no token, where
    there is a mark a frame. `record` names the stored clip that this one is, with all its rows.
    """
    frames = frames_within(clip, within)
    if skip_empty and marks == "frame":
        told = set(clip.tokens.frame.tolist())
        frames = [frame for frame in frames if frame in told] or frames[:1]
    if not frames:
        return []

    def mark_of(time_s: float, named: str | None) -> str:
        return format_mark(time_s, mark=mark, name=named, time_text=time_text)

    patches = _patches_of(clip, frames)
    if marks == "frame":
        return [
            _segment(
                clip,
                mark_of(_middle_s(clip, patch), None if i else name),
                _of_patch(clip.tokens, patch, first=patches[0]),
                [patch],
                keep_positions,
                alone=True,
                record=record,
            )
            for i, patch in enumerate(patches)
        ]
    kept = _speaks_of(clip, patches).nonzero()[:, 0]
    mark_text = mark_of(_begin_s(clip, frames[0]), name)
    return [_segment(clip, mark_text, kept, patches, keep_positions, record=record)]


def trim_clip(clip: CompressedClip, within: tuple[float, float] | None) -> CompressedClip:
    """The clip with those of its tokens alone that `read_clip` reads of [start_s, end_s)."""
    patches = _patches_of(clip, frames_within(clip, within))
    kept = _speaks_of(clip, patches)
    if not patches:
        kept = torch.zeros_like(kept)
    columns = {name: getattr(clip.tokens, name)[kept] for name in TOKEN_COLUMNS}
    return replace(clip, tokens=replace(clip.tokens, **columns))


def frames_within(clip: CompressedClip, within: tuple[float, float] | None) -> list[int]:
    """The frames shown in [start_s, end_s): each until the next one, or the clip's end."""
    begins_s = [min(clip.start_s, clip.pts_s[0]), *clip.pts_s[1:]]
    ends_s = [*clip.pts_s[1:], max(clip.end_s, clip.pts_s[-1])]
    if within is None:
        return list(range(len(clip.pts_s)))
    start_s, end_s = within
    return [
        frame
        for frame, (shown_s, until_s) in enumerate(zip(begins_s, ends_s, strict=True))
        if shown_s < end_s and until_s > start_s
    ]


def _patches_of(clip: CompressedClip, frames: list[int]) -> list[int]:
    """First frames of the temporal patches in which these frames lie."""
    size = clip.layout.frames
    return sorted({frame // size * size for frame in frames})


def _begin_s(clip: CompressedClip, first: int) -> float:
    return clip.start_s if first == 0 else clip.pts_s[first]


def _middle_s(clip: CompressedClip, patch: int) -> float:
    """Halfway between the first and the last frame of a temporal patch."""
    last = min(patch + clip.layout.frames, len(clip.pts_s)) - 1
    return (clip.pts_s[patch] + clip.pts_s[last]) / 2


def _speaks_of(clip: CompressedClip, patches: list[int]) -> Bool[Tensor, " m"]:
    """Tokens of these frames, and anchors that gathered from all of them."""
    wanted = torch.zeros(len(clip.pts_s), dtype=torch.bool)
    wanted[patches] = True
    tokens = clip.tokens
    return wanted[tokens.frame.long()] | (tokens.kind == int(TokenKind.MERGED))


def _of_patch(tokens: ClipTokens, patch: int, *, first: int) -> Int[Tensor, " k"]:
    """A frame's tokens in raster order; an anchor and what was merged into it stand together.

    Anchors of a keyframe that is not read stand with the first frame that is.
    """
    is_here = tokens.frame == patch
    if patch == first:
        is_here |= (tokens.frame < first) & (tokens.kind == int(TokenKind.MERGED))
    here = is_here.nonzero()[:, 0]
    return here[tokens.cell[here].long().argsort(stable=True)]


def _segment(
    clip: CompressedClip,
    mark: str,
    rows: Int[Tensor, " k"],
    patches: list[int],
    keep_positions: bool,
    *,
    alone: bool = False,
    record: str | None = None,
) -> VisualSegment:
    """Some tokens of a clip as a run that reads the frames (or temporal patches) `patches`.

    Times begin with the first of them. Positions count from the clip's first frame, or from the
    only one of a run that reads a frame `alone`.
    """
    tokens, size = clip.tokens, clip.layout.frames
    cells = tokens.grid[0] * tokens.grid[1]
    frame, cell = tokens.frame[rows].long(), tokens.cell[rows].long()
    pts_s = torch.tensor(clip.pts_s, dtype=torch.float64)
    time_s = (pts_s[frame] - pts_s[patches[0]]).clamp(min=0)
    places = Places(time_s, cell, tokens.grid)
    stored = None if record is None else StoredRows(record, rows)
    segment = VisualSegment(mark, tokens.tokens[rows], places=places, stored=stored)
    if not keep_positions:
        return segment
    if alone:
        return replace(segment, positions=cell, num_positions=cells)
    patch = frame.div(size, rounding_mode="floor")
    num_positions = cells * clip.layout.steps(len(clip.pts_s))
    return replace(segment, positions=patch * cells + cell, num_positions=num_positions)


@dataclass(frozen=True)
class RunCosts:
    """Places of a prompt that some of many clips' tokens take, in the runs they are read in.

    At most: marks may be cheaper than the one that was measured.
    """

    told: Sequence[tuple[CompressedClip, Sequence[int]]]
    """Records in order, each with the clip that every frame is of, counted from 0."""
    style: ReadingStyle
    mark_cost: int
    """Of a mark, and of the end of its run."""

    def count(self, stays: Bool[Tensor, " n"] | None = None) -> int:
        """Places that tokens take, marks and newlines included; those of all by default."""
        run_of = self._run_of if stays is None else self._run_of[stays]
        is_told = torch.zeros_like(self._prices).index_fill_(0, run_of, 1)
        places = int(torch.dot(self._prices, is_told))
        if self.style.keep_positions:
            return places
        if self._row_of is not None:
            places += len(torch.unique(self._row_of if stays is None else self._row_of[stays]))
        return places + len(run_of)

    @property
    def least(self) -> int:
        """Of a token by itself, at most."""
        beside = 0 if self.style.keep_positions else 1 + bool(self.style.row_newlines)
        return int(self._prices.max()) + beside

    @cached_property
    def _runs(self) -> list[list[int]]:
        """Of every record, the run that a frame is read in, counted from 0."""
        if self.style.marks == "clip":
            return [list(of_frame) for _, of_frame in self.told]
        return [
            [frame // record.layout.frames for frame in range(len(record.pts_s))]
            for record, _ in self.told
        ]

    @cached_property
    def _run_of(self) -> Int[Tensor, " n"]:
        """The run that each token is read in."""
        runs, first = [], 0
        for (record, _), of_frame in zip(self.told, self._runs, strict=True):
            runs.append(torch.tensor(of_frame)[record.tokens.frame.long()] + first)
            first += of_frame[-1] + 1
        return torch.cat(runs)

    @cached_property
    def _prices(self) -> Int[Tensor, " r"]:
        """Places that each run takes beside its tokens; all of it where positions are kept."""
        prices = []
        for (record, _), of_frame in zip(self.told, self._runs, strict=True):
            rows, columns = record.tokens.grid
            whole = rows * columns + min(self.style.row_newlines, rows)
            for run in range(of_frame[-1] + 1):
                alone = self.style.marks == "frame"
                steps = 1 if alone else record.layout.steps(of_frame.count(run))
                prices.append(whole * steps if self.style.keep_positions else 0)
        return torch.tensor(prices) + self.mark_cost

    @cached_property
    def _row_of(self) -> Int[Tensor, " n"] | None:
        """Of families that end rows, the row of its frame that each token is in."""
        if not self.style.row_newlines:
            return None
        rows, first = [], 0
        for record, _ in self.told:
            tokens, (height, width) = record.tokens, record.tokens.grid
            row = tokens.frame.long() * height + tokens.cell.long() // width
            # Merged anchors are rows of their own, behind those of the frames.
            rows.append(2 * row + (tokens.kind == int(TokenKind.MERGED)) + first)
            first += 2 * height * len(record.pts_s)
        return torch.cat(rows)
