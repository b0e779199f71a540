"""Sources are connected to while what needs the model is not there yet."""

import os
import subprocess
import sys
import threading

import pytest

from pipeline.ingest.live import LiveEnd, ingest_live
from pipeline.ingest.live_source import SourcesAhead, Wanted
from pipeline.ingest.request import IngestRequest
from pipeline.store.embedded import stop_embedded
from tests.pipeline.live.runs import STREAM, live_settings
from tests.waits import wait_until
from workers.live import push
from workers.types import VideoSource


@pytest.fixture
def settings(tmp_path):
    yield live_settings(f"embedded://{tmp_path}/store")
    stop_embedded(tmp_path / "store")


@pytest.fixture
def wanted(camera, settings):
    return Wanted(IngestRequest(VideoSource(camera.url, STREAM, 5.0)), settings.live)


def test_opening_a_source_loads_no_torch_no_model_and_no_cluster():
    program = "import sys, pipeline.ingest.live; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "pipeline" in loaded, done.stderr
    assert loaded & {"torch", "transformers", "ray", "pyarrow"} == set()


def test_a_live_ingest_without_a_cluster_loads_no_ray():
    program = "import sys, pipeline.ingest.live_session; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded, done.stderr
    assert "ray" not in loaded


def test_pictures_wait_for_who_takes_the_source(camera, wanted):
    with SourcesAhead() as ahead:
        ahead.begin([wanted.spec])
        wait_until(lambda: camera.viewers)
        decoder = ahead.take(wanted.spec)
        assert decoder is not None
        assert ahead.take(wanted.spec) is None
        events = wanted.spec.open(threading.Event(), begun=decoder).events()
        number, picture = next(events)
        events.close()

    assert (number, picture.media_s, camera.viewers) == (0, 0.0, 1)
    assert not os.path.exists(f"/proc/{decoder.pid}")


def test_a_source_that_nobody_takes_is_left(camera, wanted):
    with SourcesAhead() as ahead:
        ahead.begin([wanted.spec])
        wait_until(lambda: camera.viewers)
        [(_, decoder)] = ahead._begun
    assert not os.path.exists(f"/proc/{decoder.pid}")


def test_two_streams_of_one_camera_have_a_connection_each(camera, wanted):
    with SourcesAhead() as ahead:
        ahead.begin([wanted.spec, wanted.spec])
        wait_until(lambda: camera.viewers == 2)
        decoder, other = ahead.take(wanted.spec), ahead._begun[0][1]
        assert decoder is not None
        assert decoder is not other
        decoder.kill()
    assert not any(os.path.exists(f"/proc/{one.pid}") for one in (decoder, other))


@pytest.mark.timeout(240)
def test_the_camera_is_there_before_the_model_is(camera, settings, wanted, monkeypatch):
    open_pusher = push.InlinePusher

    def open_late(compress):
        wait_until(lambda: camera.viewers)
        return open_pusher(compress)

    monkeypatch.setattr(push, "InlinePusher", open_late)
    stop, clips = threading.Event(), 0
    for news in ingest_live(settings, [wanted.request], stop=stop):
        if isinstance(news, LiveEnd):
            assert news.error is None
        elif news.clips:
            clips = news.clips
            stop.set()

    assert (clips > 0, camera.viewers) == (True, 1)
