"""A TCP proxy on loopback that does to a connection what networks do.

    with FaultProxy(("127.0.0.1", 554)) as proxy:
        proxy.fault = "stall"        # from now on, for connections that are open and new ones
        proxy.cut("reset")           # once, for those that are open

Faults that last: `stall` (bytes are taken and kept), `trickle` (a byte at a time), `refuse` (new
connections are closed at once), `mute` (accepted, and nothing is ever forwarded), `deaf` (what the
server says is lost). Cuts: `close`
(FIN both ways), `reset` (RST), `half` (FIN to the client alone, the other way stays).
"""

import select
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Literal

Fault = Literal["none", "stall", "trickle", "refuse", "mute", "deaf"]
Cut = Literal["close", "reset", "half"]

POLL_S, END_S = 0.02, 2.0


class FaultProxy:
    """Forwards to one address until it is closed."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.fault: Fault = "none"
        self.delay_s = 0.0
        self.accepted = 0
        self._target = target
        self._closing = threading.Event()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        return self._listener.getsockname()[1]

    def cut(self, how: Cut) -> int:
        """Cut every open connection; how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        pairs = [pair for pair in pairs if all(end.fileno() >= 0 for end in pair)]
        for client, server in pairs:
            if how == "reset":
                for end in (client, server):
                    with suppress(OSError):  # it went by itself
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if how == "half":
                _shut(client, socket.SHUT_WR)
            else:
                _shut(server, socket.SHUT_RDWR)
                client.close() if how == "reset" else _shut(client, socket.SHUT_RDWR)
        return len(pairs)

    def close(self) -> None:
        self._closing.set()
        accepting, *_ = self._threads
        accepting.join(END_S)  # it looks at the listener until then, and begins threads
        self._listener.close()
        self.cut("close")
        for thread in self._threads:
            thread.join(END_S)

    def __enter__(self) -> "FaultProxy":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            if not select.select([self._listener], [], [], POLL_S)[0]:
                continue
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self.fault == "refuse":
                client.close()
                continue
            try:
                server = socket.create_connection(self._target)
            except OSError:  # nobody there: as a client without a proxy would see it
                client.close()
                continue
            with self._lock:
                self._pairs.append((client, server))
            for ends in ((client, server), (server, client)):
                to_server = ends[1] is server
                thread = threading.Thread(
                    target=self._forward, args=(*ends, to_server), daemon=True
                )
                thread.start()
                self._threads.append(thread)

    def _forward(self, source: socket.socket, sink: socket.socket, to_server: bool) -> None:
        with source:
            try:
                while not self._closing.is_set():
                    if (
                        self.fault in ("stall", "mute")
                        or not select.select([source], [], [], POLL_S)[0]
                    ):
                        time.sleep(POLL_S if self.fault in ("stall", "mute") else 0)
                        continue
                    size = 1 if self.fault == "trickle" else 65_536
                    data = source.recv(size)
                    if not data:
                        break
                    if self.fault == "deaf" and not to_server:
                        continue
                    time.sleep(POLL_S if self.fault == "trickle" else self.delay_s)
                    sink.sendall(data)
            except (OSError, ValueError):
                return  # cut from the other side
            _shut(sink, socket.SHUT_WR)


def _shut(end: socket.socket, how: int) -> None:
    try:
        end.shutdown(how)
    except OSError:
        end.close()
