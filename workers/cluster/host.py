"""Actors that read many endless streams each, and the one that keeps as many of them as it takes.

Ray starts processes and starts them again; which streams they read is not its matter. A host finds
that out by itself (`HostWork`), and nothing of a stream is known to Ray's head: while that is away
no actor is started, and the hosts that run share the streams of those that went. The controller
holds nothing either: what is wanted it asks anew at every turn, what there is it sees by the names
of the actors. So both are started again without end (`max_restarts=-1`), and nothing is sent to
them that would have to be sent again (`max_task_retries=0`).
"""

import logging
import signal
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import ray
from ray.actor import exit_actor
from ray.exceptions import RayActorError, RayError
from ray.util import get_node_ip_address, list_named_actors

from workers.cluster.actors import OpenCompressor, create_actor
from workers.cluster.gauges import RayGauges
from workers.cluster.pool import PoolSettings, leave_pool, open_pool
from workers.cluster.pusher import ClusterPusher
from workers.compress import CompressSettings, CompressWorker
from workers.live.session import LiveProgress
from workers.seams import WorkerInfo

logger = logging.getLogger(__name__)

CONTROLLER = "controller"
HOST_PREFIX = "host-"
"""Of the names of actors; the version and a number follow."""
AGAIN_S = 10.0
"""Before a host that failed, for want of workers or of its store, begins anew."""
ASK_S = 10.0
"""For hosts to tell of their streams."""
TURN_S = 2.0
"""Between two looks of the controller."""
SHRINK_S = 60.0
"""For so long fewer hosts must be wanted than there are before one is let go."""


@dataclass(frozen=True)
class HostPlace:
    """Where a host finds itself."""

    name: str
    """That no other life of any host has."""
    node: str
    """Ray's id of the machine."""
    address: str
    pusher: ClusterPusher | None
    """Where frames go; None where the host needs no workers."""
    gauges: RayGauges = field(default_factory=RayGauges)
    """Where what it counts is shown."""
    streams: dict[str, LiveProgress] = field(default_factory=dict)
    """Where it keeps how far each of its streams is, for whoever asks."""


@runtime_checkable
class HostWork(Protocol):
    """What hosts do; picklable, and opened where they run."""

    @property
    def version(self) -> str:
        """Of the settings and the code; hosts of several may run side by side."""
        ...

    def run(self, place: HostPlace, *, stop: threading.Event, retire: threading.Event) -> None:
        """Read streams until told to stop, or to retire and all are handed over."""
        ...

    def count_hosts(self) -> int | None:
        """How many hosts there should be now; None when this version is not wanted any more."""
        ...


@dataclass(frozen=True)
class HostSpec:
    """All that a host needs to start, and to start again; picklable."""

    work: HostWork
    compress: CompressSettings | None
    """What the workers load that its frames go to; None for a host that needs none."""
    pool_name: str = ""
    info: WorkerInfo | None = None
    """What they had loaded when the streams were described."""
    pool: PoolSettings = field(default_factory=PoolSettings)
    open_compressor: OpenCompressor = CompressWorker
    cpus: float = 1.0
    resources: dict[str, float] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """Of the names of this version's actors."""
        return f"{HOST_PREFIX}{self.work.version}-"


class HostActor:
    """Runs one host's work in a thread, again and again until it is done."""

    def __init__(self, spec: HostSpec) -> None:
        self._spec = spec
        self._stop, self._retire = threading.Event(), threading.Event()
        self._streams: dict[str, LiveProgress] = {}
        self._self = ray.get_runtime_context().current_actor
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler would end the process in the middle of clips.
            signal.signal(signal.SIGTERM, lambda signum, frame: self._stop.set())
        threading.Thread(target=self._run, name="host", daemon=True).start()

    def retire(self) -> None:
        """Hand all over to others, then end."""
        self._retire.set()

    def stop(self) -> None:
        """Give all back at once and end."""
        self._stop.set()

    def streams(self) -> list[LiveProgress]:
        """How far each of its streams is."""
        return list(self._streams.values())

    def leave(self) -> None:
        """End this process for good: Ray does not start it again."""
        exit_actor()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._work()
                break
            except Exception as error:
                logger.error("a host begins anew: %s: %s", type(error).__name__, error)
                self._stop.wait(AGAIN_S)
        self._self.leave.remote()

    def _work(self) -> None:
        spec, context = self._spec, ray.get_runtime_context()
        name = f"{HOST_PREFIX}{uuid.uuid4().hex[:12]}"
        node, address = context.get_node_id(), get_node_ip_address()
        if spec.compress is None:
            place = HostPlace(name, node, address, None, streams=self._streams)
            spec.work.run(place, stop=self._stop, retire=self._retire)
            return
        pool = open_pool(
            spec.compress,
            spec.pool,
            name=spec.pool_name,
            detached=True,
            tenant=name,
            expected=spec.info,
            stop=self._stop,
            open_compressor=spec.open_compressor,
        )
        pusher = ClusterPusher(pool, tenant=name)
        try:
            place = HostPlace(name, node, address, pusher, streams=self._streams)
            spec.work.run(place, stop=self._stop, retire=self._retire)
        finally:
            pusher.close()
            leave_pool(pool, name)


class ControllerActor:
    """Keeps as many hosts of its version as are wanted; ends when its version is not, any more."""

    def __init__(self, spec: HostSpec) -> None:
        self._spec = spec
        self._self = ray.get_runtime_context().current_actor
        self._surplus_since_s: float | None = None
        threading.Thread(target=self._run, name="controller", daemon=True).start()

    def version(self) -> str:
        """That it keeps hosts of."""
        return self._spec.work.version

    def leave(self) -> None:
        """End this process for good."""
        exit_actor()

    def _run(self) -> None:
        while True:
            try:
                if not self._turn():
                    break
            except Exception as error:
                logger.warning("the controller looks again: %s: %s", type(error).__name__, error)
            time.sleep(TURN_S)
        self._self.leave.remote()

    def _turn(self) -> bool:
        wanted = self._spec.work.count_hosts()
        if wanted is None:
            return False
        there = list_hosts(self._spec.prefix)
        for number in range(wanted):
            if f"{self._spec.prefix}{number}" not in there:
                self._start(number)
        self._shrink(there, wanted)
        return True

    def _start(self, number: int) -> None:
        """Ask Ray for another process; one without a place is what its autoscaler goes by."""
        spec = self._spec
        with suppress(ValueError):  # somebody else was quicker
            create_actor(
                HostActor,
                spec,
                name=f"{spec.prefix}{number}",
                lifetime="detached",
                num_cpus=spec.cpus,
                resources=dict(spec.resources),
                scheduling_strategy="SPREAD",
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=4,
            )

    def _shrink(self, there: list[str], wanted: int) -> None:
        """Let the last go, once it was too many for a while."""
        surplus = [name for name in there if int(name.removeprefix(self._spec.prefix)) >= wanted]
        if not surplus:
            self._surplus_since_s = None
            return
        self._surplus_since_s = self._surplus_since_s or time.monotonic()
        if time.monotonic() - self._surplus_since_s > SHRINK_S:
            for name in surplus:
                with suppress(ValueError, RayActorError):
                    ray.get_actor(name).retire.remote()


def list_hosts(prefix: str = HOST_PREFIX) -> list[str]:
    """Names of the host actors there are, of one version or all; also those without a place."""
    return sorted(name for name in list_named_actors() if name.startswith(prefix))


def ask_hosts(timeout_s: float = ASK_S) -> list[LiveProgress]:
    """How far the streams of all hosts are; those of a host that does not answer are left out."""
    calls = []
    for name in list_hosts():
        with suppress(ValueError):  # it has just ended
            calls.append(ray.get_actor(name).streams.remote())
    found: list[LiveProgress] = []
    for call in ray.wait(calls, num_returns=len(calls), timeout=timeout_s)[0] if calls else []:
        with suppress(RayError):
            found += ray.get(call)
    return found


def start_controller(spec: HostSpec) -> None:
    """Have a controller with this spec, and no other: one of an earlier spec holds nothing."""
    with suppress(ValueError, RayError):
        ray.kill(ray.get_actor(CONTROLLER))
    _create_controller(spec)


def _create_controller(spec: HostSpec, *, limit_s: float = 10.0) -> Any:
    until_s = time.monotonic() + limit_s
    while True:
        try:
            return create_actor(
                ControllerActor,
                spec,
                name=CONTROLLER,
                lifetime="detached",
                num_cpus=0,
                max_restarts=-1,
                max_task_retries=0,
            )
        except ValueError:  # the last one's name is not free at once
            if time.monotonic() > until_s:
                raise
            time.sleep(0.2)
