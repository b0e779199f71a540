"""What may be opened: a table of hostile URLs, and the right ones beside it."""

import pytest

from workers.decode.policy import SourcePolicy, check_url, is_network_url
from workers.errors import SourceRefused, SourceUnreachable

PUBLIC = "93.184.216.34"
PUBLIC_6 = "2606:2800:220:1:248:1893:25c8:1946"
FOREIGN = (
    *("file", "concat", "subfile", "data", "pipe", "lavfi", "ffconcat", "gopher", "ftp", "sftp"),
    *("crypto", "cache", "async", "hls+http", "mmsh", "ftps", "tls", "unix", "fd", "prompeg"),
    *("icecast", "bluray", "smb", "ipfs", "srt", "rist", "zmq"),
)
POLICY = SourcePolicy()


def check(url, policy=POLICY, addresses=(PUBLIC,)):
    return check_url(url, policy, shown="camera", resolve=lambda host, port: list(addresses))


@pytest.mark.parametrize(
    "url",
    [
        *(f"{scheme}://host/x" for scheme in FOREIGN),
        "concat:a.ts|b.ts",
        "subfile,,start,0,end,9,,:/etc/passwd",
        "data:video/mp4;base64,AAAA",
        "pipe:0",
        "lavfi:testsrc",
        "/etc/passwd",
        "http:///x",
        "tcp://host",
        "udp://:0",
        "rtsp://host:99999/x",
        "rtsp://host:x/y",
        "http://ho st/x",
        "http://host/\r\nHost: other",
        "http://host/\x00",
        "http://[::1/x",
        "http://" + "a" * 5000,
    ],
)
def test_what_is_no_permitted_url_is_refused(url):
    with pytest.raises(SourceRefused):
        check(url)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.0.9",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_an_address_that_is_not_public_is_refused(address):
    with pytest.raises(SourceRefused, match="--allow-net"):
        check("http://camera.example/x", addresses=(address,))


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost"])
def test_other_spellings_of_loopback_are_refused(host):
    with pytest.raises((SourceRefused, SourceUnreachable)):
        check_url(f"http://{host}:80/x", SourcePolicy(), shown="camera")


def test_one_forbidden_address_among_several_refuses_the_name():
    with pytest.raises(SourceRefused, match=r"10\.0\.0\.1"):
        check("rtsp://camera.example/live", addresses=(PUBLIC, "10.0.0.1"))


def test_a_named_network_is_permitted():
    policy = SourcePolicy(networks=("10.0.0.0/8",))

    endpoint = check("rtsp://u:p@camera.lan/live?x=1", policy, addresses=("10.0.0.7",))

    assert endpoint.pinned_url == "rtsp://u:p@10.0.0.7:554/live?x=1"


def test_a_name_is_resolved_once():
    asked = []

    def resolve(host, port):
        asked.append(host)
        return [PUBLIC] if len(asked) == 1 else ["127.0.0.1"]

    endpoint = check_url("http://rebind.example/a", SourcePolicy(), shown="x", resolve=resolve)

    assert (endpoint.address, asked) == (PUBLIC, ["rebind.example"])


def test_an_ipv6_address_is_written_in_brackets():
    endpoint = check("rtsp://camera.example/live", addresses=(PUBLIC_6,))

    assert endpoint.pinned_url.startswith(f"rtsp://[{PUBLIC_6}]:554/")


def test_no_message_holds_the_password():
    with pytest.raises(SourceRefused) as caught:
        check("rtsp://admin:pa/ss@10.0.0.1/live", addresses=("10.0.0.1",))

    assert "pa/ss" not in str(caught.value)
    assert "ss@" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "network"),
    [("rtsp://h/x", True), ("file:///x.mp4", False), ("a.mp4", False), ("/a://b", False)],
)
def test_network_urls_are_told_from_paths(url, network):
    assert is_network_url(url) is network
