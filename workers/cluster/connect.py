"""The connection to Ray: a private cluster, one that outlives the process, or one to be joined.

Ray is started without a dashboard and with a bounded object store. Its ports listen on all
interfaces, which no option changes; what keeps strangers out is its token, on unless the
environment says otherwise. Every wait has a limit, which Ray's own connecting has not.
"""

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import psutil  # carried by Ray
import ray
from ray._private import worker as ray_worker
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray._private.authentication.authentication_utils import (  # no public form exists
    is_token_auth_enabled,
)
from ray.exceptions import RayError

from workers.errors import ClusterUnreachable, InvalidSettings, one_line

logger = logging.getLogger(__name__)

NAMESPACE = "aot-stream"
"""Ray's namespace for the names of actors; one per product, so that commands find each other."""
SYSTEM_CONFIG = {"worker_niceness": 0}
"""Of clusters that are started here. Ray gives its workers way to all else (15): beside two busy
programs on two cores one that loads torch then takes 36 s for 3.4, and cameras do not wait."""


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
    """How often a day a session that dies is started again: bounded, because a file that crashes
    the decoder does so each time; per time, because a stream may outlive many machines."""
    connect_timeout_s: float = 10.0
    local_port: int = 26379
    """Where `start_local_cluster` listens. Not Ray's own default, which is Redis's."""

    def with_room_for(self, cpus: int) -> "ClusterSettings":
        """The same with at least so many of Ray's CPUs where the cluster is a private one.

        They only say how many processes there may be: on few cores they share them.
        """
        return replace(self, num_cpus=max(_local_cpus(self), cpus))

    def __post_init__(self) -> None:
        if self.address in (None, "auto"):
            return
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit() or "://" in host:
            raise InvalidSettings(
                f"Ray address {self.address!r} is not `auto` or HOST:PORT; give the host and port "
                "of the cluster's head (6379 by default), from a machine of the cluster"
            )


def connect(settings: ClusterSettings) -> None:
    """Connect this process to Ray: to the cluster at the address, or to a new one of its own.

    Raises:
        ClusterUnreachable: nothing answers there in time, it wants another token, or it runs
            another version of Ray or Python.
        InvalidSettings: this process is connected already; Ray allows one connection.
    """
    _quieten_ray()
    address = _checked_address(settings)
    if ray.is_initialized():
        raise InvalidSettings(
            "this process is connected to a Ray cluster already and can have one at a time; close "
            "that one first, or pass it on"
        )
    try:
        _init(settings, address)
    except (RayError, RuntimeError, ConnectionError, TimeoutError, ValueError) as error:
        ray.shutdown()
        raise ClusterUnreachable(
            f"no Ray cluster to be had at {address or 'this machine'}: {one_line(error)}; start "
            "one with `ray start --head`, with this version of Ray and Python and the same token"
        ) from error


def _init(settings: ClusterSettings, address: str | None) -> None:
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
            "_system_config": SYSTEM_CONFIG,
        }
    # An empty address would make Ray look for a cluster by itself; "local" never does.
    ray.init(address=address or "local", **options)


def _quieten_ray() -> None:
    """Two things that Ray has no option for.

    It prints the deaths of workers to stdout, where results go; they are logged instead. And it
    warns at every start that the token is on, as it should be.
    """
    ray_worker.print_to_stdstream = _log_message
    token_module = maybe_enable_token_auth_if_token_available.__module__
    logging.getLogger(token_module).setLevel(logging.ERROR)


def _log_message(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    for line in data["lines"]:
        logger.warning("ray: %s", one_line(line))


def _checked_address(settings: ClusterSettings) -> str | None:
    """Knock before Ray does: it retries without end where nobody, or not Ray, answers."""
    address = settings.address
    if address is None:
        return None
    if address != "auto":
        host, _, port = address.rpartition(":")
        if host in ("127.0.0.1", "localhost"):
            _use_token()
        try:
            socket.create_connection((host, int(port)), settings.connect_timeout_s).close()
        except OSError as error:
            raise ClusterUnreachable(
                f"nothing answers at Ray address {address}: {error}; start the cluster with "
                "`ray start --head`, or leave the address out for a private one"
            ) from None
    _check_health(address, settings.connect_timeout_s)
    return address


def _use_token() -> None:
    """Take the token of this machine, if there is one and the environment does not say otherwise.

    Ray does so by itself for a cluster it finds on this machine, but never for an address, as that
    would send the token to strangers; on the loopback interface there are none.
    """
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _check_health(address: str, timeout_s: float) -> None:
    """Ask Ray's own health check, in a process of its own, the only way to bound it."""
    try:
        done = _ray_command("health-check", f"--address={address}", timeout_s=timeout_s)
    except subprocess.TimeoutExpired:
        raise ClusterUnreachable(
            f"what listens at Ray address {address} does not answer as Ray in {timeout_s:.0f} s; "
            "give the address of the cluster's head, and the same token as there"
        ) from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise ClusterUnreachable(
            f"the Ray cluster at {address} cannot be joined: {one_line(lines[-1])}; start one with "
            "`ray start --head`, with this version of Ray and Python and the same token"
        )


def _ray_command(*arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)


def start_local_cluster(
    settings: ClusterSettings, *, timeout_s: float = 180.0
) -> tuple[ClusterSettings, bool]:
    """A cluster on this machine that goes on after the process, for detached sessions.

    Nothing is started when it runs already. It asks for the token in ~/.ray/auth_token, which is
    made if need be, and ends with `ray stop`. Returns the settings to join it with, and whether
    it was started here: see `stop_local_cluster`.

    Raises:
        ClusterUnreachable: it did not start in `timeout_s`.
    """
    _quieten_ray()
    joined = replace(settings, address=f"127.0.0.1:{settings.local_port}", num_cpus=None)
    with suppress(ClusterUnreachable):
        _checked_address(joined)
        return joined, False
    _ray_command("get-auth-token", "--generate", timeout_s=timeout_s)
    _use_token()
    options = ["--head", f"--port={settings.local_port}"]
    options += ["--include-dashboard=false", "--disable-usage-stats"]
    options += [f"--num-cpus={_local_cpus(settings)}"]
    options += [f"--object-store-memory={settings.object_store_bytes}"]
    options += [f"--system-config={json.dumps(SYSTEM_CONFIG)}"]
    try:
        done = _ray_command("start", *options, timeout_s=timeout_s)
    except subprocess.TimeoutExpired:
        stop_local_cluster(settings)  # what there is of it
        raise ClusterUnreachable(
            f"`ray start` did not end in {timeout_s:.0f} s; run it by hand to see why"
        ) from None
    if done.returncode:
        raise ClusterUnreachable(
            f"`ray start` failed with {done.returncode}: {one_line(done.stderr or done.stdout)}; "
            "run it by hand, or ingest without --detach"
        )
    return joined, True


def stop_local_cluster(settings: ClusterSettings, *, timeout_s: float = 20.0) -> None:
    """End the cluster that `start_local_cluster` started, and no other of this machine.

    `ray stop` would end them all; here it is the processes that name the cluster's session.
    """
    name = _session_of_port(settings.local_port)
    if name is None:
        logger.warning("no cluster found at port %d to be stopped", settings.local_port)
        return
    ours = [process for process in _processes() if name in process.info["cmdline"]]
    for process in ours:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(ours, timeout=timeout_s / 2)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(ours, timeout=timeout_s / 2)


def _session_of_port(port: int) -> str | None:
    """The word `--session-name=...` of the head that listens at a port."""
    for process in _processes():
        words = process.info["cmdline"]
        if f"--gcs_server_port={port}" in words:
            return next((word for word in words if word.startswith("--session-name=")), None)
    return None


def _processes() -> list[Any]:
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if process.info["cmdline"]]


def _local_cpus(settings: ClusterSettings) -> int:
    """At least two, so that a session and a worker have a place each on the smallest machine."""
    return settings.num_cpus or max(2, os.cpu_count() or 1)


def cluster_version() -> str:
    """Version of Ray."""
    return ray.__version__


def is_token_auth_on() -> bool:
    """Whether Ray asks for a token before it runs anybody's code."""
    return is_token_auth_enabled()
