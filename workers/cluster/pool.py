"""A pool of compress actors: opened once by its name, shared by sessions with equal settings.

Opening starts with the workers that are ready; the others join when they are. A detached pool
belongs to nobody: its actors end themselves when no session uses them any more, so that there is
no list of users that could be wrong.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError
from ray.util import list_named_actors

from workers.cluster.actors import CompressActor, OpenCompressor, create_actor, original_error
from workers.cluster.scaling import Busyness, Scaling
from workers.compress import CompressSettings, CompressWorker
from workers.errors import InvalidSettings, ModelChanged, WorkerLost, one_line
from workers.live.tally import PushTally
from workers.seams import StopSignal, WorkerInfo

logger = logging.getLogger(__name__)

LATE_S = 3.0
"""How long the workers that are still loading are waited for once one is ready."""

LOAD_DEATHS = 3
"""How often a worker may die while it loads before it is given up."""

POLL_S = 0.25
PULSE_S = 5.0
ASK_S = 10.0
"""For workers to tell what they have counted; one that loads answers at once, one that waits for a
place not at all."""


@dataclass(frozen=True)
class PoolSettings:
    """How many compress actors there are, where they run, how long they may take."""

    workers: int = 1
    most: int | None = None
    """While clips or frames wait there are up to so many; None keeps to `workers`."""
    grow_after_s: float = 5.0
    """Where every worker has had some waiting for so long, another one is asked for."""
    idle_after_s: float = 300.0
    """So long fewer must have done before one goes."""
    worker_cpus: float = 0.5
    """Of Ray's CPU resource: below 1, so that a session and a worker fit on two cores."""
    worker_gpus: float | None = None
    """Of Ray's GPU resource; None takes a whole one when the device is an accelerator."""
    worker_resources: dict[str, float] = field(default_factory=dict)
    """Further resources, to keep the actors on nodes that declare them."""
    clips_in_flight: int = 4
    """Clips that one session may have decoded and not yet committed: the back-pressure."""
    ready_timeout_s: float = 300.0
    """For the start of the first actor: a free place in the cluster and the model's load."""
    result_timeout_s: float = 600.0
    """For a batch from the moment it is begun; a worker that takes longer is replaced."""
    lost_timeout_s: float = 600.0
    """For a session without any worker that is ready; then it ends with an error."""
    stop_grace_s: float = 5.0
    """How long clips in work are waited for after a stop."""

    def __post_init__(self) -> None:
        for name in ("workers", "clips_in_flight"):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def scaling(self) -> Scaling:
        """Bounds and pace of the number of workers."""
        most = self.workers if self.most is None else self.most
        return Scaling(self.workers, most, self.grow_after_s, self.idle_after_s)


@dataclass(frozen=True)
class Maker:
    """Makes the actors of one pool, or finds them: of two that make one, both get the same."""

    name: str
    compress: CompressSettings
    settings: PoolSettings
    detached: bool
    open_compressor: OpenCompressor

    @property
    def gpus(self) -> float:
        """Of Ray's GPU resource, for each."""
        if self.settings.worker_gpus is not None:
            return self.settings.worker_gpus
        return 1.0 if self.compress.device.startswith("cuda") else 0.0

    def find_or_create(self, number: int) -> tuple[Any, bool]:
        """The actor of this number, and whether this call made it; it may wait for a place."""
        name = f"{self.name}-{number}"
        with suppress(ValueError):  # no such actor
            return ray.get_actor(name), False
        try:
            return self._create(name, number), True
        except ValueError:  # somebody else was quicker
            return ray.get_actor(name), False

    def _create(self, name: str, number: int) -> Any:
        settings = self.settings
        # One that a session asked for must not end with it: others use it, until nobody does.
        detached = self.detached or number >= settings.workers
        return create_actor(
            CompressActor,
            self.compress,
            self.open_compressor,
            name=name,
            num_cpus=settings.worker_cpus,
            num_gpus=self.gpus,
            resources=dict(settings.worker_resources),
            # Endless, because a stream may outlive any number of machines and an actor holds
            # nothing but its model. What bounds a clip that kills its worker each time is the
            # number of its tries.
            max_restarts=-1,
            max_task_retries=0,
            lifetime="detached" if detached else None,
            init_batch_timeout_s=settings.result_timeout_s,
            init_detached=detached,
            init_busyness=Busyness(number, settings.scaling),
        )


@dataclass(frozen=True)
class Pool:
    """Actors of one name, and what those that are ready have loaded."""

    handles: list[Any]
    """By number; the list grows with the pool."""
    info: WorkerInfo
    ready: tuple[int, ...]
    """Numbers of the actors that were ready when it was opened."""
    maker: Maker
    created: tuple[Any, ...] = ()
    """Handles of those that this opening made; such an actor lives as long as its maker keeps that
    handle, unless it is detached. Handles that are found by name keep none alive."""


@dataclass
class _Member:
    """An actor on its way to being ready."""

    number: int
    handle: Any
    created: bool
    """By this call, which may end it again."""
    info: WorkerInfo | None = None
    error: Exception | None = None
    call: Any = None
    again_s: float = 0.0
    deaths: int = 0

    @property
    def settled(self) -> bool:
        return self.info is not None or self.error is not None


def open_pool(
    compress: CompressSettings,
    pool: PoolSettings,
    *,
    name: str,
    detached: bool,
    tenant: str = "",
    expected: WorkerInfo | None = None,
    stop: StopSignal | None = None,
    open_compressor: OpenCompressor = CompressWorker,
) -> Pool:
    """Create the actors, or find those of this name, and wait until one has its model.

    `tenant` is who uses a detached pool; `expected` is what the workers had loaded before. Ends at
    once, as if in vain, when `stop` is set.

    Raises:
        ModelError: the checkpoint cannot be used.
        ModelChanged: workers have loaded another model than the others, or than `expected`.
        WorkerLost: no place in the cluster, no start within `ready_timeout_s`, or no worker that
            does not die while it loads.
    """
    maker = Maker(name, compress, pool, detached, open_compressor)
    opening = _Opening(maker)
    try:
        infos = opening.wait(tenant, stop)
        _require_same([expected] if expected else [], infos)
    except BaseException:
        opening.undo()
        raise
    ready = tuple(number for number, member in enumerate(opening.members) if member.info)
    handles = [member.handle for member in opening.members]
    created = tuple(member.handle for member in opening.members if member.created)
    return Pool(handles, infos[0], ready, maker, created)


class _Opening:
    """The actors of a pool while they start."""

    def __init__(self, maker: Maker) -> None:
        self._pool, self._maker = maker.settings, maker
        self.members = [self._find_or_create(number) for number in range(self._pool.workers)]

    def wait(self, tenant: str, stop: StopSignal | None) -> list[WorkerInfo]:
        """What the actors have loaded that are ready, as soon as there are some."""
        until_s = time.monotonic() + self._pool.ready_timeout_s
        pulse_s = 0.0
        while not all(member.settled for member in self.members):
            now_s = time.monotonic()
            if now_s >= until_s or (stop is not None and stop.is_set()):
                break
            if now_s - pulse_s > PULSE_S:
                pulse_s = now_s
                for member in self.members:
                    member.handle.pulse.remote(tenant)
            self._advance(now_s)
            if any(member.info for member in self.members):
                until_s = min(until_s, now_s + LATE_S)
        for member in self.members:
            member.handle.pulse.remote(tenant)
        infos = [member.info for member in self.members if member.info]
        errors = [member.error for member in self.members if member.error]
        if not infos:
            raise errors[0] if errors else WorkerLost(self._not_ready(stop))
        if len(infos) < len(self.members):
            logger.warning(
                "%d of %d compress workers are ready; the others join when they are%s",
                *(len(infos), len(self.members)),
                f": {one_line(errors[0])}" if errors else "",
            )
        return infos

    def undo(self) -> None:
        """End what this call created; what others use is none of its business."""
        close_pool([member.handle for member in self.members if member.created], timeout_s=0.5)

    def _find_or_create(self, number: int) -> _Member:
        handle, created = self._maker.find_or_create(number)
        return _Member(number, handle, created)

    def _advance(self, now_s: float) -> None:
        """Ask those that were not asked, and take what the others answer within a moment."""
        for member in self.members:
            if not member.settled and member.call is None and now_s >= member.again_s:
                member.call = member.handle.describe.remote()
        asked = {member.call: member for member in self.members if member.call is not None}
        if not asked:
            time.sleep(POLL_S)
            return
        for call in ray.wait(list(asked), timeout=POLL_S)[0]:
            asked[call].call = None
            self._settle(asked[call], call)

    def _settle(self, member: _Member, call: Any) -> None:
        try:
            member.info = ray.get(call)
        except RayActorError as error:
            self._note_death(member, error)
        except RayTaskError as error:
            found = original_error(error)
            member.error = found if isinstance(found, Exception) else error

    def _note_death(self, member: _Member, error: RayActorError) -> None:
        """One that ended for good is made anew: it may just have gone for want of use."""
        member.deaths += 1
        member.again_s = time.monotonic() + 1.0
        if member.deaths >= LOAD_DEATHS:
            member.error = WorkerLost(
                f"a compress worker died {member.deaths} times while it loaded "
                f"{self._maker.compress.model}: {one_line(error, 300)}; see that the model fits "
                "into the memory of the machine"
            )
            ray.kill(member.handle)
        elif isinstance(error, ActorDiedError):
            anew = self._find_or_create(member.number)
            member.handle, member.created = anew.handle, anew.created

    def _not_ready(self, stop: StopSignal | None) -> str:
        pool = self._pool
        if stop is not None and stop.is_set():
            return f"stopped before a compress worker was ready ({pool.workers} were asked for)"
        free = {k: round(v, 2) for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}
        gpus, resources = self._maker.gpus, pool.worker_resources or ""
        return (
            f"{pool.workers} compress workers did not start in {pool.ready_timeout_s:.0f} s; each "
            f"needs {pool.worker_cpus} CPU, {gpus} GPU {resources}and the cluster has {free} free; "
            "stop other sessions, add nodes, or ask for fewer workers"
        )


def close_pool(handles: Sequence[Any], *, timeout_s: float = 5.0) -> None:
    """Let every actor free its device, then end it; an actor that is gone already is fine."""
    if not handles:
        return
    calls = [handle.destroy.remote() for handle in handles]
    ray.wait(calls, num_returns=len(handles), timeout=timeout_s)
    for handle in handles:
        ray.kill(handle)


def leave_pool(pool: Pool, tenant: str, *, timeout_s: float = 3.0) -> None:
    """Say that a session uses a detached pool no more.

    Actors end themselves after the last one; those that still wait for a place are ended here.
    """
    calls = {handle.leave.remote(tenant): handle for handle in pool.handles}
    done, waiting = ray.wait(list(calls), num_returns=len(calls), timeout=timeout_s)
    try:
        left = [ray.get(call) for call in done]
    except RayError:
        return  # one is gone already; the others know by themselves
    if left and not any(left):
        for call in waiting:
            ray.kill(calls[call])


def ask_workers(prefix: str, timeout_s: float = ASK_S) -> dict[str, PushTally]:
    """What compress actors have counted whose names begin so, of those that answer in time."""
    calls: dict[Any, str] = {}
    for name in list_named_actors():
        if name.startswith(prefix):
            with suppress(ValueError):  # it has just ended
                calls[ray.get_actor(name).tally.remote()] = name
    told: dict[str, PushTally] = {}
    done = ray.wait(list(calls), num_returns=len(calls), timeout=timeout_s)[0] if calls else []
    for call in done:
        with suppress(RayError):
            told[calls[call]] = ray.get(call)
    return told


def _require_same(known: Sequence[WorkerInfo], infos: Sequence[WorkerInfo]) -> None:
    first, *others = [*known, *infos]
    for other in others:
        if other.identity.digest() != first.identity.digest():
            raise ModelChanged(
                f"a worker has loaded {other.identity.model_id} with identity "
                f"{other.identity.digest()}, expected {first.identity.digest()}: the weights "
                "behind the name have changed, or differ from node to node; give all nodes the "
                "same ones"
            )
