"""A camera on loopback: numbered pictures over RTSP."""

import pytest

from bench.camera import encode_units
from bench.rtsp_server import CameraServer, Recording
from tests.videos import draw_frame
from workers.live.child import Request

FPS = 10


@pytest.fixture(scope="session")
def recording() -> Recording:
    """Four seconds of numbered pictures."""
    return Recording(encode_units((draw_frame(i, 128, 96) for i in range(4 * FPS)), FPS), FPS)


@pytest.fixture
def camera(recording):
    with CameraServer(recording) as server:
        yield server


@pytest.fixture
def request_for():
    """A request for a server of this machine."""

    def make(url: str, **options) -> Request:
        fields = {"fps": None, "networks": ("127.0.0.0/8",)} | options
        return Request(url=url, shown="camera", **fields)

    return make
