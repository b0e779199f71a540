"""What comes over HTTP, and what it names, passes one gate; the rest goes where was checked."""

import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from tests.videos import VideoSpec, write_video
from workers.decode.network import NetworkOptions, open_network_track
from workers.decode.policy import SourcePolicy
from workers.errors import NoVideoStream, SourceRefused, SourceUnreachable

OPTIONS = NetworkOptions(open_timeout_s=3.0, read_timeout_s=3.0)
LOOPBACK = SourcePolicy(networks=("127.0.0.0/8",))


class Canary:
    """A port that must not be spoken to."""

    def __init__(self):
        self.hits = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.hits += 1
            connection.close()

    def close(self):
        self._socket.close()


class Handler(SimpleHTTPRequestHandler):
    redirects: ClassVar[dict[str, str]] = {}

    def do_GET(self):
        if target := self.redirects.get(self.path):
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def canary():
    made = Canary()
    yield made
    made.close()


@pytest.fixture
def site(tmp_path):
    """A folder served over HTTP: (folder, url)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def count_frames(url, policy=LOOPBACK):
    with open_network_track(url, policy, OPTIONS, shown="camera") as track:
        return sum(1 for _ in track.container.decode(track.stream))


def playlist(folder, *segments):
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:6"]
    lines += [line for segment in segments for line in ("#EXTINF:6.0,", segment)]
    (folder / "live.m3u8").write_text("\n".join([*lines, "#EXT-X-ENDLIST", ""]))


@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".flv"])
def test_a_progressive_file_is_read(site, suffix):
    folder, url = site
    write_video(folder / f"a{suffix}", VideoSpec(suffix=suffix, frames=30))

    assert count_frames(f"{url}/a{suffix}") == 30


def test_a_playlist_and_its_segments_are_read(site):
    folder, url = site
    write_video(folder / "a.ts", VideoSpec(suffix=".ts", frames=30))
    playlist(folder, "a.ts")

    assert count_frames(f"{url}/live.m3u8") == 30


@pytest.mark.parametrize("name", ["http://127.0.0.2:{port}/a.ts", "tcp://127.0.0.1:{port}"])
def test_a_segment_elsewhere_is_not_fetched(site, canary, name):
    folder, url = site
    playlist(folder, name.format(port=canary.port))
    policy = SourcePolicy(networks=("127.0.0.1/32",))

    with pytest.raises((SourceRefused, SourceUnreachable, NoVideoStream)):
        count_frames(f"{url}/live.m3u8", policy)

    assert canary.hits == 0


@pytest.mark.parametrize("name", ["file:///etc/passwd", "/etc/passwd", "concat:a.ts|b.ts"])
def test_a_segment_of_this_machine_is_not_read(site, name):
    folder, url = site
    playlist(folder, name)

    with pytest.raises((SourceRefused, SourceUnreachable, NoVideoStream)):
        count_frames(f"{url}/live.m3u8")


def test_a_key_elsewhere_is_not_fetched(site, canary):
    folder, url = site
    write_video(folder / "a.ts", VideoSpec(suffix=".ts", frames=10))
    playlist(folder, "a.ts")
    text = (folder / "live.m3u8").read_text()
    key = f'#EXT-X-KEY:METHOD=AES-128,URI="http://127.0.0.2:{canary.port}/key"\n#EXTINF'
    (folder / "live.m3u8").write_text(text.replace("#EXTINF", key, 1))

    with pytest.raises((SourceRefused, SourceUnreachable, NoVideoStream)):
        count_frames(f"{url}/live.m3u8", SourcePolicy(networks=("127.0.0.1/32",)))

    assert canary.hits == 0


def test_a_redirect_is_refused_and_named(site, canary, monkeypatch):
    _, url = site
    target = f"http://127.0.0.1:{canary.port}/b.ts?secret=1"
    monkeypatch.setattr(Handler, "redirects", {"/a.ts": target})

    with pytest.raises(SourceRefused, match=r"redirects to http://127\.0\.0\.1") as caught:
        count_frames(f"{url}/a.ts")

    assert canary.hits == 0
    assert "secret" not in str(caught.value)


def test_what_the_server_says_is_told(site):
    with pytest.raises(SourceUnreachable, match="404"):
        count_frames(f"{site[1]}/none.ts")


def test_what_is_no_video_is_told(site):
    folder, url = site
    (folder / "a.ts").write_bytes(b"no video at all " * 100)

    with pytest.raises((NoVideoStream, SourceRefused)):
        count_frames(f"{url}/a.ts")


@pytest.mark.parametrize("scheme", ["rtsp", "http", "rtmp", "tcp"])
def test_a_server_that_says_nothing_ends_in_time(scheme):
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(SourceUnreachable, match=r"within|in time"),
    ):
        count_frames(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/x")
