"""Sessions, compress workers and answer workers on a Ray cluster, local or joined.

`open_cluster` gives a `Cluster`; it starts sessions and answer workers and ends what it started.
The data path never crosses this process: sessions read, workers compress, sinks store. Ray itself
is started on the loopback interface, without a dashboard, with a bounded object store; its token
authentication is taken from where Ray takes it.
"""

import logging
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import ray
from ray.exceptions import RayError

from workers.answer import AnswerSettings
from workers.cluster_answer import ClusterAnswer, open_answer
from workers.cluster_pool import PoolSettings, close_pool, open_pool
from workers.cluster_session import (
    SessionHandle,
    SessionSpec,
    find_session,
    list_sessions,
    start_session,
)
from workers.compress import CompressSettings
from workers.errors import ClusterUnreachable, InvalidSettings
from workers.group import SinkFactory, WorkerInfo
from workers.session import OpenClips, SessionSettings
from workers.types import VideoSource

logger = logging.getLogger(__name__)

NAMESPACE = "aot-stream"
"""Ray's namespace for the names of actors; one per product, so that commands find each other."""


@dataclass(frozen=True)
class ClusterSettings:
    """Which cluster, how much of this machine when it is local, and how sessions are placed."""

    address: str | None = None
    """`HOST:PORT` of a cluster's head, `auto` for the one of this machine, None for a private
    one that ends with the process."""
    num_cpus: int | None = None
    """Of a private cluster; None takes the machine's cores, at least two."""
    object_store_bytes: int = 512 * 2**20
    """Of a private cluster: bounds the clips between sessions and workers."""
    session_cpus: float = 1.0
    """Of Ray's CPU resource for a session: decoding keeps one core busy."""
    session_resources: dict[str, float] = field(default_factory=dict)
    session_restarts: int = 10
    """How often a session that dies is started again: bounded, because a file that crashes the
    decoder does so each time."""
    connect_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if self.address is not None and self.address.startswith("ray://"):
            raise InvalidSettings(
                f"address {self.address!r} is Ray Client's, expected HOST:PORT of the cluster's "
                "head (port 6379 by default); run the command on a machine of the cluster"
            )


class Cluster:
    """A connection to Ray with what was started over it; ended by `close`."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self._own_name = uuid.uuid4().hex[:8]
        self._pools: dict[str, list[Any]] = {}
        self._sessions: list[SessionHandle] = []
        self._answers: list[ClusterAnswer] = []

    def open_pool(
        self, compress: CompressSettings, pool: PoolSettings, *, detached: bool = False
    ) -> tuple[str, WorkerInfo]:
        """Start the compress workers of these settings, once; return the pool's name.

        Raises:
            ModelError: the checkpoint cannot be used.
            WorkerLost: the workers found no place, or did not start in time.
        """
        name = pool_name(compress, "shared" if detached else self._own_name)
        handles, info = open_pool(compress, pool, name=name, detached=detached)
        if not detached:
            # Only the handles of creation keep an actor alive; those found by name do not.
            mine = self._pools.setdefault(name, [])
            mine.extend(handles[len(mine) :])
        return name, info

    def start_session(
        self,
        source: VideoSource,
        sink: SinkFactory,
        compress: CompressSettings,
        *,
        open_clips: OpenClips,
        settings: SessionSettings | None = None,
        pool: PoolSettings | None = None,
        detached: bool = False,
    ) -> SessionHandle:
        """Start a stream's session; a detached one goes on when this process ends.

        Workers are started first: a session that took the last core would wait for them forever.
        """
        pool = pool or PoolSettings()
        name, _ = self.open_pool(compress, pool, detached=detached)
        spec = SessionSpec(
            source=source,
            sink=sink,
            compress=compress,
            open_clips=open_clips,
            pool_name=name,
            settings=settings or SessionSettings(),
            pool=pool,
            detached=detached,
        )
        session = start_session(
            spec,
            cpus=self._settings.session_cpus,
            resources=self._settings.session_resources,
            max_restarts=self._settings.session_restarts,
        )
        if not detached:
            self._sessions.append(session)
        return session

    def find_session(self, stream_id: str) -> SessionHandle | None:
        """The running session of a stream, whoever started it."""
        return find_session(stream_id)

    def list_sessions(self) -> list[str]:
        """Stream ids of the sessions that run in this cluster."""
        return list_sessions()

    def open_answer(self, settings: AnswerSettings, **options: Any) -> ClusterAnswer:
        """Start an answer worker; see `workers.cluster_answer.open_answer`."""
        answer = open_answer(settings, **options)
        self._answers.append(answer)
        return answer

    def close(self) -> None:
        """Stop the sessions this connection started, free the workers, leave the cluster."""
        for session in self._sessions:
            session.kill()
        for answer in self._answers:
            answer.close()
        for handles in self._pools.values():
            close_pool(handles)


@contextmanager
def open_cluster(settings: ClusterSettings | None = None) -> Iterator[Cluster]:
    """Start a private cluster, or join the one at `settings.address`, and leave it at the end.

    Raises:
        ClusterUnreachable: nothing answers there in time, it wants another token, or it runs
            another version of Ray or Python.
    """
    settings = settings or ClusterSettings()
    address = _checked_address(settings)
    try:
        _connect(settings, address)
    except (RayError, RuntimeError, ConnectionError, TimeoutError, ValueError) as error:
        ray.shutdown()
        raise ClusterUnreachable(
            f"no Ray cluster to be had at {address or 'this machine'}: {_brief(error)}; start one "
            "with `ray start --head`, with this version of Ray and Python and the same token"
        ) from error
    cluster = Cluster(settings)
    try:
        yield cluster
    finally:
        with suppress(RayError):
            cluster.close()
        ray.shutdown()


def _connect(settings: ClusterSettings, address: str | None) -> None:
    options: dict[str, Any] = {
        "namespace": NAMESPACE,
        "log_to_driver": False,
        "logging_level": logging.WARNING,
        "configure_logging": False,
    }
    if address is None:
        options |= {
            "num_cpus": _local_cpus(settings),
            "object_store_memory": settings.object_store_bytes,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
    # An empty address would make Ray look for a cluster by itself; "local" never does.
    ray.init(address=address or "local", **options)


def _checked_address(settings: ClusterSettings) -> str | None:
    """Knock before Ray does: it takes a minute to find out that nobody is there."""
    if settings.address in (None, "auto", "local"):
        return None if settings.address == "local" else settings.address
    host, _, port = settings.address.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidSettings(
            f"Ray address {settings.address!r} is not HOST:PORT; give the head's address"
        )
    try:
        socket.create_connection((host, int(port)), timeout=settings.connect_timeout_s).close()
    except OSError as error:
        raise ClusterUnreachable(
            f"nothing answers at Ray address {settings.address}: {error}; start the cluster with "
            "`ray start --head`, or leave the address out for a private one"
        ) from None
    return settings.address


def start_local_cluster(settings: ClusterSettings, *, timeout_s: float = 60.0) -> ClusterSettings:
    """Start a cluster on this machine that goes on after the process, for detached sessions.

    Does nothing when one runs here already. It listens on the loopback interface alone and is
    ended by `ray stop`. Returns the settings to join it with.

    Raises:
        ClusterUnreachable: it did not start in `timeout_s`.
    """
    joined = replace(settings, address="auto", num_cpus=None)
    if _local_cluster_runs():
        return joined
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head"]
    command += ["--node-ip-address=127.0.0.1", "--include-dashboard=false"]
    command += [
        "--disable-usage-stats",
        f"--num-cpus={settings.num_cpus or max(2, os.cpu_count() or 1)}",
    ]
    command += [f"--object-store-memory={settings.object_store_bytes}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise ClusterUnreachable(
            f"`ray start` did not end in {timeout_s:.0f} s; run it by hand to see why"
        ) from None
    if done.returncode:
        raise ClusterUnreachable(
            f"`ray start` failed with {done.returncode}: {_brief(done.stderr or done.stdout)}; "
            "run it by hand, or ingest without --detach"
        )
    return joined


def _local_cluster_runs() -> bool:
    from ray._private.services import canonicalize_bootstrap_address  # no public form exists

    try:
        return canonicalize_bootstrap_address("auto") is not None
    except ConnectionError:
        return False


def _local_cpus(settings: ClusterSettings) -> int:
    """At least two, so that a session and a worker have a place each on the smallest machine."""
    return settings.num_cpus or max(2, os.cpu_count() or 1)


def pool_name(compress: CompressSettings, owner: str) -> str:
    """Names the pool of these settings, so that sessions with equal ones share it."""
    digest = blake2b(repr(compress).encode(), digest_size=6).hexdigest()
    return f"compress-{owner}-{digest}"


def _brief(error: object) -> str:
    return " ".join(str(error).split())[:300]
