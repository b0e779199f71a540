"""Sources that mean harm: URLs that must not be opened, and files that must not hurt."""

import socket
import threading
import time

import pytest

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
    """A port on loopback that counts who comes."""
    hits = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen():
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return
                hits.append(1)

        threading.Thread(target=listen, daemon=True).start()
        yield listener.getsockname()[1], hits
        listener.shutdown(socket.SHUT_RDWR)


def test_sixty_hostile_urls_are_refused_before_anything_is_opened(canary):
    port, hits = canary
    took_s = []
    for form in URLS:
        began_s = time.thread_time()
        with pytest.raises(SourceError):
            check_url(form.replace("{port}", str(port)), SourcePolicy(), shown="camera")
        took_s.append(time.thread_time() - began_s)

    assert len(URLS) >= 60
    assert hits == []
    assert max(took_s) <= 0.1


def test_a_decoders_process_opens_none_of_them_either(canary, request_for):
    port, hits = canary
    for url in (f"http://127.0.0.1:{port}/x.m3u8", f"cache:http://127.0.0.1:{port}/x"):
        with (
            DecoderProcess(request_for(url, networks=())) as decoder,
            pytest.raises(SourceRefused),
        ):
            list(decoder)

    assert hits == []
