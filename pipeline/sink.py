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
from pipeline.types import Gap, Lease, StreamInfo, StreamStatus, without_credentials
from workers.group import Cursor, SessionReport, StreamGap
from workers.types import CompressedClip

logger = logging.getLogger(__name__)

_STATUS: dict[str, StreamStatus] = {"complete": "complete", "stopped": "paused"}


@dataclass(frozen=True)
class StoreSinkFactory:
    """All it takes to write one stream, from any process of the cluster."""

    store: StoreConfig
    info: StreamInfo
    """As the stream is to be known; of an existing stream only the status changes."""
    lease_s: float = 30.0
    writer: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
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
            lease = _acquire(store, self.info.stream_id, self.writer, self.lease_s)
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
        begun = store.get_position(known.stream_id) is not None
        if known.source != self.info.source and not self.moved and begun:
            raise Conflict(
                f"stream {known.stream_id} holds {known.source}, got {self.info.source}; use "
                "another stream id, or --resume if the file was moved"
            )
        if known.status == "complete" and known.fingerprint == self.info.fingerprint:
            return known
        if begun and known.wall_start_s != self.info.wall_start_s:
            raise Conflict(
                f"stream {known.stream_id} was begun with wall start {known.wall_start_s}, got "
                f"{self.info.wall_start_s}; give the same --start-time to go on with it"
            )
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


def describe_source(url: str) -> str:
    """A source as it is stored and shown: files by their full path, no credentials."""
    if "://" in url:
        return without_credentials(url)
    return os.fsencode(os.path.abspath(url)).decode("utf-8", "backslashreplace")


def _acquire(store: ClipStore, stream_id: str, writer: str, lease_s: float) -> Lease:
    """The lease, also from a predecessor of the same name or from a dead process of this host."""
    holder = f"{writer}@{socket.gethostname()}:{os.getpid()}"
    try:
        return store.acquire_lease(stream_id, holder, ttl_s=lease_s)
    except LeaseHeld:
        held = store.get_lease(stream_id)
        if held is not None and not _is_gone(held.holder, writer):
            raise
    return store.acquire_lease(stream_id, holder, ttl_s=lease_s, takeover=True)


def _is_gone(holder: str, writer: str) -> bool:
    name, _, place = holder.partition("@")
    host, _, pid = place.rpartition(":")
    if name == writer:
        return True
    if host != socket.gethostname() or not pid.isdigit():
        return False
    return not _is_alive(int(pid))


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
