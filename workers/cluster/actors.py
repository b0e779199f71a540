"""A compress worker as an actor: its birth, its work, its end.

It loads its model in a thread of its own from the moment it is created, and once again when Ray
starts it anew. Calls that arrive while a batch is at work form the next one, so that clips of many
sessions share batches and nobody waits for a timer; where the worker takes two batches at once, a
full one is given to it while the other is at work. A clip under suspicion gets a turn: a batch,
and the whole process, to itself. Compressing is a pure function, so any actor may do it any number
of times: that is the whole of the fault tolerance here.

A detached actor counts those who use it: each session says that it lives with every pulse it asks
for. When the last one has left, or has been silent for `TENANT_S`, the actor ends itself.
"""

import asyncio
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import ray
import torch
from ray.exceptions import RayTaskError

from aot import ClipTokens
from workers.cluster.gauges import SHOW_EVERY_S, RayGauges, show_tally
from workers.cluster.scaling import Busyness, Scaling
from workers.compress import CompressSettings
from workers.errors import ModelChanged, WorkerBroken, WorkerError, WorkerLost, one_line
from workers.live.push import BatchRule
from workers.live.tally import BusyClock, PushTally
from workers.seams import Push, Pushed, WorkerInfo
from workers.types import Clip, CompressedClip, FailedClip

logger = logging.getLogger(__name__)

TENANT_S = 45.0
"""A session that has not been heard of for so long does not hold a detached actor any more."""

UNUSED_S = 5.0
"""How long a detached actor that nobody uses waits for the next session."""

TURN_S = 10.0
"""How long a turn waits for its clip, whose sender may have died."""

LOAD_AGAIN_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits between a restarted actor's tries to load what it had loaded before; then the last."""

FAREWELL_S = 0.5
"""Between the last answers of a broken actor and its end."""


@runtime_checkable
class Compressor(Protocol):
    """What an actor holds: `CompressWorker`, or a stand-in without a model."""

    @property
    def info(self) -> WorkerInfo:
        """What the loaded model and reducer are."""
        ...

    @property
    def batch_clips(self) -> int:
        """Clips to wait for."""
        ...

    @property
    def batches_at_once(self) -> int:
        """Batches to give at once, from as many threads."""
        ...

    def compress(self, clips: Sequence[Clip]) -> list[CompressedClip | FailedClip]:
        """Compress clips of any streams, in order; `WorkerBroken` ends the process."""
        ...

    def push(self, pushes: Sequence[Push]) -> list[Pushed | Exception]:
        """Compress frames onto states, in order; `WorkerBroken` ends the process."""
        ...

    def finish(self, state: Any, dtype: torch.dtype) -> ClipTokens:
        """What is left to emit of a clip that ends without another frame; on the host."""
        ...

    def close(self) -> None:
        """Give the device's memory back before the process is ended."""
        ...


OpenCompressor = Callable[[CompressSettings], Compressor]

T = TypeVar("T")


@dataclass(frozen=True)
class Pulse:
    """What an actor says of itself when it is asked."""

    state: Literal["loading", "ready", "failed"]
    waiting: int = 0
    """Clips of all sessions that wait or are at work."""
    digest: str = ""
    """Of the model that is loaded."""
    problem: str = ""
    """Why it is not ready, in one line."""
    behind_s: float = 0.0
    """For so long there was always something that waited to be begun."""


class CompressActor:
    """Holds one model; an async actor, so that it answers while a batch is computed."""

    def __init__(
        self,
        settings: CompressSettings,
        open_compressor: OpenCompressor,
        *,
        batch_timeout_s: float,
        detached: bool,
        busyness: Busyness | None = None,
        rule: BatchRule | None = None,
    ) -> None:
        """`busyness` tells when it is not needed any more; None never does.

        `rule`: of pushes; None lets frames wait for others on an accelerator alone.
        """
        on_cpu = torch.device(settings.device).type == "cpu"
        self._rule = rule or (BatchRule(frames=1, wait_s=0.0) if on_cpu else BatchRule())
        self._due_s = 0.0
        context = ray.get_runtime_context()
        self._self = context.current_actor
        self._batch_timeout_s = batch_timeout_s
        self._waiting: deque[tuple[Clip, asyncio.Future[Any]]] = deque()
        self._pushes: deque[tuple[Push, asyncio.Future[Any]]] = deque()
        self._turns: deque[asyncio.Future[str]] = deque()
        self._claim: asyncio.Future[Any] | None = None
        self._turn = ""
        self._draining: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._at_work: set[asyncio.Task[None]] = set()
        self._begun: dict[int, tuple[float, int]] = {}
        self._tally, self._busy = PushTally(), BusyClock()
        self._name = context.get_actor_name() or "worker"
        self._problem = ""
        self._broken = False
        self._busyness = busyness or Busyness(0, Scaling())
        self._leaves = False
        self._behind_since_s = 0.0
        self._tenants = {"": time.monotonic()}
        self._thread = ThreadPoolExecutor(2, thread_name_prefix="compress")

        def load() -> Compressor:
            if context.was_current_actor_reconstructed:
                return load_again(lambda: open_compressor(settings), self._tell_problem)
            return open_compressor(settings)

        self._loading: Future[Compressor] = self._thread.submit(load)
        threading.Thread(target=self._watch, args=(detached,), name="watch", daemon=True).start()

    async def describe(self) -> WorkerInfo:
        """Wait for the model; the errors of loading it come out here, typed."""
        return (await self._loaded()).info

    async def pulse(self, tenant: str) -> Pulse:
        """Answer at once, whatever is at work, and know that `tenant` lives."""
        self._tenants[tenant] = time.monotonic()
        if self._broken:
            return Pulse("loading", problem="its device is broken; a new process is started")
        if not self._loading.done():
            return Pulse("loading", problem=self._problem)
        error = self._loading.exception()
        if error is not None:
            return Pulse("failed", problem=one_line(error))
        if self._leaves:
            return Pulse("loading", problem="it goes, for want of work")
        waiting = len(self._waiting) + len(self._pushes) + len(self._turns)
        waiting += sum(size for _, size in self._begun.values())
        behind_s = time.monotonic() - self._behind_since_s if self._has_waiting else 0.0
        digest = self._loading.result().info.identity.digest()
        return Pulse("ready", waiting, digest, behind_s=behind_s)

    async def tally(self) -> PushTally:
        """What it has done in this life, and how much waits."""
        return self._counted()

    async def leave(self, tenant: str) -> int:
        """Forget a tenant; returns how many are left."""
        self._tenants.pop(tenant, None)
        self._tenants.pop("", None)
        return len(self._tenants)

    async def compress(self, clip: Clip, digest: str) -> CompressedClip | FailedClip:
        """Compress a clip in a batch with others, with the model of this digest and no other.

        Raises:
            ModelChanged: another model is loaded.
            WorkerBroken: the device broke over this batch.
            WorkerLost: it broke before, and the clip was not touched.
        """
        await self._require(digest)
        done = self._promise()
        self._note_waiting()
        self._waiting.append((clip, done))
        self._wake()
        return await done

    async def push(self, push: Push, digest: str) -> Pushed:
        """Compress frames onto their clip's state, in a batch with others, before whole clips.

        Raises what `compress` raises, and what went wrong with these frames alone.
        """
        await self._require(digest)
        done = self._promise()
        if not self._pushes:
            self._due_s = time.monotonic() + self._rule.wait_s
        self._note_waiting()
        self._pushes.append((push, done))
        self._wake()
        return await done

    async def finish(self, state: Any, dtype: torch.dtype, digest: str) -> ClipTokens:
        """What is left to emit of a clip that ends without another frame."""
        await self._require(digest)
        return await self._in_thread((await self._loaded()).finish, state, dtype)

    async def take_turn(self) -> str:
        """Wait until nothing else is at work; what is returned lets one clip in, alone."""
        await self._loaded()
        turn = self._promise()
        self._turns.append(turn)
        self._wake()
        return await turn

    async def compress_alone(
        self, clip: Clip, digest: str, turn: str
    ) -> CompressedClip | FailedClip:
        """Compress a clip by itself; errors are those of `compress`."""
        await self._require(digest)
        if turn != self._turn or self._claim is None or self._claim.done():
            raise WorkerLost("the turn is over; take another one")
        done = self._promise()
        self._claim.set_result((clip, done))
        return await done

    async def destroy(self) -> None:
        """Free device memory; a killed process leaves it to the driver to find out."""
        if self._loading.done() and self._loading.exception() is None:
            await self._in_thread(self._loading.result().close)

    @property
    def _has_waiting(self) -> bool:
        return bool(self._waiting or self._pushes)

    def _note_waiting(self) -> None:
        """Something is about to wait."""
        if not self._has_waiting:
            self._behind_since_s = time.monotonic()

    def _promise(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    async def _loaded(self) -> Compressor:
        return await asyncio.shield(asyncio.wrap_future(self._loading))

    async def _require(self, digest: str) -> None:
        loaded = (await self._loaded()).info.identity
        if self._broken:
            raise WorkerLost("the worker's device is broken; it is being replaced")
        if self._leaves:
            raise WorkerLost("the worker goes, for want of work")
        if loaded.digest() != digest:
            raise ModelChanged(
                f"a worker has loaded {loaded.model_id} with identity {loaded.digest()}, expected "
                f"{digest}: the weights behind the name have changed since the stream was begun; "
                "put the old ones back, or ingest into a new stream"
            )

    def _wake(self) -> None:
        self._news.set()
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        try:
            while self._waiting or self._pushes or self._turns or self._at_work:
                worker = await self._loaded()
                calls = self._pushes or self._waiting
                function = worker.push if self._pushes else worker.compress
                if self._turns and not self._at_work:
                    await self._work(worker.compress, await self._grant_turn())
                elif not self._turns and self._may_begin(worker, calls):
                    size = self._count_pushes() if self._pushes else worker.batch_clips
                    batch = _take(calls, size)
                    self._at_work.add(asyncio.create_task(self._work(function, batch)))
                else:
                    await self._await_news()
        finally:
            self._draining = None

    def _may_begin(self, worker: Compressor, calls: deque[Any]) -> bool:
        """Whether a batch of these may go out; what is less than a full one rather grows until
        nothing is at work, and pushes until the oldest has waited long enough.
        """
        if self._pushes:
            full = sum(len(push.pixels) for push, _ in self._pushes) >= self._rule.frames
            due = time.monotonic() >= self._due_s
        else:
            full, due = len(calls) >= worker.batch_clips, bool(calls)
        if not self._at_work:
            return full or due
        return full and len(self._at_work) < worker.batches_at_once

    def _count_pushes(self) -> int:
        """How many of the pushes that wait make up the next batch."""
        sizes = itertools.accumulate(len(push.pixels) for push, _ in self._pushes)
        return 1 + sum(size < self._rule.frames for size in sizes)

    async def _await_news(self) -> None:
        """Until a batch is done, something has come, or a push has waited long enough."""
        self._news.clear()
        news = asyncio.create_task(self._news.wait())
        wait_s = max(0.0, self._due_s - time.monotonic()) if self._pushes else None
        try:
            await asyncio.wait(
                {*self._at_work, news},
                timeout=None if self._at_work else wait_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            news.cancel()
        self._at_work = {task for task in self._at_work if not task.done()}

    async def _grant_turn(self) -> list[tuple[Clip, asyncio.Future[Any]]]:
        turn = self._turns.popleft()
        if turn.done():
            return []
        self._claim, self._turn = self._promise(), os.urandom(8).hex()
        turn.set_result(self._turn)
        try:
            return [await asyncio.wait_for(self._claim, TURN_S)]
        except TimeoutError:
            return []

    async def _work(
        self, function: Callable[[list[Any]], list[Any]], batch: list[tuple[Any, Any]]
    ) -> None:
        if not batch:
            return
        self._begun[id(batch)] = time.monotonic(), len(batch)
        self._busy.begin()
        try:
            results = await self._in_thread(function, [item for item, _ in batch])
        except WorkerBroken as error:
            self._end_broken(batch, error)
        except Exception as error:
            _fail([done for _, done in batch], error)
        else:
            self._count([item for item, _ in batch], results)
            for (_, done), result in zip(batch, results, strict=True):
                if done.done():  # its caller has gone
                    continue
                if isinstance(result, Exception):
                    done.set_exception(result)
                else:
                    done.set_result(result)
        finally:
            self._busy.end()
            del self._begun[id(batch)]

    def _count(self, batch: Sequence[Clip | Push], results: Sequence[Any]) -> None:
        pushed = [result for result in results if isinstance(result, Pushed)]
        clips = [result.stats for result in results if isinstance(result, CompressedClip)]
        frames = _count_frames(batch) - sum(result.recalled for result in pushed)
        self._tally = self._tally.plus(frames, [*pushed, *clips])

    def _counted(self) -> PushTally:
        waiting = [item for item, _ in (*self._pushes, *self._waiting)]
        frames = _count_frames(waiting)
        return replace(self._tally, busy_s=self._busy.busy_s, waiting=frames)

    def _end_broken(self, batch: list[tuple[Any, Any]], error: WorkerBroken) -> None:
        """Nothing can be computed here any more; Ray starts a fresh process."""
        logger.error("a compress worker ends itself: %s", error)
        self._broken = True
        _fail([done for _, done in batch], error)
        untouched = [done for _, done in (*self._waiting, *self._pushes)] + list(self._turns)
        _fail(untouched, WorkerLost("the worker's device is broken; it is being replaced"))
        self._waiting.clear()
        self._pushes.clear()
        self._turns.clear()
        asyncio.get_running_loop().call_later(FAREWELL_S, os._exit, 1)

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _tell_problem(self, problem: str) -> None:
        self._problem = problem

    def _watch(self, detached: bool) -> None:
        """End a process that hangs over a batch, and one that nobody uses; show what it counts."""
        used_s = shown_s = time.monotonic()
        gauges = RayGauges()
        while True:
            time.sleep(1.0)
            now_s = time.monotonic()
            if now_s - shown_s > SHOW_EVERY_S:
                shown_s = now_s
                gauges.show(show_tally(self._name, self._counted()))
            began_s = min((began_s for began_s, _ in list(self._begun.values())), default=now_s)
            if now_s - began_s > self._batch_timeout_s:
                logger.error("no result of a batch in %.0f s: ending", self._batch_timeout_s)
                os._exit(1)
            for tenant, heard_s in list(self._tenants.items()):
                if now_s - heard_s > TENANT_S:
                    self._tenants.pop(tenant, None)
            used_s = now_s if self._tenants else used_s
            if detached and now_s - used_s > UNUSED_S:
                self._end_unused()
            if self._loading.done() and self._is_spare(now_s):
                self._end_unused()

    def _is_spare(self, now_s: float) -> bool:
        """Whether others do without it; it takes no work from then on, and ends when none is left.

        A turn that was granted is waited for: it takes its clip within `TURN_S`.
        """
        is_busy = bool(self._begun or self._has_waiting or self._turns)
        if self._busyness.note(now_s, is_busy=is_busy):
            self._leaves = True
        return self._leaves and not is_busy and self._draining is None

    def _end_unused(self) -> None:
        logger.info("this worker is not used any more: ending")
        if self._loading.done() and self._loading.exception() is None:
            with suppress(TimeoutError):
                self._thread.submit(self._loading.result().close).result(UNUSED_S)
        ray.kill(self._self)


def _count_frames(items: Iterable[Clip | Push]) -> int:
    return sum(len(item.pixels) for item in items)


def create_actor(actor_class: type, *args: Any, **options: Any) -> Any:
    """An actor of a plain class; Ray's own types do not survive its decorators.

    Options that start with `init_` are arguments of the class by name.
    """
    named = {key[5:]: options.pop(key) for key in list(options) if key.startswith("init_")}
    remote_class: Any = ray.remote(actor_class)
    return remote_class.options(**options).remote(*args, **named)


def original_error(error: BaseException) -> BaseException:
    """The exception that was raised in the actor, without Ray's page of traceback around it."""
    if not isinstance(error, RayTaskError):
        return error
    cause: Any = error.cause
    return cause if isinstance(cause, Exception) else WorkerError(one_line(error, 300))


def load_again(load: Callable[[], T], tell: Callable[[str], None]) -> T:
    """Load what could be loaded before: a folder or a hub that is away comes back."""
    waits = itertools.chain(LOAD_AGAIN_S, itertools.repeat(LOAD_AGAIN_S[-1]))
    for wait_s in waits:
        try:
            return load()
        except Exception as error:
            logger.warning("a restarted worker could not load its model: %s", one_line(error))
            tell(f"{type(error).__name__}: {one_line(error)}")
            time.sleep(wait_s)
    raise AssertionError("the waits have no end")


def _take(waiting: deque[Any], size: int) -> list[tuple[Any, Any]]:
    """The next batch, without those whose caller has gone."""
    batch = [waiting.popleft() for _ in range(min(size, len(waiting)))]
    return [(item, done) for item, done in batch if not done.done()]


def _fail(promises: Sequence[asyncio.Future[Any]], error: Exception) -> None:
    for done in promises:
        if not done.done():
            done.set_exception(error)
