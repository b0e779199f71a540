"""Actors that read many endless streams each.

Ray starts processes and starts them again; which streams they read is not its matter. A host finds
that out by itself (`HostWork`), and nothing of a stream is known to Ray's head: while that is away
no actor is started, and the hosts that run share the streams of those that went. So they are
started again without end (`max_restarts=-1`), and nothing is sent to them that would have to be
sent again (`max_task_retries=0`).
"""

import hashlib
import logging
import signal
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import ray
from ray.actor import exit_actor
from ray.exceptions import RayError
from ray.util import get_node_ip_address, list_named_actors

from workers.cluster.actors import OpenCompressor
from workers.cluster.gauges import RayGauges
from workers.cluster.pool import PoolSettings, leave_pool, open_pool
from workers.cluster.pusher import ClusterPusher
from workers.compress import CompressSettings, CompressWorker
from workers.live.session import LiveProgress
from workers.seams import WorkerInfo

logger = logging.getLogger(__name__)

HOST_PREFIX = "host-"
"""Of the names of actors; the version and a number follow."""
AGAIN_S = 10.0
"""Before a host that failed, for want of workers or of its store, begins anew."""
ASK_S = 10.0
"""For hosts to tell of their streams."""


LabelConditions = tuple[tuple[str, str], ...]
"""A label selector of Ray's: keys, each with `value`, `!value`, `in(a, b)` or `!in(a, b)`."""


@dataclass(frozen=True)
class HostPlace:
    """Where a host finds itself."""

    name: str
    """That no other life of any host has."""
    node: str
    """Ray's id of the machine."""
    address: str
    labels: dict[str, str]
    """Of the machine, as Ray knows them."""
    started_for: LabelConditions
    """By which the machine was chosen."""
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

    def count_hosts(self) -> Mapping[LabelConditions, int] | None:
        """How many hosts there should be now, and on which machines, `()` for any.

        None when this version is not wanted any more.
        """
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

    def name(self, conditions: LabelConditions, number: int) -> str:
        """Of the actor that is the `number`th, from 0, of those on such machines."""
        if not conditions:
            return f"{self.prefix}{number}"
        digest = hashlib.blake2b(repr(conditions).encode(), digest_size=4).hexdigest()
        return f"{self.prefix}{digest}-{number}"


class HostActor:
    """Runs one host's work in a thread, again and again until it is done."""

    def __init__(self, spec: HostSpec, started_for: LabelConditions = ()) -> None:
        self._spec, self._started_for = spec, started_for
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
        where = context.get_node_id(), get_node_ip_address()
        labels = {key: str(value) for key, value in context.get_node_labels().items()}
        where = *where, labels, self._started_for
        if spec.compress is None:
            place = HostPlace(name, *where, None, streams=self._streams)
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
            place = HostPlace(name, *where, pusher, streams=self._streams)
            spec.work.run(place, stop=self._stop, retire=self._retire)
        finally:
            pusher.close()
            leave_pool(pool, name)


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
