"""Sources that mean harm: URLs that must not be opened, and files that must not hurt."""

import socket
import threading
import time

import pytest

from tests.workers.live.web import serve_http
from workers.decode.policy import SourcePolicy, check_url
from workers.errors import SourceError, SourceRefused
from workers.live.process import DecoderProcess

PLACES = (
    *("127.0.0.1", "127.1.2.3", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]"),
    *("[64:ff9b::7f00:1]", "169.254.169.254", "10.0.0.1", "192.168.0.1", "172.16.0.1"),
    *("[fe80::1]", "[fc00::1]", "224.0.0.1", "255.255.255.255", "100.64.0.1"),
    *("2130706433", "0177.0.0.1", "0x7f.1", "127.1", "localhost"),
)
FORMS = (
    *(
        "file:///etc/passwd",
        "concat:/etc/passwd|/etc/group",
        "subfile,,start,0,end,9,,:/etc/passwd",
    ),
    *(
        "data:video/mp4;base64,AAAA",
        "pipe:0",
        "lavfi:testsrc",
        "crypto:///etc/passwd",
        "gopher://h/x",
    ),
    *("async:file:///etc/passwd", "cache:http://127.0.0.1:{port}/x", "ffconcat:x", "unix:///tmp/x"),
    *("sctp://127.0.0.1:{port}", "srt://127.0.0.1:{port}", "ftp://127.0.0.1:{port}/x", "md5:x"),
    *("http:///x", "http://:80/x", "rtsp://[bad/x", "tcp://127.0.0.1", "rtp://127.0.0.1:{port}"),
)
URLS = (
    *(f"{scheme}://{place}:{{port}}/x" for place in PLACES for scheme in ("http", "rtsp")),
    *FORMS,
)


@pytest.fixture
def canary():
    """A port on 127.0.0.1 that counts who comes."""
    yield from count_visitors("127.0.0.1")


@pytest.fixture
def everywhere():
    """A port on all of loopback, the address that is not permitted among it."""
    yield from count_visitors("")


def count_visitors(address):
    hits = []
    with socket.create_server((address, 0)) as listener:

        def listen():
            while True:
                try:
                    visitor, _ = listener.accept()
                except OSError:
                    return
                hits.append(1)
                visitor.close()

        threading.Thread(target=listen, daemon=True).start()
        yield listener.getsockname()[1], hits
        listener.shutdown(socket.SHUT_RDWR)


def refuse_all(port):
    """Seconds that each refusal took, the longest first, by URL."""
    took_s = {}
    for form in URLS:
        url = form.replace("{port}", str(port))
        began_s = time.monotonic()
        with pytest.raises(SourceError):
            check_url(url, SourcePolicy(), shown="camera")
        took_s[url] = time.monotonic() - began_s
    return sorted(took_s.items(), key=lambda item: -item[1])


def test_sixty_hostile_urls_are_refused_before_anything_is_opened(canary):
    port, hits = canary
    refuse_all(port)

    assert len(URLS) >= 60
    assert hits == []


@pytest.mark.slow
def test_each_of_them_is_refused_within_a_tenth_of_a_second(canary):
    port, hits = canary
    refuse_all(port)  # the resolver's files are read once

    slowest = refuse_all(port)
    print(f"{len(slowest)} URLs, at most {slowest[0][1] * 1000:.2f} ms ({slowest[0][0]})")

    assert hits == []
    assert slowest[0][1] <= 0.1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_decoders_process_opens_none_of_sixty(canary, request_for):
    port, hits = canary
    for form in URLS:
        url = form.replace("{port}", str(port))
        with (
            DecoderProcess(request_for(url, networks=())) as decoder,
            pytest.raises(SourceError),
        ):
            list(decoder)

    assert hits == []


def test_a_decoders_process_opens_none_of_them_either(canary, request_for):
    port, hits = canary
    for url in (f"http://127.0.0.1:{port}/x.m3u8", f"cache:http://127.0.0.1:{port}/x"):
        with (
            DecoderProcess(request_for(url, networks=())) as decoder,
            pytest.raises(SourceRefused),
        ):
            list(decoder)

    assert hits == []


PLAYLISTS = {
    "child": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{bad}\n",
    "segment": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{bad}\n#EXT-X-ENDLIST\n",
    "key": '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI="{bad}"\n'
    "#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n",
    "map": '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MAP:URI="{bad}"\n#EXTINF:1,\na.mp4\n'
    "#EXT-X-ENDLIST\n",
    "media": '#EXTM3U\n#EXT-X-MEDIA:TYPE=VIDEO,GROUP-ID="a",NAME="a",DEFAULT=YES,URI="{bad}"\n'
    '#EXT-X-STREAM-INF:BANDWIDTH=1,VIDEO="a"\na.m3u8\n',
    "redirect": None,
}
TARGETS = (
    *("http://127.0.0.2:{port}/x.m3u8", "http://2130706434:{port}/x.ts", "//127.0.0.2:{port}/x"),
    *("tcp://127.0.0.2:{port}", "rtsp://127.0.0.2:{port}/x", "crypto+http://127.0.0.2:{port}/x"),
    *("concat:http://127.0.0.2:{port}/x|y", "subfile,,start,0,end,9,,:http://127.0.0.2:{port}/x"),
)


@pytest.fixture
def permitted():
    """`permitted(kind, target)`: a URL on a permitted address that names the target so."""
    said = {}

    def answer(request):
        if request.path != "/live.m3u8":
            request.send_error(404)
            return
        template, target = PLAYLISTS[said["kind"]], said["target"]
        request.send_response(302 if template is None else 200)
        if template is None:
            request.send_header("Location", target)
        request.end_headers()
        if template is not None:
            request.wfile.write(template.format(bad=target).encode())

    with serve_http(answer) as address:

        def make(kind, target):
            said.update(kind=kind, target=target)
            return f"{address}/live.m3u8"

        yield make


@pytest.mark.parametrize("kind", list(PLAYLISTS))
def test_what_a_permitted_server_names_elsewhere_is_not_opened(
    kind, permitted, everywhere, request_for
):
    port, hits = everywhere
    open_named(permitted(kind, TARGETS[0].format(port=port)), request_for)

    assert hits == []


@pytest.mark.parametrize("kind", list(PLAYLISTS))
def test_what_it_names_on_a_permitted_address_is_opened_unless_by_a_redirect(
    kind, permitted, everywhere, request_for
):
    """So that it is the address for which the others are not opened."""
    port, hits = everywhere
    url = permitted(kind, TARGETS[0].format(port=port))
    open_named(url, request_for, networks=("127.0.0.0/8",))

    assert bool(hits) is (kind != "redirect")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", list(PLAYLISTS))
def test_whatever_a_permitted_server_names_elsewhere_is_not_opened(
    kind, permitted, everywhere, request_for
):
    port, hits = everywhere
    for target in TARGETS:
        open_named(permitted(kind, target.format(port=port)), request_for)

    assert hits == []


def open_named(url, request_for, *, networks=("127.0.0.1/32",)):
    """Open a source that names another; it gives no picture, whether that is opened or not."""
    request = request_for(url, networks=networks, open_timeout_s=2.0, read_timeout_s=2.0)
    with DecoderProcess(request, stall_s=2.0) as decoder, pytest.raises(SourceError):
        list(decoder)
