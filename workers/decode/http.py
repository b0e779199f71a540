"""HTTP bodies as files, for a demuxer that asks for every URL it wants.

What a playlist names comes through the same gate as the playlist: the policy is asked, the
connection goes to the address that was checked, a redirect is refused. Every wait has a limit.
"""

import contextlib
import http.client
import io
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from urllib.parse import unquote, urljoin, urlsplit

from workers.decode.hls import MAX_PLAYLIST_BYTES, SIGNATURE, ProgramClock
from workers.decode.policy import Endpoint, SourcePolicy, check_url
from workers.errors import SourceError, SourceRefused, SourceUnreachable

USER_AGENT = "aot-stream"


class HttpGate:
    """Opens URLs for a demuxer; remembers why one was refused.

    FFmpeg tells its caller little of what went wrong in a callback: `refusal` does.
    """

    def __init__(self, policy: SourcePolicy, shown: str, *, timeout_s: float) -> None:
        self._policy, self._shown, self._timeout_s = policy, shown, timeout_s
        self.refusal: SourceError | None = None
        self.program = ProgramClock()
        """What the playlists that came through say of wall time."""

    def __call__(self, url: str, flags: int, options: dict) -> "HttpBody":
        """Open one URL; PyAV's `io_open`."""
        self.refusal = None
        try:
            endpoint = check_url(url, self._policy, shown=self._shown)
            if endpoint.scheme not in ("http", "https"):
                raise SourceRefused(
                    f"{self._shown}: names a {endpoint.scheme} URL inside; only http and https may "
                    "be named by what comes over http"
                )
            body = HttpBody(endpoint, self._shown, timeout_s=self._timeout_s)
            self.program.open_url(url)
            body.on_playlist = partial(self.program.read_playlist, url)
            return body
        except SourceError as error:
            self.refusal = error
            raise


class HttpBody(io.RawIOBase):
    """The body of one GET, read once from its start to its end."""

    def __init__(self, endpoint: Endpoint, shown: str, *, timeout_s: float) -> None:
        super().__init__()
        self.on_playlist: Callable[[bytes], None] | None = None
        """Given the whole text, where it is a playlist, once it was read."""
        self._head: bytearray | None = bytearray()
        self._connection = connect(endpoint, timeout_s)
        try:
            self._connection.request("GET", target_of(endpoint.url), headers=_headers(endpoint))
            response = self._connection.getresponse()
            with contextlib.ExitStack() as undo:
                undo.callback(response.close)
                _check_status(response, endpoint.url, shown)
                undo.pop_all()
            self._response = response
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise SourceUnreachable(f"{shown}: {_reason(error)}; is it being served?") from None
        except BaseException:
            self._connection.close()
            raise

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[override]
        """Fill the buffer as far as there are bytes; how many, 0 at the end."""
        count = self._response.readinto(buffer)
        if self._head is not None:
            self._look(bytes(buffer[:count]))
        return count

    def _look(self, part: bytes) -> None:
        """Gather what may be a playlist; an empty part is its end."""
        assert self._head is not None
        self._head += part
        is_playlist = self._head.startswith(SIGNATURE[: len(self._head)])
        if not is_playlist or len(self._head) > MAX_PLAYLIST_BYTES:
            self._head = None
        elif not part:
            text, self._head = bytes(self._head), None
            if self.on_playlist is not None:
                self.on_playlist(text)

    def close(self) -> None:
        # A connection that the server ends with its answer has handed its socket to the answer.
        if not self.closed and hasattr(self, "_response"):
            self._response.close()
            self._connection.close()
        super().close()


def connect(endpoint: Endpoint, timeout_s: float) -> http.client.HTTPConnection:
    """A connection to the checked address that asks for, and verifies, the name."""
    if endpoint.scheme == "http":
        connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=timeout_s)
    else:
        connection = http.client.HTTPSConnection(
            endpoint.host, endpoint.port, timeout=timeout_s, context=ssl.create_default_context()
        )

    def create(address: tuple[str, int], timeout: float, source: object) -> socket.socket:
        return socket.create_connection((endpoint.address, address[1]), timeout)

    connection._create_connection = create  # type: ignore[attr-defined]
    return connection


def target_of(url: str) -> str:
    """Path and query of a URL, as a request names them."""
    parts = urlsplit(url)
    path = parts.path or "/"
    return f"{path}?{parts.query}" if parts.query else path


def _headers(endpoint: Endpoint) -> dict[str, str]:
    headers = {"User-Agent": USER_AGENT, "Accept": "*/*"}
    parts = urlsplit(endpoint.url)
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    return headers


def _check_status(response: http.client.HTTPResponse, url: str, shown: str) -> None:
    if 300 <= response.status < 400:
        target = urlsplit(urljoin(url, response.getheader("Location") or ""))
        raise SourceRefused(
            f"{shown}: redirects to {target.scheme}://{target.hostname}, which is not followed; "
            "give the URL it leads to"
        )
    if response.status != 200:
        raise SourceUnreachable(
            f"{shown}: the server says {response.status} {response.reason}, expected 200; check "
            "the URL and the credentials"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or type(error).__name__
