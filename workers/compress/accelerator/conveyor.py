"""Batches of pushes on their way over an accelerator: launched whole, awaited once, at their end.

`launch` sends pixels and states in one copy, launches the encoder and the reduction, and the copy
of what comes out, and returns while all of it still runs, so that the next batch is brought
together, sent and launched behind it. `Underway.wait` sleeps until the copy has come.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from aot import (
    CausalReducer,
    ClipState,
    ClipTokens,
    Grid,
    InvalidFeatures,
    Reducer,
    concatenate,
)
from aot.packing import exact_dtype
from aot.seam import reduced_grid
from aot.types import TOKEN_COLUMNS
from workers.compress.accelerator.graphs import (
    Bucket,
    CudaCapture,
    StepGraphs,
    pad_clips,
    pad_frames,
)
from workers.compress.accelerator.lanes import CudaLanes, Lanes, Mark
from workers.compress.accelerator.parcel import Parcel, pack_on_host
from workers.compress.recurring import Recurring, SortedPatches
from workers.models import VisionEncoder
from workers.seams import Push, Pushed


@dataclass(frozen=True)
class Underway:
    """A batch that was launched."""

    pushes: Sequence[Push]
    patches: SortedPatches
    """Of each, and which of them were encoded for it."""
    parcel: Parcel
    """What comes out, in memory of the host; filled once `done` is reached."""
    template: ClipState
    """What a state is of, for its columns."""
    began: Mark
    encoded: Mark
    reduced: Mark
    done: Mark

    def wait(self) -> list[Pushed | None]:
        """The results in order, in memory of their own.

        None stands for a clip whose features are not finite or whose transport was left too early:
        it is to be tried again by itself, which says what is wrong, or takes the time it needs.
        """
        self.done.wait()
        columns, clips = self.parcel.columns, len(self.pushes)
        emitted = _cut(columns, "emitted", self.template.grid, clips)
        ended = emitted
        if any(push.last for push in self.pushes):
            ended = _cut(columns, "ended", self.template.grid, clips)
        return [
            self._result(row, [emitted[row], ended[row]] if push.last else [emitted[row]])
            for row, push in enumerate(self.pushes)
        ]

    def _result(self, row: int, parts: Sequence[ClipTokens | None]) -> Pushed | None:
        good = [part for part in parts if part is not None]
        if len(good) < len(parts):
            return None
        push, (rows, columns) = self.pushes[row], self.template.grid
        steps = self.patches.steps
        share = steps[row] / sum(steps)
        keeps = not push.last
        return Pushed(
            tokens=concatenate(good),
            state=_take_state(self.parcel.columns, self.template, row) if keeps else None,
            tokens_in=steps[row] * rows * columns,
            encode_s=self.encoded.seconds_since(self.began) * share,
            reduce_s=self.reduced.seconds_since(self.encoded) * share,
            recalled=self.patches.count_recalled(row, len(push.pixels)),
        )


class Conveyor:
    """An encoder and a causal reducer on one device; one thread at a time may launch."""

    def __init__(
        self,
        encoder: VisionEncoder,
        reducer: CausalReducer,
        lanes: Lanes,
        graphs: StepGraphs,
        recurring: Recurring | None = None,
    ) -> None:
        self._encoder = encoder
        self._reducer = reducer
        self._lanes = lanes
        self._graphs = graphs
        self._recurring = recurring or Recurring()

    def launch(self, pushes: Sequence[Push]) -> Underway:
        """Start a batch of pushes whose frames are of one size; states lie on the host.

        Raises:
            InvalidFeatures: frames or states that do not belong to the model.
        """
        with self._lanes.entered(), torch.no_grad():
            return self._launch(pushes)

    def _launch(self, pushes: Sequence[Push]) -> Underway:
        patches = self._recurring.sort(pushes, self._encoder.layout)
        lengths = patches.steps
        bucket, template = self._bucket(pushes, lengths), self._open_state()
        sent = self._send(pushes, patches, bucket, template)
        began = self._lanes.mark()
        features = patches.join(self._encoder.encode(sent["pixels"]) if patches.new else None)
        self._recurring.keep(pushes, patches, features)
        encoded = self._lanes.mark()
        state = None if bucket.opens else _take_state(sent, template)
        parcel = self._graphs.run(bucket, features, lengths, sent["active"], state)
        reduced = self._lanes.mark()
        data, done = self._lanes.download(parcel.data)
        return Underway(
            pushes, patches, parcel.moved(data), template, began, encoded, reduced, done
        )

    def _bucket(self, pushes: Sequence[Push], lengths: Sequence[int]) -> Bucket:
        return Bucket(
            clips=pad_clips(len(pushes)),
            frames=pad_frames(max(lengths), self._reducer.config.clip_frames),
            opens=all(push.state is None for push in pushes),
            ends=any(push.last for push in pushes),
            keeps_state=not all(push.last for push in pushes),
        )

    def _send(
        self,
        pushes: Sequence[Push],
        patches: SortedPatches,
        bucket: Bucket,
        template: ClipState,
    ) -> dict[str, Tensor]:
        """Pixels that have to be encoded, marks and a state for every clip, unless all are opened;
        by one copy."""
        columns: dict[str, Sequence[np.ndarray | Tensor]] = {"active": [bucket.mark(patches.steps)]}
        if patches.new:
            columns["pixels"] = patches.new
        if not bucket.opens:
            states = [template if push.state is None else push.state for push in pushes]
            _require_kind(states, template)
            columns |= {
                f"state.{name}": [state.columns[name] for state in states]
                for name in template.columns
            }
        parcel = pack_on_host(columns, pinned=self._lanes.pinned)
        return parcel.moved(self._lanes.upload(parcel.data)).columns

    def _open_state(self) -> ClipState:
        """The state of a clip without a frame, on the host."""
        encoder, host = self._encoder, torch.device("cpu")
        grid = reduced_grid(encoder.grid, self._reducer.config)
        dtype = exact_dtype(getattr(torch, encoder.identity.dtype))
        return self._reducer.open_state(1, grid, encoder.dim, dtype, host)


def open_conveyor(
    encoder: VisionEncoder, reducer: Reducer, lanes: Lanes, recurring: Recurring | None = None
) -> Conveyor | None:
    """What carries batches over a device; None for a reducer that runs clip by clip."""
    if not isinstance(reducer, CausalReducer):
        return None
    with lanes.entered():
        capture = CudaCapture() if isinstance(lanes, CudaLanes) else None
    return Conveyor(encoder, reducer, lanes, StepGraphs(reducer, capture), recurring)


def _require_kind(states: Sequence[ClipState], template: ClipState) -> None:
    """Raise InvalidFeatures unless the states are those of this reducer and model."""
    expected = _kind(template)
    for state in states:
        if _kind(state) != expected:
            raise InvalidFeatures(
                f"got {state!r}, expected {template!r} and its columns; a clip stays with one "
                "model and configuration"
            )


def _kind(state: ClipState) -> object:
    columns = {name: (x.dtype, tuple(x.shape)) for name, x in state.columns.items()}
    return type(state), state.grid, state.width, columns


def _cut(
    columns: dict[str, Tensor], prefix: str, grid: Grid, clips: int
) -> list[ClipTokens | None]:
    """Each clip's tokens; None for one whose tokens mean nothing."""
    good = columns[f"{prefix}.finite"][:clips]
    if f"{prefix}.settled" in columns:
        good = good & columns[f"{prefix}.settled"][:clips]
    counts = columns[f"{prefix}.count"][:clips].tolist()
    return [
        ClipTokens(
            **{name: columns[f"{prefix}.{name}"][row, :count] for name in TOKEN_COLUMNS},
            grid=grid,
        )
        if is_good
        else None
        for row, (count, is_good) in enumerate(zip(counts, good.tolist(), strict=True))
    ]


def _take_state(
    columns: dict[str, Tensor], template: ClipState, row: int | None = None
) -> ClipState:
    """The states in a parcel, or a copy of one of them."""
    values = {name: columns[f"state.{name}"] for name in template.columns}
    if row is not None:
        values = {name: value[row : row + 1].clone() for name, value in values.items()}
    return replace(template, **values)
