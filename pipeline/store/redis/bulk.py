"""Many values in a row: each received once, into memory of its own, while others are verified.

redis-py with hiredis copies a value three times. Here the bytes go once, from the socket to the
place where the tensors will use them, and over a network the next GET is on the wire before a value
has come. One thread receives, so that verifying has the other core: it holds the GIL for a few
microseconds a value, since the kernel hands it over whole.

Connections come from redis-py's own pool, which knows address, login, encryption and time limits.
What is not a plain value of the length that the index names (an error, nothing, a notification, a
connection that broke) is not looked into: the connection is cut, and the caller asks again with an
ordinary GET.
"""

import logging
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import closing, suppress
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import redis

from pipeline.store.envelope import HEADER_BYTES, MAX_BODY_BYTES
from pipeline.store.keys import Keys
from pipeline.values.types import ClipSpan

logger = logging.getLogger(__name__)

_RECORD_AT = 64
"""Where a record starts in its memory: behind the reply's first line, and aligned."""
_END = b"\r\n"


class BulkReader:
    """The values of spans in the order they are asked for. Its owner is one thread at a time."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._receiver = _Receiver(client, keys)
        self._asked: SimpleQueue[ClipSpan | None] = SimpleQueue()
        self._received: SimpleQueue[memoryview | BaseException | None] = SimpleQueue()
        self._closed = False
        # A daemon, since an iteration that nobody ends must not keep the process from ending.
        self._thread = threading.Thread(target=self._receive_all, name="aot-store", daemon=True)
        self._thread.start()

    def ask(self, span: ClipSpan) -> None:
        """Have its value fetched: all that were asked for and not taken are in memory at once."""
        self._asked.put(span)

    def take(self) -> memoryview | None:
        """The next value, in memory that nobody else has; None where an ordinary GET must tell.

        Raises `redis.TimeoutError` when there was no answer in time, and what else redis-py raises
        where a connection cannot be had, but for its being closed: then the GET must tell too.
        """
        while True:
            try:
                received = self._received.get(timeout=1.0)
            except Empty:
                if self._thread.is_alive():
                    continue  # it has a time limit
                raise redis.ConnectionError("the reading thread is gone: a fork?") from None
            if isinstance(received, BaseException):
                raise received
            return received

    def _receive_all(self) -> None:
        spans: deque[ClipSpan] = deque()
        with closing(self._receiver) as receiver:
            while not self._closed:
                while not spans or not self._asked.empty():
                    span = self._asked.get()
                    if span is None:
                        return
                    spans.append(span)
                try:
                    self._received.put(receiver.take(spans))
                except BaseException as error:  # its owner waits for one answer each
                    self._received.put(error)
                spans.popleft()

    def close(self) -> None:
        """Stop at the value under way, which has the client's time limit."""
        self._closed = True
        self._asked.put(None)
        if self._thread is not threading.current_thread():  # where a garbage collection calls
            self._thread.join()


class _Receiver:
    """A connection of `client` with GETs under way, while there is one. For one thread."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._pool = client.connection_pool
        self._keys = keys
        self._connection: Any = None
        self._socket: Any = None
        self._timeout_s: float | None = None
        self._wait_all = 0
        self._num_on_wire = 1
        self._num_asked = 0
        """Values on their way."""

    def take(self, spans: deque[ClipSpan]) -> memoryview | None:
        """The value of the first of `spans`, with the others asked for.

        The next call goes on with the second, and may name more behind them.
        """
        record = None
        try:
            if HEADER_BYTES <= spans[0].size_bytes <= HEADER_BYTES + MAX_BODY_BYTES:
                if self._connection is None:
                    self._open()
                self._ask(islice(spans, self._num_asked, self._num_on_wire))
                record = self._receive(spans[0].size_bytes)
        except (TimeoutError, BlockingIOError) as error:  # waited long enough: not a second time
            raise redis.TimeoutError("Timeout reading from socket") from error
        except (OSError, redis.ConnectionError) as error:
            # Closed, also while it was opened: an ordinary GET tries again, or says why not.
            logger.debug("bulk connection closed (%s); read by a GET instead", error)
        finally:
            if record is None:
                self.close()
            else:
                self._num_asked -= 1
        return record

    def _open(self) -> None:
        self._connection = self._pool.get_connection()
        # Kept, since redis-py would send what follows over a new one if it lost this one.
        self._socket = self._connection._get_socket()
        # A server has memory for one answer at hand: for two at once it may take and return pages
        # every time, which costs as much as the read. Worth it only where an answer travels.
        self._num_on_wire = 1 if self._socket.family == socket.AF_UNIX else 2
        self._timeout_s = self._socket.gettimeout()
        if isinstance(self._socket, ssl.SSLSocket) or self._timeout_s is None:
            self._wait_all = 0
            return
        # The kernel keeps the time limit, so that one call can wait for all of a value.
        seconds, rest_s = divmod(self._timeout_s, 1)
        limit = struct.pack("@ll", int(seconds), max(int(rest_s * 1e6), 1))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, limit)
        self._socket.settimeout(None)
        self._wait_all = socket.MSG_WAITALL

    def _ask(self, spans: Iterable[ClipSpan]) -> None:
        for span in spans:
            key = self._keys.clip(span.stream_id, span.epoch, span.index)
            self._num_asked += 1
            self._socket.sendall(b"".join(self._connection.pack_command("GET", key)))

    def _receive(self, size_bytes: int) -> memoryview | None:
        """The next reply, when it is a value of that length; else None, and some of it."""
        line = b"$%d\r\n" % size_bytes
        end = _RECORD_AT + size_bytes
        reply = np.empty(end + len(_END), np.uint8).data
        start = at = _RECORD_AT - len(line)
        while at < len(reply):
            # Once the line is there the rest will come; before, an error may be all that comes.
            flags = self._wait_all if at >= _RECORD_AT else 0
            num_bytes = self._socket.recv_into(reply[at:], len(reply) - at, flags)
            at += num_bytes
            if not num_bytes or reply[start : min(at, _RECORD_AT)] != line[: at - start]:
                return None
        return reply[_RECORD_AT:end] if reply[end:] == _END else None

    def close(self) -> None:
        """Give the connection back, cut where something is still on its way over it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._num_asked:
                connection.disconnect()
            else:
                with suppress(OSError):  # closed under us: the pool finds out
                    self._socket.settimeout(self._timeout_s)
            self._pool.release(connection)
        self._socket, self._num_asked = None, 0
