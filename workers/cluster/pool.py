"""A pool of compress actors, and the worker group that feeds it.

The actor's life has four moments: it is created empty; the first call loads the model, once;
calls compress; `destroy` drops the model, so that device memory is free before the process is.
Calls that arrive while a batch is at work form the next one, so that clips of many sessions share
batches and nobody waits for a timer. Compressing a clip is a pure function, so any actor may do it
any number of times: that is the whole of the fault tolerance here.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
)

from workers.compress import CompressSettings, CompressWorker
from workers.errors import InvalidSettings, WorkerError, WorkerLost
from workers.seams import StopSignal, WorkerInfo
from workers.types import Clip, CompressedClip, FailedClip

logger = logging.getLogger(__name__)

LOST = (RayActorError, ObjectLostError)
"""What a dead worker, or a dead node with a result on it, looks like."""

LONE_TRIES = 2
"""Workers that a clip may cost by itself before it is given up."""

READY_POLL_S = 2.0

POLL_S = 0.25
"""How often a waiting session looks whether it was asked to stop."""


@dataclass(frozen=True)
class PoolSettings:
    """How many compress actors there are, where they run, how long they may take."""

    workers: int = 1
    worker_cpus: float = 0.5
    """Of Ray's CPU resource: below 1, so that a session and a worker fit on two cores."""
    worker_gpus: float | None = None
    """Of Ray's GPU resource; None takes a whole one when the device is an accelerator."""
    worker_resources: dict[str, float] = field(default_factory=dict)
    """Further resources, to keep the actors on nodes that declare them."""
    clips_in_flight: int = 4
    """Clips that one session may have decoded and not yet committed: the back-pressure."""
    ready_timeout_s: float = 300.0
    """For the start of an actor: a free place in the cluster and the model's load."""
    result_timeout_s: float = 600.0
    """For one clip, with the restarts of its worker."""
    stop_grace_s: float = 5.0
    """How long clips in work are waited for after a stop."""

    def __post_init__(self) -> None:
        for name in ("workers", "clips_in_flight"):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{name} must be at least 1, got {getattr(self, name)}")


class CompressActor:
    """Holds one model; an async actor, so that calls queue up while a batch is computed."""

    def __init__(self, settings: CompressSettings) -> None:
        self._settings = settings
        self._worker: CompressWorker | None = None
        self._waiting: deque[tuple[Clip, asyncio.Future]] = deque()
        self._draining: asyncio.Task | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compress")

    async def describe(self) -> WorkerInfo:
        """Load the model if need be; its errors come out here, typed, not as a dead actor."""
        return (await self._in_thread(self._loaded)).info

    async def compress(self, clip: Clip) -> CompressedClip | FailedClip:
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((clip, done))
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        return await done

    async def destroy(self) -> None:
        """Free device memory; a killed process leaves it to the driver to find out."""
        if self._worker is not None:
            await self._in_thread(self._worker.close)
            self._worker = None

    async def _drain(self) -> None:
        while self._waiting:
            size = min(self._settings.batch_clips, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(size)]
            try:
                results = await self._in_thread(self._compress, [clip for clip, _ in batch])
            except Exception as error:
                for _, done in batch:
                    done.set_exception(error)
            else:
                for (_, done), result in zip(batch, results, strict=True):
                    done.set_result(result)
        self._draining = None

    def _loaded(self) -> CompressWorker:
        if self._worker is None:
            self._worker = CompressWorker(self._settings)
        return self._worker

    def _compress(self, clips: Sequence[Clip]) -> list[CompressedClip | FailedClip]:
        return self._loaded().compress(clips)

    async def _in_thread(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)


def open_pool(
    compress: CompressSettings, pool: PoolSettings, *, name: str, detached: bool
) -> tuple[list[Any], WorkerInfo]:
    """Create the actors, or find those of this name, and wait until each has its model.

    Raises:
        ModelError: the checkpoint cannot be used.
        WorkerLost: no place in the cluster, or no start within `ready_timeout_s`.
    """
    gpus = pool.worker_gpus
    if gpus is None:
        gpus = 1.0 if compress.device.startswith("cuda") else 0.0
    options: dict[str, Any] = dict(
        num_cpus=pool.worker_cpus,
        num_gpus=gpus,
        resources=dict(pool.worker_resources),
        # Endless, because a stream may outlive any number of machines and an actor holds nothing
        # but its model. What bounds a clip that kills its worker each time is the retry limit.
        max_restarts=-1,
        max_task_retries=1,
        get_if_exists=True,
        lifetime="detached" if detached else None,
    )
    handles = [
        create_actor(CompressActor, compress, name=f"{name}-{number}", **options)
        for number in range(pool.workers)
    ]
    try:
        infos = ray.get([h.describe.remote() for h in handles], timeout=pool.ready_timeout_s)
    except GetTimeoutError:
        close_pool(handles, timeout_s=0.0)
        raise WorkerLost(_not_ready(pool, gpus)) from None
    except RayTaskError as error:
        close_pool(handles)
        raise original_error(error) from None
    return handles, infos[0]


def create_actor(actor_class: type, *args: Any, **options: Any) -> Any:
    """An actor of a plain class; Ray's own types do not survive its decorators."""
    remote_class: Any = ray.remote(actor_class)
    return remote_class.options(**options).remote(*args)


def close_pool(handles: Sequence[Any], *, timeout_s: float = 5.0) -> None:
    """Let every actor free its device, then end it; an actor that is gone already is fine."""
    ray.wait(
        [handle.destroy.remote() for handle in handles],
        num_returns=len(handles),
        timeout=timeout_s,
    )
    for handle in handles:
        ray.kill(handle)


@dataclass
class _InWork:
    clip: Clip
    worker: int
    ref: Any


class ClusterWorkers:
    """A `WorkerGroup` over the actors of a pool; each session has its own.

    At most `clips_in_flight` clips are out at a time. Pixels go from the session to the worker
    through Ray's object store, without a copy on the worker's side.
    """

    def __init__(
        self, handles: Sequence[Any], info: WorkerInfo, pool: PoolSettings, *, first: int = 0
    ) -> None:
        """`first` is the worker this session turns to when all are equally busy."""
        self._handles = list(handles)
        self._info = info
        self._pool = pool
        self._first = first
        self._in_work: deque[_InWork] = deque()

    @property
    def info(self) -> WorkerInfo:
        return self._info

    def compress_stream(
        self, clips: Iterable[Clip], *, stop: StopSignal | None = None
    ) -> Iterator[CompressedClip | FailedClip]:
        """Keep the pool busy with the next clips and yield the results in order.

        Raises:
            WorkerLost: no result within `result_timeout_s`, or no worker left.
            Whatever `clips` raises, after the clips before it.
        """
        clips = iter(clips)
        ended: Exception | bool = False
        self._in_work.clear()
        while True:
            while not ended and not _asked(stop) and self._has_room():
                try:
                    self._submit(next(clips))
                except StopIteration:
                    ended = True
                except Exception as error:
                    ended = error
            if not self._in_work:
                break
            result = self._oldest(stop)
            if result is None:
                return
            yield result
        if isinstance(ended, Exception):
            raise ended

    def close(self) -> None:
        """Forget what is in work; the pool belongs to whoever opened it."""
        self._in_work.clear()

    def _has_room(self) -> bool:
        return len(self._in_work) < self._pool.clips_in_flight

    def _submit(self, clip: Clip) -> None:
        worker = self._least_busy()
        self._in_work.append(_InWork(clip, worker, self._send(clip, worker)))

    def _send(self, clip: Clip, worker: int) -> Any:
        return self._handles[worker].compress.remote(clip)

    def _least_busy(self) -> int:
        busy = [0] * len(self._handles)
        for item in self._in_work:
            busy[item.worker] += 1
        order = range(self._first, self._first + len(busy))
        return min((number % len(busy) for number in order), key=busy.__getitem__)

    def _oldest(self, stop: StopSignal | None) -> CompressedClip | FailedClip | None:
        """The result of the oldest clip in work, None when a stop does not leave it the time."""
        item = self._in_work[0]
        try:
            result = self._wait(item, stop)
        except LOST as error:
            logger.warning("a compress worker died over %r: %s", item.clip, _one_line(error))
            result = self._alone(item, stop)
        self._in_work.popleft()
        return result

    def _alone(self, item: _InWork, stop: StopSignal | None) -> CompressedClip | FailedClip | None:
        """Try a clip again with nothing else of this session in work, on a worker that is alive.

        All clips in work share the fate of the one that kills their worker, and a lost node fails
        calls for as long as the cluster has not noticed. So a clip is given up only when workers
        died of it by itself; the others are tried by themselves in their turn.
        """
        others = [other.ref for other in self._in_work if other is not item]
        if others:
            ray.wait(others, num_returns=len(others), timeout=self._pool.result_timeout_s)
        reason = ""
        for _ in range(LONE_TRIES):
            worker = self._living(item.worker + 1, stop)
            if worker is None:
                return None
            item.worker = worker
            method = self._handles[worker].compress.options(max_task_retries=0)
            item.ref = method.remote(item.clip)
            try:
                return self._wait(item, stop)
            except LOST as error:
                reason = _one_line(error)
        return _killer(item.clip, reason)

    def _living(self, first: int, stop: StopSignal | None) -> int | None:
        """The next worker that answers, waiting for restarts; None when a stop comes first."""
        give_up_s = time.monotonic() + self._pool.result_timeout_s
        count = len(self._handles)
        dead: set[int] = set()
        while time.monotonic() < give_up_s and len(dead) < count:
            for number in (number % count for number in range(first, first + count)):
                if _asked(stop):
                    return None
                try:
                    ray.get(self._handles[number].__ray_ready__.remote(), timeout=READY_POLL_S)
                    return number
                except ActorDiedError:
                    dead.add(number)
                except (*LOST, GetTimeoutError):
                    time.sleep(POLL_S)
        raise WorkerLost(
            f"none of {count} compress workers came back in {self._pool.result_timeout_s:.0f} s, "
            f"{len(dead)} of them are gone for good; what is committed is kept, start again"
        )

    def _wait(self, item: _InWork, stop: StopSignal | None) -> CompressedClip | FailedClip | None:
        give_up_s = time.monotonic() + self._pool.result_timeout_s
        stop_s: float | None = None
        while not ray.wait([item.ref], timeout=POLL_S)[0]:
            now_s = time.monotonic()
            if stop_s is None and _asked(stop):
                stop_s = now_s + self._pool.stop_grace_s
            if stop_s is not None and now_s > stop_s:
                return None
            if now_s > give_up_s:
                raise WorkerLost(
                    f"no result for {item.clip!r} in {self._pool.result_timeout_s:.0f} s, expected "
                    "one; look for workers that cannot start again, or raise result_timeout_s"
                )
        try:
            return ray.get(item.ref)
        except RayTaskError as error:
            raise original_error(error) from None


def original_error(error: RayTaskError) -> Exception:
    """The exception that was raised in the actor, without Ray's page of traceback around it."""
    if isinstance(error.cause, Exception):
        return error.cause
    return WorkerError(_one_line(error))


def _asked(stop: StopSignal | None) -> bool:
    return stop is not None and stop.is_set()


def _killer(clip: Clip, reason: str) -> FailedClip:
    detail = f"every worker it was given to died: {reason}"
    return FailedClip(
        clip.stream_id, clip.epoch, clip.index, float(clip.pts_s[0]), clip.end_s, detail
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _not_ready(pool: PoolSettings, gpus: float) -> str:
    free = {k: round(v, 2) for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}
    return (
        f"{pool.workers} compress workers did not start in {pool.ready_timeout_s:.0f} s; each "
        f"needs {pool.worker_cpus} CPU, {gpus} GPU {pool.worker_resources or ''}and the cluster "
        f"has {free} free; stop other sessions, add nodes, or ask for fewer workers"
    )
