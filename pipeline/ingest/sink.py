"""A stream's compressed clips into the store, under a lease: what a session writes to.

`StoreSinkFactory` is picklable and is opened where the session runs. A lease is renewed in the
background while the sink is open; one that was lost shows at the next write, which the store
refuses. Knows of no worker and no decoder.
"""

import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import Conflict, LeaseHeld, PipelineError, UnknownStream
from pipeline.store import ClipStore, StoreConfig, open_store
from pipeline.store.base import lease_held
from pipeline.types import Gap, Lease, StreamInfo, StreamStatus
from workers.redact import redact_url
from workers.seams import SessionReport
from workers.types import CompressedClip, Cursor, StreamGap

logger = logging.getLogger(__name__)

ORPHAN_S = 15.0
"""How long a session without its cluster is given to end; 2 s are usual."""
ORPHAN_POLL_S = 0.2

_STATUS: dict[str, StreamStatus] = {"complete": "complete", "stopped": "paused"}


def new_writer() -> str:
    """A name that no other writer has."""
    return uuid.uuid4().hex[:8]


@dataclass(frozen=True)
class StoreSinkFactory:
    """All it takes to write one stream, from any process of the cluster."""

    store: StoreConfig
    info: StreamInfo
    """As the stream is to be known; of an existing stream only the status changes."""
    lease_s: float = 30.0
    writer: str = field(default_factory=new_writer)
    """Names this writer: one that starts again takes over from itself."""
    moved: bool = False
    """Accept that an existing stream is known under another source."""

    def open(self) -> "StoreSink":
        """Take the lease and make the stream known.

        Raises:
            LeaseHeld: somebody else writes the stream.
            FingerprintMismatch: it holds tokens of another model or other settings.
            Conflict: it came from another source.
        """
        store = open_store(self.store)
        try:
            lease = take_lease(store, self.info.stream_id, writer=self.writer, lease_s=self.lease_s)
            try:
                return StoreSink(store, lease, self._begin(store, lease))
            except BaseException:
                store.release_lease(lease)
                raise
        except BaseException:
            store.close()
            raise

    def _begin(self, store: ClipStore, lease: Lease) -> StreamInfo:
        known = known_info(store, self.info.stream_id)
        now_s = time.time()
        if known is None:
            store.put_info(replace(self.info, created_at_s=now_s, updated_at_s=now_s), lease=lease)
            return store.get_info(self.info.stream_id)
        if store.get_position(known.stream_id) is not None:
            require_same_source(known, self.info, moved=self.moved)
        if known.status == "complete" and known.fingerprint == self.info.fingerprint:
            return known
        info = replace(self.info, created_at_s=known.created_at_s, updated_at_s=now_s)
        store.put_info(info, lease=lease)
        return info


class StoreSink:
    """An open stream; the only writer of it while the lease holds."""

    def __init__(self, store: ClipStore, lease: Lease, info: StreamInfo) -> None:
        self._store, self._lease, self._info = store, lease, info
        self._closed = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._renewer.start()

    def position(self) -> Cursor | None:
        """The last stored clip; complete when the source was read to its end."""
        position = self._store.get_position(self._info.stream_id)
        if position is None:
            return None
        return Cursor(
            epoch=position.epoch,
            index=position.index,
            last_pts_s=position.last_pts_s,
            end_s=position.end_s,
            complete=self._info.status == "complete",
        )

    def put(self, clip: CompressedClip) -> int:
        """Store a clip; return the bytes of its record."""
        return self._store.put_clip(
            clip, self._lease, fingerprint=self._info.fingerprint
        ).size_bytes

    def put_gap(self, gap: StreamGap) -> None:
        """Store a gap."""
        self._store.put_gap(
            Gap(gap.stream_id, gap.epoch, gap.start_s, gap.end_s, gap.reason), self._lease
        )

    def finish(self, report: SessionReport) -> None:
        """Keep how the session ended as the stream's status."""
        error = None if report.error is None else f"{report.error_code}: {report.error}"
        if report.truncated:
            error = "Truncated: the source ended before the end it declares; what came is kept"
        elif report.damaged and error is None:
            error = f"DamagedPackets: {report.damaged} frames were damaged in the source"
        status = _STATUS.get(report.state, "failed")
        self._info = replace(self._info, status=status, error=error, updated_at_s=time.time())
        self._store.put_info(self._info, lease=self._lease)

    def close(self) -> None:
        """Give the stream back."""
        self._closed.set()
        self._renewer.join(timeout=self._lease.ttl_s)
        try:
            self._store.release_lease(self._lease)
        except PipelineError as error:
            logger.warning("%s: lease not given back: %s", self._info.stream_id, error)
        self._store.close()

    def _renew(self) -> None:
        """Renew well before the end; a failure is left to the next write, which it refuses."""
        while not self._closed.wait(self._lease.ttl_s / 3):
            try:
                self._store.renew_lease(self._lease)
            except PipelineError as error:
                logger.warning("%s: lease not renewed: %s", self._info.stream_id, error)


def known_info(store: ClipStore, stream_id: str) -> StreamInfo | None:
    """What is known of a stream, None when there is none."""
    try:
        return store.get_info(stream_id)
    except UnknownStream:
        return None


def require_same_source(known: StreamInfo, info: StreamInfo, *, moved: bool) -> None:
    """Raise `Conflict` unless a stream that was begun may go on with this source.

    A complete stream is not gone on with: its start does not matter.
    """
    if known.source != info.source and not moved:
        raise Conflict(
            f"stream {known.stream_id} holds {known.source}, got {info.source}; use "
            "another stream id, or --resume if the file was moved"
        )
    if known.status != "complete" and known.wall_start_s != info.wall_start_s:
        raise Conflict(
            f"stream {known.stream_id} was begun with wall start {known.wall_start_s}, got "
            f"{info.wall_start_s}; give the same --start-time to go on with it"
        )


def describe_source(url: str) -> str:
    """A source as it is stored and shown: files by their full path, no credentials."""
    shown = redact_url(url)
    if "://" in url or (shown != url and not os.path.lexists(url)):  # a misspelt URL is no path
        return shown
    return os.fsencode(os.path.abspath(url)).decode("utf-8", "backslashreplace")


def require_free(store: ClipStore, stream_id: str) -> None:
    """Raise `LeaseHeld` when a living writer has the stream.

    A session whose command and cluster were killed ends by itself soon: that is waited for.
    """
    until_s = time.monotonic() + ORPHAN_S
    while (held := store.get_lease(stream_id)) is not None and not _is_gone(held.holder):
        # It may end between two looks: then it is no orphan any more, but gone.
        ends = _is_orphan(held.holder) or _is_gone(held.holder)
        if time.monotonic() > until_s or not ends:
            raise lease_held(held)
        time.sleep(ORPHAN_POLL_S)


def take_lease(store: ClipStore, stream_id: str, *, writer: str, lease_s: float) -> Lease:
    """The lease, also from a predecessor of the same name or from a dead process of this host."""
    holder = f"{writer}@{socket.gethostname()}:{os.getpid()}"
    try:
        return store.acquire_lease(stream_id, holder, ttl_s=lease_s)
    except LeaseHeld:
        held = store.get_lease(stream_id)
        if held is not None and not _is_gone(held.holder, writer):
            raise
    return store.acquire_lease(stream_id, holder, ttl_s=lease_s, takeover=True)


def _is_gone(holder: str, writer: str | None = None) -> bool:
    if holder.partition("@")[0] == writer:
        return True
    pid = _pid_here(holder)
    return pid is not None and not _is_alive(pid)


def _pid_here(holder: str) -> int | None:
    """The holder's process when it is one of this host."""
    host, _, pid = holder.partition("@")[2].rpartition(":")
    return int(pid) if host == socket.gethostname() and pid.isdigit() else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Killed, and not yet waited for by its parent: it writes nothing any more (Linux alone)."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return facts.rpartition(")")[2].split()[:1] == ["Z"]


def _is_orphan(holder: str) -> bool:
    """A worker of Ray whose supervisor here is gone, or what is just ending (Linux alone)."""
    pid = _pid_here(holder)
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        supervisor = Path(f"/proc/{parent}/comm").read_text().strip()
    except OSError:
        return False
    # A process that ends has no command line from before it counts as a zombie on.
    return not title or (title.startswith(b"ray::") and supervisor != "raylet")
