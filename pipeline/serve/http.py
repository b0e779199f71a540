"""The service on a socket: uvicorn, with the deadlines that it lacks.

A request must have come whole within a time, and a reader must take something within one;
connections that are slow in either way are cut off, and cost the others nothing meanwhile.
"""

import asyncio
import logging
import socket
from contextlib import suppress

import uvicorn
from h11 import CLOSED, DONE, MUST_CLOSE
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.serve.app import create_app
from pipeline.serve.service import Service
from pipeline.settings import Settings
from pipeline.values.errors import InvalidSettings

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 32 << 10
BACKLOG = 1024


def protocol_of(receive_timeout_s: float, send_timeout_s: float) -> type[H11Protocol]:
    """uvicorn's protocol with a deadline each way."""

    class Deadlines(H11Protocol):
        _receiving: asyncio.TimerHandle | None = None
        _sending: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._receiving = self.loop.call_later(receive_timeout_s, transport.abort)

        def data_received(self, data: bytes) -> None:
            if self._receiving is None and self.conn.their_state in (CLOSED, DONE, MUST_CLOSE):
                super().data_received(data)  # the next of several in a row: its turn comes
                return
            if self._receiving is None:
                self._receiving = self.loop.call_later(receive_timeout_s, self.transport.abort)
            super().data_received(data)
            if self.conn.their_state in (CLOSED, DONE, MUST_CLOSE):
                self._receiving = _cancel(self._receiving)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._sending is None:
                self._sending = self.loop.call_later(send_timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._sending = _cancel(self._sending)

        def connection_lost(self, exc: Exception | None) -> None:
            self._receiving, self._sending = _cancel(self._receiving), _cancel(self._sending)
            super().connection_lost(exc)

    return Deadlines


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class Server(uvicorn.Server):
    """Ends what never ends by itself before it waits for the rest."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell what lasts for as long as its client wants to end; then wait for the rest."""
        self._service.ending.set()
        await super().shutdown(sockets)


def make_server(service: Service) -> Server:
    """A server that is not running yet."""
    limits = service.settings.serve
    config = uvicorn.Config(
        create_app(service),
        host=limits.host,
        port=limits.port,
        http=protocol_of(limits.receive_timeout_s, limits.send_timeout_s),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(limits.drain_s)),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        backlog=BACKLOG,
    )
    return Server(config, service)


def listen(settings: Settings) -> socket.socket:
    """The socket, so that its port is known before anything is loaded.

    Raises:
        InvalidSettings: the address cannot be had.
    """
    serve = settings.serve
    try:
        return socket.create_server(
            (serve.host, serve.port),
            family=socket.AF_INET6 if ":" in serve.host else socket.AF_INET,
            backlog=BACKLOG,
        )
    except OSError as error:
        raise InvalidSettings(
            f"serve: {serve.host}:{serve.port} cannot be had ({error.strerror}); choose another "
            "--port, or end what has it"
        ) from None


def run(service: Service, at: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; what is under way has `serve.drain_s`."""
    service.load()
    service.watch()
    try:
        with suppress(KeyboardInterrupt):  # raised again by uvicorn once all is drained
            make_server(service).run(sockets=[at])
    finally:
        service.close()
