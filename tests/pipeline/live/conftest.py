"""A camera on loopback: numbered pictures over RTSP."""

import pytest

from bench.camera import encode_units
from bench.rtsp_server import CameraServer, Recording
from tests.videos import draw_frame

FPS = 10


@pytest.fixture(scope="module")
def recording() -> Recording:
    pictures = (draw_frame(i, 96, 128) for i in range(6 * FPS))
    return Recording(encode_units(pictures, FPS), FPS)


@pytest.fixture
def camera(recording):
    with CameraServer(recording) as server:
        yield server
