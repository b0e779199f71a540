"""Writing one stream through what happens to its store: outages, expired leases, lost writes.

A store that is away is waited for. A lease that merely ended meanwhile is taken again: when nobody
had the stream in between, which its fencing token tells. A store that came back with less than it
acknowledged is noticed at the next write. Knows of no session and no source.
"""

import contextvars
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from pipeline.ingest.identity import known_info
from pipeline.ingest.lease import holder_text
from pipeline.store import ClipStore, StoreConfig, open_store
from pipeline.store.checks import Place
from pipeline.store.patience import retry_while_away
from pipeline.values.errors import (
    LeaseHeld,
    LeaseLost,
    PipelineError,
    StoreUnavailable,
    StoreWentBack,
)
from pipeline.values.types import Lease, Position, StreamInfo
from workers.errors import SinkWentBack

logger = logging.getLogger(__name__)

T = TypeVar("T")


class FencedStream:
    """A stream, its lease and what the store is known to have of it; one writer's."""

    def __init__(
        self,
        store: ClipStore,
        lease: Lease,
        info: StreamInfo,
        *,
        writer: str,
        heal: StoreConfig | None = None,
    ) -> None:
        """`heal`: opens the same store, and starts its server again where that is ours to do."""
        self.store, self.lease, self.info = store, lease, info
        self._writer, self._heal = writer, heal
        self._told: Place | None = None
        self._closed = threading.Event()
        context = contextvars.copy_context()  # its lines are about the same stream
        self._renewer = threading.Thread(
            target=context.run, args=(self._renew,), name="lease", daemon=True
        )
        self._renewer.start()

    @property
    def stream_id(self) -> str:
        """Id of the stream."""
        return self.info.stream_id

    def write(
        self, action: Callable[[Lease, Place | None], T], *, limit_s: float | None = None
    ) -> T:
        """What `action` gives for the lease and the place of the last clip that is stored.

        Waits up to `limit_s`, else the store's `outage_s`, for a store that is away.

        Raises:
            StoreUnavailable: away for longer.
            LeaseLost: somebody else wrote the stream meanwhile.
            SinkWentBack: the store has less than it acknowledged; `position` says what it has.
        """
        try:
            return self._patiently(lambda: self._held(action), limit_s)
        except StoreWentBack as error:
            self._went_back(error.last)
            raise SinkWentBack(str(error)) from error

    def told(self, place: Place) -> None:
        """The store has acknowledged this clip, which is the last."""
        self._told = place if self._told is None else max(self._told, place)

    @property
    def last_told(self) -> Place | None:
        """The last clip that the store is known to have acknowledged."""
        return self._told

    def require_told(self, *, limit_s: float) -> None:
        """Ask the store whether it still has all that it acknowledged.

        Raises:
            SinkWentBack: it has less; `last_told` is what it has.
        """
        told, position = self._told, self.position(limit_s=limit_s)
        last = None if position is None else (position.epoch, position.index)
        if told is not None and (last is None or last < told):
            self._went_back(last)
            raise SinkWentBack(
                f"{self.stream_id}: clip {told[1]} of epoch {told[0]} was stored, now the last one "
                f"is {last}"
            )

    def covered_s(self, *, limit_s: float | None = None) -> float:
        """Stream time up to which the store accounts for the stream, by clips or gaps."""
        position = self.position(limit_s=limit_s)
        gaps = self._patiently(lambda: self.store.list_gaps(self.stream_id), limit_s)
        return max([gap.end_s for gap in gaps] + [0.0 if position is None else position.end_s])

    def position(self, *, limit_s: float | None = None) -> Position | None:
        """The last stored clip."""
        position = self._patiently(lambda: self.store.get_position(self.stream_id), limit_s)
        if position is not None and self._told is None:
            self._told = (position.epoch, position.index)
        return position

    def put_info(self, *, limit_s: float | None = None, **changes: object) -> None:
        """Change what is known of the stream; a session that was stopped does not wait long.

        What cannot be written within the limit is with the next change.
        """
        self.info = replace(self.info, **changes)  # pyright: ignore[reportArgumentType]
        if limit_s is None and self.info.status == "paused":
            limit_s = 2.0
        self.write(lambda lease, _: self.store.put_info(self.info, lease=lease), limit_s=limit_s)

    def close(self) -> None:
        """Give the stream back."""
        self._closed.set()
        self._renewer.join(timeout=self.lease.ttl_s)
        try:
            self.store.release_lease(self.lease)
        except PipelineError as error:
            logger.warning("%s: lease not given back: %s", self.stream_id, error)
        self.store.close()

    def _patiently(self, action: Callable[[], T], limit_s: float | None) -> T:
        limit_s = self.store.config.outage_s if limit_s is None else limit_s
        return retry_while_away(
            lambda: self._healing(action), limit_s=limit_s, wait=self._closed.wait
        )

    def _healing(self, action: Callable[[], T]) -> T:
        """An embedded server that died is started again by whoever needs it."""
        try:
            return action()
        except StoreUnavailable:
            if self._heal is not None:
                open_store(self._heal).close()
            raise

    def _held(self, action: Callable[[Lease, Place | None], T]) -> T:
        try:
            return action(self.lease, self._told)
        except LeaseLost as error:
            self._take_again(error)
        return action(self.lease, self._told)

    def _take_again(self, lost: LeaseLost) -> None:
        """Take the lease that ended; raise that it is lost when somebody had the stream since."""
        before, holder = self.lease, holder_text(self._writer)
        try:
            lease = self.store.acquire_lease(self.stream_id, holder, ttl_s=before.ttl_s)
        except LeaseHeld:
            raise lost from None
        if lease.token > before.token + 1 or not self._is_there():
            self.store.release_lease(lease)
            raise lost
        logger.warning("%s: the lease had ended and is taken again", self.stream_id)
        self.lease = lease

    def _is_there(self) -> bool:
        """Whether the stream is still the one that is written: not removed, nor made anew."""
        known = known_info(self.store, self.stream_id)
        return known is not None and known.created_at_s == self.info.created_at_s

    def _went_back(self, last: Place | None) -> None:
        logger.warning(
            "%s: the store lost clips it had acknowledged: it ends at %s, was told %s",
            self.stream_id,
            last,
            self._told,
        )
        self._told = last

    def _renew(self) -> None:
        """Renew well before the end; a failure is left to the next write, which it refuses."""
        while not self._closed.wait(self.lease.ttl_s / 3):
            try:
                self.store.renew_lease(self.lease)
            except PipelineError as error:
                logger.warning("%s: lease not renewed: %s", self.stream_id, error)
