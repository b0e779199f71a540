"""Who writes a stream, and whether that process is still there.

A holder is named by a random writer's name and by its process: boot id, pid namespace, pid and
start time. Host names and bare pids say nothing: two containers may share both. A holder that can
be looked at from here and is not there any more has given its lease up; of any other nothing is
known, and its lease is waited out. Knows of no worker and no sink.
"""

import os
import re
import socket
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pipeline.store import ClipStore
from pipeline.store.base import Leases
from pipeline.store.checks import lease_held_error, require_current
from pipeline.values.types import Lease

ORPHAN_S = 15.0
"""How long a session without its cluster is given to end; 2 s are usual."""
POLL_S = 0.2
SLACK_S = 1.0
"""Beyond a lease's length: its clock is the server's."""

_HOLDER = re.compile(
    r"(?P<writer>[^@]*)@(?P<host>.*):(?P<pid>\d+)"
    r"(?: \[(?P<boot>[0-9a-f-]+)/(?P<namespace>\d+)/(?P<started>\d+)\])?"
)


@dataclass(frozen=True)
class Process:
    """A process as only itself can be: names and numbers that are given again do not make it."""

    boot: str
    """The kernel's boot id: another after every start of the machine."""
    namespace: int
    """Inode of the pid namespace in which `pid` counts."""
    pid: int
    started: int
    """Clock ticks from boot to the start of the process."""


def new_writer() -> str:
    """A name that no other writer has."""
    return uuid.uuid4().hex[:8]


def holder_text(writer: str) -> str:
    """`writer` in this process, as a lease names its holder."""
    here = this_process()
    proof = "" if here is None else f" [{here.boot}/{here.namespace}/{here.started}]"
    return f"{writer}@{socket.gethostname()}:{os.getpid()}{proof}"


def this_process() -> Process | None:
    """None where the kernel does not tell (not Linux, or a /proc of another pid namespace)."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None
    found = _stat_of(os.getpid())
    return None if found is None else Process(boot, namespace, os.getpid(), found[1])


def take_lease(
    store: ClipStore,
    stream_id: str,
    *,
    writer: str,
    lease_s: float,
    kin: str | None = None,
    given: Lease | None = None,
) -> Lease:
    """The lease, also from a predecessor of the same name or from a process that is gone.

    `kin`: how names of writers begin whose lease is taken over whether they live or not: the
    stream was given to this one, and what they write from now on is refused.
    `given`: what this writer has already, where it still holds.

    Raises:
        LeaseHeld: somebody else writes the stream, or did and cannot be seen from here, and did
            not let its lease end.
        LeaseLost: somebody has taken it after it was given.
    """
    held = store.get_lease(stream_id)
    if given is not None and held is not None:
        require_current(held, given)
        return held
    is_ours = kin is not None and held is not None and held.holder.startswith(kin)
    if not is_ours:
        require_free(store, stream_id, writer=writer)
    return store.acquire_lease(stream_id, holder_text(writer), ttl_s=lease_s, takeover=is_ours)


def take_leases(
    store: Leases, stream_ids: Collection[str], *, writer: str, lease_s: float, kin: str
) -> dict[str, Lease]:
    """Leases of many streams at once, as `take_lease` does; without those that others write."""
    return store.acquire_leases(stream_ids, holder_text(writer), ttl_s=lease_s, kin=kin)


def require_free(store: ClipStore, stream_id: str, *, writer: str | None = None) -> None:
    """Return once nobody writes the stream; a lease that nobody holds any more is removed.

    A session whose command and cluster were killed ends by itself soon, and a holder that cannot
    be seen from here may be dead: both are waited for, the second as long as its lease lasts.

    Raises:
        LeaseHeld: a living writer has it.
    """
    started_s = time.monotonic()
    while (held := store.get_lease(stream_id)) is not None:
        if _is_gone(held.holder, writer):
            store.release_lease(held)  # that very lease: another one is not touched
            continue
        patience_s = _patience_s(held)
        # It may end between two looks: then it is no orphan any more, but gone.
        if time.monotonic() - started_s >= patience_s and not _is_gone(held.holder, writer):
            raise lease_held_error(held)
        time.sleep(POLL_S)


def _patience_s(held: Lease) -> float:
    process = _process_of(held.holder)
    if process is None or not _is_visible(process):
        return held.ttl_s + SLACK_S
    return ORPHAN_S if _is_orphan(process.pid) else 0.0


def _is_gone(holder: str, writer: str | None) -> bool:
    if writer is not None and holder.partition("@")[0] == writer:
        return True
    process = _process_of(holder)
    if process is None or not _is_visible(process):
        return False
    found = _stat_of(process.pid)
    if found is None:
        return not _exists(process.pid)
    state, started = found
    return state in "ZX" or started != process.started


def _process_of(holder: str) -> Process | None:
    """The holder's process, where its name says which."""
    match = _HOLDER.fullmatch(holder)
    if match is None or match["boot"] is None:
        return None
    return Process(match["boot"], int(match["namespace"]), int(match["pid"]), int(match["started"]))


def _is_visible(process: Process) -> bool:
    """Whether its pid means here what it means there."""
    here = this_process()
    return here is not None and (here.boot, here.namespace) == (process.boot, process.namespace)


def _exists(pid: int) -> bool:
    """Also for a process whose facts are hidden from this user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _stat_of(pid: int) -> tuple[str, int] | None:
    """(state, start time in ticks) of a process; Z is dead, and not yet waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def _is_orphan(pid: int) -> bool:
    """A worker of Ray whose supervisor here is gone, or what is just ending."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        supervisor = Path(f"/proc/{parent}/comm").read_text().strip()
    except OSError:
        return False
    # A process that ends has no command line from before it counts as a zombie on.
    return not title or (title.startswith(b"ray::") and supervisor != "raylet")


def is_writer_alive(holder: str | None) -> bool:
    """Whether a holder can be seen from here and is there, whatever became of its lease."""
    if holder is None:
        return False
    process = _process_of(holder)
    return process is not None and _is_visible(process) and not _is_gone(holder, None)


def is_lease_held(store: ClipStore, stream_id: str) -> bool:
    """Whether somebody writes the stream: a lease whose holder is known to be gone is none."""
    held = store.get_lease(stream_id)
    return held is not None and not _is_gone(held.holder, None)
