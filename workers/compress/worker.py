"""From clips to compressed clips: the vision half of a model, then a reducer.

Clips of any streams go in, as many compressed clips come out in the same order. On a CPU every
clip is encoded by itself on a fixed number of threads, so that its bytes depend neither on its
neighbours nor on the machine's cores; on an accelerator the frames of all clips share one batch,
which is launched whole (`workers.compress.accelerator`) and taken apart where that fails. Nothing
here knows of Ray, of a decoder or of a store.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from aot import ClipTokens, Reducer, make_reducer
from workers.compress.accelerator.conveyor import open_conveyor
from workers.compress.accelerator.lanes import open_lanes
from workers.compress.batch import as_compressed, compress_batch, compress_each
from workers.compress.device import fixed_threads, give_memory_back, raise_if_broken
from workers.compress.features import to_host
from workers.compress.push import push_each
from workers.compress.recall import Recall
from workers.compress.recurring import Recurring
from workers.errors import InvalidSettings, one_line
from workers.models import VisionEncoder, open_vision_encoder
from workers.seams import Push, Pushed, WorkerInfo
from workers.types import Clip, CompressedClip, FailedClip

logger = logging.getLogger(__name__)

HOST = torch.device("cpu")
T = TypeVar("T", bound=Push | Pushed | Exception)


@dataclass(frozen=True)
class CompressSettings:
    """Everything that decides a clip's tokens; equal settings give equal tokens."""

    model: str
    """A hub id or a folder."""
    revision: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    reducer: str = "adaptive"
    retention: float = 0.10
    """Share of the tokens to keep; what is really kept is measured."""
    clip_frames: int = 8
    constants: dict[str, Any] = field(default_factory=dict)
    """Fields of `AOTConfig` that are not to be derived from the retention and the model."""
    threads: int = 1
    """Threads of one worker on a CPU. Part of the settings because sums over other numbers of
    threads round differently; more throughput comes from more workers."""
    batch_clips: int = 8
    """Clips that share one batch on an accelerator; without meaning on a CPU."""

    def __post_init__(self) -> None:
        for name in ("clip_frames", "threads", "batch_clips"):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{name} must be at least 1, got {getattr(self, name)}")


class CompressWorker:
    """A loaded encoder and its reducer; what an actor or `InlineWorkers` holds.

    As many threads as `batches_at_once` may call it: one brings a batch together and launches it
    while another waits for its own. Launching is for one at a time.
    """

    def __init__(self, settings: CompressSettings) -> None:
        """Load the vision half.

        Raises:
            ModelError: the checkpoint cannot be used.
            InvalidConfig: no such reducer, or a constant that cannot be.
        """
        self._settings = settings
        self._device = torch.device(settings.device)
        self._encoder = open_vision_encoder(
            settings.model,
            revision=settings.revision,
            device=settings.device,
            dtype=settings.dtype,
        )
        self._reducer = reducer_for(self._encoder, settings)
        self._recall, self._recurring = Recall(), Recurring()
        self._launching = threading.RLock()
        self._lanes = open_lanes(self._device)
        self._conveyor = (
            None
            if self._on_cpu
            else open_conveyor(self._encoder, self._reducer, self._lanes, self._recurring)
        )

    @property
    def info(self) -> WorkerInfo:
        """What the loaded model and reducer are."""
        encoder = self._encoder
        return WorkerInfo(
            identity=encoder.identity,
            pixel_format=encoder.pixel_format,
            grid=encoder.grid,
            dim=encoder.dim,
            reducer=self._settings.reducer,
            config=self._reducer.config,
            clip_frames=self._settings.clip_frames,
            layout=encoder.layout,
            rule=self._reducer.describe(),
        )

    @property
    def batch_clips(self) -> int:
        """Clips to wait for: on a CPU, which computes them one by one, no more than one."""
        return 1 if self._on_cpu else self._settings.batch_clips

    @property
    def batches_at_once(self) -> int:
        """Batches to give at once, from as many threads, so that the device never waits for the
        next one; one where the host computes itself.
        """
        return 1 if self._conveyor is None else 2

    def compress(self, clips: Sequence[Clip]) -> list[CompressedClip | FailedClip]:
        """Compress clips of any streams, in order.

        Raises:
            WorkerBroken: the device can compute no more; this process has to end.
        """
        if self._on_cpu:
            with fixed_threads(self._settings.threads):
                return [self._compress_here(clip) for clip in clips]
        carried = self._carry([Push(clip.pixels, last=True) for clip in clips])
        results = [
            None if pushed is None else self._as_compressed(clip, pushed)
            for clip, pushed in zip(clips, carried, strict=True)
        ]
        left = [clip for clip, result in zip(clips, results, strict=True) if result is None]
        if left:
            with self._launching, self._lanes.entered():
                apart = compress_batch(self._encoder, self._reducer, left, mark=self._lanes.mark)
            others = iter(apart)
            return [next(others) if result is None else result for result in results]
        return [result for result in results if result is not None]

    def push(self, pushes: Sequence[Push]) -> list[Pushed | Exception]:
        """Compress frames onto the states of their clips, of any streams, in order.

        States come and go in host memory, so that the next push may go to another worker. An error
        of one push takes its place; the others are not touched by it.

        Raises:
            WorkerBroken: the device can compute no more; this process has to end.
        """
        if self._on_cpu:
            with fixed_threads(self._settings.threads):
                return self._push_apart(pushes, together=False)
        carried = self._carry(pushes)
        left = [push for push, result in zip(pushes, carried, strict=True) if result is None]
        others = iter(self._push_apart(left, together=True))
        return [next(others) if result is None else result for result in carried]

    def finish(self, state: Any, dtype: torch.dtype) -> ClipTokens:
        """What is left to emit of a clip that ends without another frame; on the host."""
        with self._launching, self._lanes.entered():
            return to_host(self._reducer.finish(state.to(self._device), dtype), dtype)

    def close(self) -> None:
        """Drop the model and give its device memory back before the process is ended."""
        with self._launching:
            del self._conveyor, self._encoder, self._reducer
            give_memory_back()

    def _compress_here(self, clip: Clip) -> CompressedClip | FailedClip:
        """By itself, unless it is the clip before over again."""
        known = self._recall.find(clip)
        if known is not None:
            return known
        [result] = compress_each(self._encoder, self._reducer, [clip])
        self._recall.keep(clip, result)
        return result

    @property
    def _on_cpu(self) -> bool:
        return self._device.type == "cpu"

    def _carry(self, pushes: Sequence[Push]) -> list[Pushed | None]:
        """A batch launched whole; None for what has to be tried otherwise."""
        nothing: list[Pushed | None] = [None] * len(pushes)
        if self._conveyor is None or len({push.pixels.shape[1:] for push in pushes}) != 1:
            return nothing
        try:
            with self._launching:
                underway = self._conveyor.launch(pushes)
            return underway.wait()
        except Exception as error:
            raise_if_broken(error)
            logger.warning("a batch of %d is taken apart: %s", len(pushes), one_line(error))
        with self._launching:
            self._recurring.forget()
            give_memory_back()
        return nothing

    def _as_compressed(self, clip: Clip, pushed: Pushed) -> CompressedClip:
        return as_compressed(clip, pushed, self._encoder.layout)

    def _push_apart(self, pushes: Sequence[Push], *, together: bool) -> list[Pushed | Exception]:
        if not pushes:
            return []
        try:
            with self._launching, self._lanes.entered():
                there = [_with_state_on(self._device, push) for push in pushes]
                done = push_each(
                    self._encoder,
                    self._reducer,
                    there,
                    together=together,
                    recurring=self._recurring,
                )
                return [_with_state_on(HOST, result) for result in done]
        except Exception as error:
            raise_if_broken(error)
            if len(pushes) == 1:
                return [error]
        self._recurring.forget()
        give_memory_back()
        return [result for push in pushes for result in self._push_apart([push], together=together)]


def _with_state_on(device: torch.device, item: T) -> T:
    if isinstance(item, Push | Pushed) and item.state is not None:
        return replace(item, state=item.state.to(device))
    return item


def reducer_for(encoder: VisionEncoder, settings: CompressSettings) -> Reducer:
    """The reducer the settings name, derived for the model's grid and pooling."""
    constants = {
        "pooling": encoder.pooling,
        "clip_frames": encoder.layout.steps(settings.clip_frames),
    }
    return make_reducer(
        settings.reducer,
        settings.retention,
        grid=encoder.grid,
        **{**constants, **settings.constants},
    )
