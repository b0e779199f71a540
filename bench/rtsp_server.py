"""A camera's stand-in: an RTSP server on loopback that plays one H.264 recording without an end.

Interleaved over TCP (RFC 2326, section 10.12; RTP payloads of RFC 6184), with RTCP sender reports,
so that a reader knows the sender's wall clock. Every viewer has a thread and a clock of its own.
For tests, benches and the demo; knows nothing of the product.
"""

import itertools
import multiprocessing
import socket
import socketserver
import struct
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

RTP_CLOCK = 90_000
MAX_PAYLOAD = 1400
NTP_UNIX_S = 2_208_988_800
PAYLOAD_TYPE = 96
SSRC = 0x5EED
START_S = 240.0
"""For a process of its own to start, and to end."""


@dataclass(frozen=True)
class Recording:
    """Access units of a closed recording, to be played in a loop."""

    units: Sequence[bytes]
    """Annex B; the first one is a keyframe with its parameter sets."""
    fps: float

    def parameter_sets(self) -> list[bytes]:
        """NAL units of the sequence and picture parameter sets."""
        return [nal for nal in split_nals(self.units[0]) if nal[0] & 31 in (7, 8)]


def split_nals(unit: bytes) -> list[bytes]:
    """NAL units of an Annex B access unit, without start codes."""
    parts = unit.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")
    return [part for part in parts if part]


class CameraServer:
    """Serves `rtsp://{host}:{port}/{anything}` until it is closed.

    `speed`: seconds of the camera's clock to one of the world's.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        speed: float = 1.0,
    ) -> None:
        self.recording, self.speed = recording, speed
        self.viewers = 0
        """Sessions that began to play so far."""
        self.epoch_ticks = 1_000_000
        """RTP time at which a new session begins."""
        self.stalled = threading.Event()
        """While set, connections stay and nothing is sent."""
        self.closing = threading.Event()
        self._server = _Server((host, port), _Connection)
        self._server.camera = self
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where it plays."""
        host, port = self._server.server_address[:2]
        return f"rtsp://{host}:{port}/live"

    def drop_viewers(self) -> None:
        """Cut every connection, as a camera that restarts does."""
        self._server.cut()

    def close(self) -> None:
        """Cut every connection and listen no more."""
        self.closing.set()
        self._server.cut()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> "CameraServer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@contextmanager
def serve_apart(recording: Recording, *, host: str = "127.0.0.1") -> Iterator[tuple[str, int]]:
    """Serve from a process of its own, whose work is not the measured one's: (URL, process id)."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(recording, host, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(START_S):
            raise TimeoutError(f"the camera's process did not start in {START_S:g} s")
        assert process.pid is not None
        yield ours.recv(), process.pid
    finally:
        ours.close()
        process.join(START_S)


def _serve(recording: Recording, host: str, pipe: Connection) -> None:
    """Until the other end of the pipe is closed."""
    with CameraServer(recording, host=host) as camera:
        pipe.send(camera.url)
        try:
            pipe.recv()
        except EOFError:
            return


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 256  # a site's cameras are all opened at once
    camera: CameraServer

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.connections: set[socket.socket] = set()

    def cut(self) -> None:
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                self.connections.discard(connection)  # it went by itself

    def handle_error(self, request, client_address) -> None:
        """A viewer that leaves is no error."""


class _Connection(socketserver.StreamRequestHandler):
    def setup(self) -> None:
        super().setup()
        assert isinstance(self.server, _Server)
        self._tcp = self.server

    def handle(self) -> None:
        self._tcp.connections.add(self.request)
        try:
            while (request := self._read_request()) is not None:
                method, headers = request
                self._answer(method, headers)
                if method == "PLAY":
                    self._play()
                    return
        finally:
            self._tcp.connections.discard(self.request)

    def _read_request(self) -> tuple[str, dict[str, str]] | None:
        first = self.rfile.readline(4096)
        if not first:
            return None
        headers = {}
        while (line := self.rfile.readline(4096).strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return first.decode().split()[0], headers

    def _answer(self, method: str, headers: dict[str, str]) -> None:
        lines = ["RTSP/1.0 200 OK", f"CSeq: {headers.get('cseq', '0')}"]
        body = ""
        if method == "OPTIONS":
            lines.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
        elif method == "DESCRIBE":
            body = _describe(self._tcp.camera.recording)
            lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        elif method == "SETUP":
            lines += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1"]
        else:
            lines.append("Session: 1")
        self.wfile.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    def _play(self) -> None:
        camera = self._tcp.camera
        camera.viewers += 1
        sequence, began_s = itertools.count(), time.monotonic()
        units = itertools.cycle(camera.recording.units)
        for number, unit in enumerate(units):
            due_s = began_s + number / camera.recording.fps / camera.speed
            if camera.closing.wait(max(0.0, due_s - time.monotonic())):
                return
            while camera.stalled.is_set():
                if camera.closing.wait(0.05):
                    return
            ticks = camera.epoch_ticks + round(number * RTP_CLOCK / camera.recording.fps)
            if number % 25 == 0:
                self._send(1, _sender_report(ticks, time.time()))
            for packet in packetize(unit, ticks, sequence):
                self._send(0, packet)

    def _send(self, channel: int, packet: bytes) -> None:
        self.wfile.write(struct.pack(">BBH", 0x24, channel, len(packet)) + packet)


def packetize(unit: bytes, ticks: int, sequence: Iterator[int]) -> Iterator[bytes]:
    """RTP packets of one access unit; large NAL units in fragments (FU-A)."""
    payloads = [piece for nal in split_nals(unit) for piece in _fragment(nal)]
    for index, payload in enumerate(payloads):
        marker = 0x80 if index == len(payloads) - 1 else 0
        number = next(sequence) & 0xFFFF
        head = (0x80, marker | PAYLOAD_TYPE, number, ticks & 0xFFFF_FFFF, SSRC)
        yield struct.pack(">BBHII", *head) + payload


def _fragment(nal: bytes) -> Iterator[bytes]:
    if len(nal) <= MAX_PAYLOAD:
        yield nal
        return
    indicator, kind = (nal[0] & 0xE0) | 28, nal[0] & 31
    body = nal[1:]
    for start in range(0, len(body), MAX_PAYLOAD):
        first, last = start == 0, start + MAX_PAYLOAD >= len(body)
        header = (0x80 if first else 0) | (0x40 if last else 0) | kind
        yield bytes((indicator, header)) + body[start : start + MAX_PAYLOAD]


def _sender_report(ticks: int, wall_s: float) -> bytes:
    """RTCP SR (RFC 3550, section 6.4.1) with no report blocks."""
    seconds = wall_s + NTP_UNIX_S
    whole, fraction = int(seconds), int(seconds % 1 * 2**32)
    return struct.pack(
        ">BBHIIIIII", 0x80, 200, 6, SSRC, whole & 0xFFFF_FFFF, fraction, ticks & 0xFFFF_FFFF, 0, 0
    )


def _describe(recording: Recording) -> str:
    sets = ",".join(b64encode(nal).decode() for nal in recording.parameter_sets())
    lines = (
        *("v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=camera", "c=IN IP4 127.0.0.1", "t=0 0"),
        f"m=video 0 RTP/AVP {PAYLOAD_TYPE}",
        f"a=rtpmap:{PAYLOAD_TYPE} H264/{RTP_CLOCK}",
        f"a=fmtp:{PAYLOAD_TYPE} packetization-mode=1;sprop-parameter-sets={sets}",
        f"a=framerate:{recording.fps}",
        "a=control:track1",
    )
    return "\r\n".join(lines) + "\r\n"
