"""A live stream's way into its store: by way of the spool, so that the session never waits.

A clip is on the disk before the store is asked. While that is away a thread tries again and drains
what waits, in order; what was acknowledged stays on the disk for a moment, should the store come
back without its last writes. The next writer stores what a killed one left, unless somebody else
wrote the stream meanwhile: then it is refused. Knows of no source.
"""

import contextvars
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice

from pipeline.ingest.fenced import FencedStream
from pipeline.store import arrow
from pipeline.store.checks import Place
from pipeline.store.keys import record_id
from pipeline.store.spool import Entry, Kind, Spool, SpoolRules, SpoolUse
from pipeline.values.errors import (
    Conflict,
    FingerprintMismatch,
    StoreFull,
    StoreReadOnly,
    StoreRefused,
    StoreUnavailable,
)
from pipeline.values.types import Gap, Lease
from workers.errors import SinkFull, SinkWentBack
from workers.redact import redact_url
from workers.types import CompressedClip

logger = logging.getLogger(__name__)

KEEP_S = 5.0
"""A stored clip stays on disk for so long: a server that keeps its writes every second may forget
the last of them."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0
CLOSE_S = 10.0
"""For one answer of a store that is away, with its reconnects."""
NEAR_S = 1e-3
AWAY = (StoreUnavailable, StoreFull, StoreReadOnly)
"""What may end by itself, or by somebody's hand; all else ends the session."""


def name_store(url: str, namespace: str) -> str:
    """What tells stores of one machine apart, without a secret in it."""
    return hashlib.sha256(f"{redact_url(url)} {namespace}".encode()).hexdigest()[:12]


class Outbox:
    """Puts one stream's clips and gaps; opened under its lease."""

    def __init__(
        self,
        stream: FencedStream,
        rules: SpoolRules,
        *,
        store: str,
        use: SpoolUse | None = None,
    ) -> None:
        """`store`: its URL, which tells stores of one machine apart; `use`: of all streams here."""
        self._stream = stream
        key = name_store(store, stream.store.config.namespace)
        lease = stream.lease
        writer = f"{lease.token:012d}-{lease.nonce}"
        self._spool = Spool(rules, key, stream.stream_id, writer, use=use)
        self._lock = threading.Lock()
        self._delivering = threading.Lock()
        self._closed = threading.Event()
        self._is_behind = False
        """The store has lost something, and what is to be stored again is not sorted out yet."""
        self._drainer: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def is_away(self) -> bool:
        """Whether the store was away when it was last asked."""
        return self._drainer is not None

    @property
    def waiting_bytes(self) -> int:
        """Bytes on disk that the store does not have yet."""
        with self._lock:
            return self._spool.waiting_bytes

    # What a session puts

    def put_clip(self, clip: CompressedClip) -> int:
        """Keep a clip, and store it where the store is there; the bytes of its record.

        Raises:
            SinkFull: the store is away and the spool holds no more; nothing is kept.
            LeaseLost, StoreRefused, ...: what waiting does not mend.
        """
        with self._lock:
            entry = self._entry_of(clip, "clip")
        self._put(entry)
        return len(entry.body)

    def put_gap(self, gap: Gap) -> None:
        """The same for a gap."""
        self._put(Entry.of_gap(self._stream.info, gap))

    def keep_open(self, clip: CompressedClip) -> None:
        """The open clip as it is so far, while the store is away."""
        with self._lock:
            self._spool.keep_open(self._entry_of(clip, "open"))

    def _entry_of(self, clip: CompressedClip, kind: Kind) -> Entry:
        info, dtype = self._stream.info, self._stream.store.config.dtype
        blob = arrow.encode_clip(clip, fingerprint=info.fingerprint, dtype=dtype)
        return Entry(
            kind,
            clip.stream_id,
            info.created_at_s,
            clip.epoch,
            clip.start_s,
            clip.end_s,
            index=clip.index,
            after=self._spool.last_clip or self._stream.last_told,
            body=blob,
        )

    def _put(self, entry: Entry) -> None:
        self._raise_what_failed()
        try:
            with self._lock:
                self._spool.forget_before(time.monotonic() - KEEP_S)
                self._spool.append(entry)
                if self.is_away:
                    return
        except SinkFull as full:
            self._put_past(entry, full)
            return
        away = _find_away(lambda: self._deliver_all(limit_s=0.0))
        if away is not None:
            self._begin_draining(away)

    def _put_past(self, entry: Entry, full: SinkFull) -> None:
        """A spool that takes no more does not matter while the store is there."""
        if self.is_away:
            raise full
        away = _find_away(lambda: self._deliver_all(limit_s=0.0, past=entry))
        if away is not None:
            raise full from away

    # Into the store

    def flush(self, *, limit_s: float) -> bool:
        """Store what waits, for up to `limit_s`; whether all is stored.

        Raises:
            LeaseLost, StoreRefused, ...: what waiting does not mend.
        """
        began_s, drainer = time.monotonic(), self._drainer
        if drainer is not None:
            drainer.join(limit_s)
        self._raise_what_failed()
        if self.is_away:
            return False
        left_s = max(0.0, limit_s - (time.monotonic() - began_s))
        return _find_away(lambda: self._deliver_all(limit_s=left_s, verify=True)) is None

    def close(self) -> None:
        """Leave what waits to the next writer."""
        self._closed.set()
        if self._drainer is not None:
            self._drainer.join(CLOSE_S)
        with self._lock:
            waiting, size_bytes = self._spool.waiting, self._spool.waiting_bytes
            if not waiting:
                self._spool.remove()
        if waiting:
            logger.warning(
                "%s: %d clips and gaps (%d bytes) stay in the spool and are stored when the stream "
                "goes on",
                self._stream.stream_id,
                waiting,
                size_bytes,
            )

    def _deliver_all(
        self, *, limit_s: float, past: Entry | None = None, verify: bool = False
    ) -> None:
        """Store what waits, in order, and behind it what is `past` a full spool.

        A store that lost what it had acknowledged is told it again, as far as it is known; with
        `verify` it is asked whether it did, which else shows at the next clip.
        """
        with self._delivering:
            while True:
                try:
                    if self._is_behind:
                        self._go_back(limit_s)
                    self._deliver_waiting(limit_s)
                    if past is not None:
                        self._deliver(past, limit_s)
                        with self._lock:
                            self._spool.note(past)
                    if verify:
                        self._stream.require_told(limit_s=limit_s)
                        self._tell_again(limit_s)
                    return
                except SinkWentBack:
                    self._is_behind = True

    def _deliver_waiting(self, limit_s: float) -> None:
        while True:
            with self._lock:
                entry = self._first()
            if entry is None:
                return
            self._deliver(entry, limit_s)
            with self._lock:
                self._spool.acknowledge(time.monotonic())

    def _first(self) -> Entry | None:
        while self._spool.waiting:
            try:
                return self._spool.first()
            except (ValueError, OSError) as error:
                lost = self._spool.skip()
                logger.error("%s: spooled %s does not read: %s", lost.stream_id, lost, error)
        return None

    def _deliver(self, entry: Entry, limit_s: float | None) -> None:
        stream = self._stream
        if entry.kind == "gap":
            stream.write(partial(_put_gap, stream, entry.to_gap()), limit_s=limit_s)
            return
        self._tell_again(limit_s)
        key = record_id(entry.stream_id, *entry.place)
        stream.write(
            lambda lease, after: stream.store.put_record(key, entry.body, lease, after=after),
            limit_s=limit_s,
        )
        stream.told(entry.place)

    def _tell_again(self, limit_s: float | None) -> None:
        """Gaps move no position: that the store lost some behind its last clip does not show. So
        they are told once more before the next clip, and at the end."""
        stream = self._stream
        with self._lock:
            told = [entry.to_gap() for entry in self._spool.told_gaps()]
        for gap in told:
            put = partial(_put_gap, stream, gap)
            stream.write(put, limit_s=limit_s)

    def _go_back(self, limit_s: float) -> None:
        """The store has less than it acknowledged: what is still here is stored again."""
        covered_s = self._stream.covered_s(limit_s=limit_s)
        with self._lock:
            self._spool.rewind(self._stream.last_told, covered_s)
        self._is_behind = False

    def _put_lost(self, start_s: float, before: Entry) -> None:
        """Say that nothing is left of the stretch up to an entry."""
        if before.start_s - start_s > NEAR_S:
            gap = Gap(before.stream_id, before.epoch, start_s, before.start_s, "store")
            self._stream.write(partial(_put_gap, self._stream, gap))

    # While the store is away

    def _begin_draining(self, error: Exception) -> None:
        logger.warning(
            "%s: the store is away, clips are kept on disk: %s", self._stream.stream_id, error
        )
        context = contextvars.copy_context()  # its lines are about the same stream
        self._drainer = threading.Thread(
            target=context.run, args=(self._drain,), name="spool", daemon=True
        )
        self._drainer.start()

    def _drain(self) -> None:
        began_s, pause_s = time.monotonic(), FIRST_WAIT_S
        while not self._closed.wait(pause_s):
            try:
                away = _find_away(lambda: self._deliver_all(limit_s=0.0))
            except Exception as error:  # raised by the session's next call
                self._error = error
                break
            if away is not None:
                pause_s = min(2 * pause_s, LONGEST_WAIT_S)
                continue
            away_s = time.monotonic() - began_s
            with self._lock:
                if self._spool.waiting:  # put since
                    continue
                self._drainer = None
            logger.warning("%s: the store is back after %.1f s", self._stream.stream_id, away_s)
            return
        self._drainer = None

    def _raise_what_failed(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    # What an earlier writer left

    def replay(self) -> None:
        """Store what earlier writers of this stream left, then remove it.

        Refused is what belongs to a stream that was removed meanwhile, what was torn, and all of it
        where somebody else wrote the stream since.

        Raises:
            StoreError: what storing it failed of; all of it is still there then.
        """
        info = self._stream.info
        heads = [entry and replace(entry, body=b"") for entry in self._spool.earlier()]
        if not heads:
            return
        own = [head for head in heads if head is None or head.created_at_s == info.created_at_s]
        position = self._stream.position()
        last = None if position is None else (position.epoch, position.index)
        if not own or not _goes_on(own, last):
            self._refuse(heads, "somebody else wrote the stream, or removed it, since")
        else:
            self._replay(heads, last, 0.0 if position is None else position.end_s)
        self._spool.remove_earlier()

    def _replay(self, heads: list[Entry | None], last: Place | None, end_s: float) -> None:
        stored, is_torn = 0, False
        for number, entry in enumerate(self._spool.earlier()):
            if entry is None:
                is_torn = True
                continue
            if entry.created_at_s != self._stream.info.created_at_s:
                continue
            if entry.kind == "open":
                self._show_open(entry)
                continue
            is_behind = entry.kind == "clip" and not stored and entry.after not in (None, last)
            if is_torn or is_behind:
                self._put_lost(end_s, entry)
            try:
                self._deliver(entry, None)
            except (Conflict, FingerprintMismatch) as error:
                self._refuse(list(islice(heads, number, None)), str(error))
                return
            stored, is_torn, end_s = stored + 1, False, max(end_s, entry.end_s)
        logger.info("%s: %d spooled entries were stored", self._stream.stream_id, stored)

    def _show_open(self, entry: Entry) -> None:
        """A clip that was open when its writer died: `recover_open` makes it a clip."""
        position = self._stream.position()
        if position is not None and entry.index <= position.index:
            return
        stream, key = self._stream, record_id(entry.stream_id, *entry.place)
        clip = arrow.decode_clip(entry.body, key=key)
        stream.write(
            lambda lease, _: stream.store.put_open(clip.clip, lease, fingerprint=clip.fingerprint)
        )

    def _refuse(self, entries: list[Entry | None], why: str) -> None:
        clips = sum(entry is not None and entry.kind == "clip" for entry in entries)
        logger.warning("%s: %d spooled clips are refused: %s", self._stream.stream_id, clips, why)


def _put_gap(stream: FencedStream, gap: Gap, lease: Lease, after: Place | None) -> None:
    stream.store.put_gap(gap, lease)


def _find_away(action: Callable[[], None]) -> Exception | None:
    """What a store that is away said to `action`; None where that was done.

    A refusal is raised, as all else that waiting does not mend.
    """
    try:
        action()
    except StoreRefused:
        raise
    except AWAY as error:
        return error
    return None


def _goes_on(heads: list[Entry | None], last: Place | None) -> bool:
    """Whether the store ends where the writer of these entries left it, or before.

    Where it ends at one of its clips, or before the first of them, nobody else wrote it.
    """
    clips = [head for head in heads if head is not None and head.kind == "clip"]
    if not clips or last is None:
        return True
    return last in {clip.place for clip in clips} or last <= (clips[0].after or (-1, -1))
