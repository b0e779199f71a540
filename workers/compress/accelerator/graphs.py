"""The reduction of a batch as one launch: a graph for every shape that comes up, captured once.

A reducer runs in fixed shapes, so that what a batch of one shape launches can be recorded and
launched again as a whole; that is done when the shape comes up for the second time. Batches are
padded to few shapes; what pads is marked as not there and decides nothing. Where there is no
capture, or it failed, the same step is run operation by operation: the tokens are the same.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from aot import CausalReducer, ClipState, FeatureBatch, FrameFeatures, PackedTokens
from workers.compress.accelerator.parcel import Parcel, pack
from workers.errors import one_line

logger = logging.getLogger(__name__)

CLIPS = (1, 2, 4, 8, 16, 32)
"""Numbers of clips that batches are padded to; larger ones are not captured."""

GRAPHS_KEPT = 32
"""The least recently used goes first."""

WARM_UPS = 2
"""Runs before a capture, in which kernels are compiled and tables made."""

Replay = Callable[[], Parcel]
Capture = Callable[[Callable[[], Parcel]], Replay]
"""Records what a function launches, and gives what launches it again."""


@dataclass(frozen=True)
class Bucket:
    """The shape of a batch after padding, and what is asked of it."""

    clips: int
    frames: int
    opens: bool
    """No clip has a state yet."""
    ends: bool
    """Some clip ends with these frames."""
    keeps_state: bool
    """Some clip does not."""

    @property
    def captured(self) -> bool:
        """Whether batches of this form run as a graph: no larger than the largest that is kept."""
        return self.clips <= CLIPS[-1]

    def mark(self, lengths: Sequence[int]) -> Bool[np.ndarray, "c t"]:
        """True at the frames that clips of these lengths have."""
        counts = np.zeros(self.clips, dtype=np.int64)
        counts[: len(lengths)] = lengths
        return np.arange(self.frames) < counts[:, None]


def pad_clips(clips: int) -> int:
    """The next of `CLIPS`; more than the last stay as many."""
    return next((size for size in CLIPS if size >= clips), clips)


def pad_frames(frames: int, clip_frames: int) -> int:
    """The next power of two, no more than a whole clip unless there are more frames than that.

    So few lengths come up that the tables which reducers keep for each are never dropped while a
    graph still reads them.
    """
    power = 1 << (frames - 1).bit_length()
    return min(power, clip_frames) if frames <= clip_frames else power


class StepGraphs:
    """Runs a reducer's steps by graphs. One thread at a time; results are the caller's own."""

    def __init__(
        self, reducer: CausalReducer, capture: Capture | None, *, kept: int = GRAPHS_KEPT
    ) -> None:
        self._reducer = reducer
        self._capture = capture
        self._room = kept
        self._graphs: OrderedDict[Any, _Graph | None] = OrderedDict()
        self._seen: set[Any] = set()

    def __len__(self) -> int:
        return sum(graph is not None for graph in self._graphs.values())

    def run(
        self,
        bucket: Bucket,
        features: FrameFeatures,
        lengths: Sequence[int],
        active: Bool[Tensor, "c t"],
        state: ClipState | None,
    ) -> Parcel:
        """One step of clips whose frames follow one another in `features`.

        `state` has a row for every clip, not padded. Gives the columns of `PackedTokens` under
        `emitted.`, what ends the clips under `ended.`, and the next states under `state.`.
        """
        given = features, lengths, active, state
        key = (bucket, features.grid, features.tokens.shape[2], features.tokens.dtype)
        graph = self._graph(key, *given)
        if graph is None:
            return _Inputs.like(bucket, *given).run(self._reducer, bucket)
        graph.inputs.fill(*given)
        parcel = graph.replay()
        return parcel.moved(parcel.data.clone())

    def _graph(self, key: Any, *given: Any) -> "_Graph | None":
        if self._capture is None or not key[0].captured:
            return None
        if key not in self._seen:
            self._seen.add(key)
            return None
        if key not in self._graphs:
            self._graphs[key] = self._record(key[0], self._capture, *given)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _record(self, bucket: Bucket, capture: Capture, *given: Any) -> "_Graph | None":
        while len(self._graphs) >= self._room:
            self._graphs.popitem(last=False)
        try:
            inputs = _Inputs.like(bucket, *given)
            return _Graph(inputs, capture(lambda: inputs.run(self._reducer, bucket)))
        except Exception as error:  # a broken device says so again when the step is run
            logger.warning(
                "%s could not be captured as a graph: %s; it is launched step by step",
                *(bucket, one_line(error)),
            )
            return None


@dataclass(frozen=True)
class _Graph:
    inputs: "_Inputs"
    replay: Replay


@dataclass(frozen=True)
class _Inputs:
    """The memory that a step reads."""

    batch: FeatureBatch
    state: ClipState | None

    @classmethod
    def like(
        cls,
        bucket: Bucket,
        features: FrameFeatures,
        lengths: Sequence[int],
        active: Tensor,
        state: ClipState | None,
    ) -> "_Inputs":
        """Memory for a bucket, filled."""
        maps = features.tokens, features.local_attention, features.global_attention
        columns = (x.new_zeros(bucket.clips, bucket.frames, *x.shape[1:]) for x in maps)
        batch = FeatureBatch(*columns, grid=features.grid, active=torch.zeros_like(active))
        rows = state and state.map(lambda value: value.new_zeros(bucket.clips, *value.shape[1:]))
        inputs = cls(batch, rows)
        inputs.fill(features, lengths, active, state)
        return inputs

    def fill(
        self,
        features: FrameFeatures,
        lengths: Sequence[int],
        active: Tensor,
        state: ClipState | None,
    ) -> None:
        """Write a batch; what was there before is gone, so that nothing of it is not finite."""
        for name in ("tokens", "local_attention", "global_attention"):
            _fill_frames(getattr(self.batch, name), getattr(features, name), lengths)
        assert self.batch.active is not None
        self.batch.active.copy_(active)
        if self.state is not None and state is not None:
            for name, column in state.columns.items():
                target = self.state.columns[name]
                target[: len(column)].copy_(column)
                target[len(column) :].zero_()

    def run(self, reducer: CausalReducer, bucket: Bucket) -> Parcel:
        """The step."""
        emitted, after = reducer.push_batch(self.batch, self.state)
        columns = _name_columns("emitted", emitted)
        if bucket.ends:
            ended = reducer.finish_batch(after, self.batch.tokens.dtype)
            columns |= _name_columns("ended", ended)
        if bucket.keeps_state:
            columns |= {f"state.{name}": value for name, value in after.columns.items()}
        return pack(columns)


def _fill_frames(target: Tensor, frames: Tensor, lengths: Sequence[int]) -> None:
    clips, longest = len(lengths), max(lengths)
    if set(lengths) == {longest}:
        target[:clips, :longest].copy_(frames.view(clips, longest, *frames.shape[1:]))
        target[clips:].zero_()
        target[:clips, longest:].zero_()
        return
    target.zero_()
    for row, part in zip(target, frames.split(list(lengths)), strict=False):
        row[: len(part)].copy_(part)


def _name_columns(prefix: str, packed: PackedTokens) -> dict[str, Tensor]:
    values = {column.name: getattr(packed, column.name) for column in fields(packed)}
    return {f"{prefix}.{name}": x for name, x in values.items() if isinstance(x, Tensor)}


class CudaCapture:
    """A `Capture` by CUDA graphs, which share the memory of what they do not give out."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._side = torch.cuda.Stream()

    def __call__(self, function: Callable[[], Parcel]) -> Replay:
        """Warm up, then record; another thread may use the card meanwhile."""
        current = torch.cuda.current_stream()
        with torch.no_grad(), torch.cuda.stream(current):  # comes back where a capture fails
            self._side.wait_stream(current)
            with torch.cuda.stream(self._side):
                for _ in range(WARM_UPS):
                    function()
            current.wait_stream(self._side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"
            ):
                parcel = function()

        def replay() -> Parcel:
            graph.replay()
            return parcel

        return replay
