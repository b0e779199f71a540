"""A camera on loopback, the bundled model, a real store: asked about while it runs, and killed."""

import configparser
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from pipeline import Pipeline
from pipeline.ingest.live import LiveEnd, ingest_live, named_streams
from pipeline.settings import load_settings
from pipeline.store import StoreConfig, open_store
from pipeline.store.embedded import stop_embedded
from pipeline.values.errors import InvalidQuery, InvalidSettings
from workers.types import VideoSource

ROOT = Path(__file__).parents[3]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "aot.yaml"
    path.write_text(
        f"model: {{id: {ROOT}/demo/weights}}\n"
        f"store: {{url: embedded://{tmp_path}/store}}\n"
        "ingest: {fps: 4, clip_frames: 4, lease_s: 3}\n"
        "live: {networks: [127.0.0.0/8], stall_s: 5}\n"
        "ray: {enabled: false}\n"
    )
    yield path
    stop_embedded(tmp_path / "store")


def start(config, url, *options):
    command = [sys.executable, "-m", "pipeline", "--config", str(config), "ingest", url]
    return subprocess.Popen(
        [*command, "--stream", "cam", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def wait_for_clips(store, count, process, timeout_s=100):
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        if process.poll() is not None:
            raise AssertionError(f"it ended: {process.communicate()}")
        if "cam" in store.list_streams() and len(store.list_spans("cam")) >= count:
            return store.list_spans("cam")
        time.sleep(0.2)
    raise AssertionError(f"no {count} clips in {timeout_s} s")


@pytest.mark.timeout(240)
def test_a_camera_is_asked_about_while_it_runs_and_goes_on_after_a_kill(camera, config, tmp_path):
    url, store_url = camera.url, f"embedded://{tmp_path}/store"
    process = start(config, url)
    with open_store(StoreConfig(store_url)) as store:
        try:
            wait_for_clips(store, 3, process)
            with Pipeline.open(str(config)) as pipeline:
                answer = pipeline.ask("what is seen", streams=["cam"], last="1m")
            assert answer.citations
            info = store.get_info("cam")
            assert (info.clock, info.clock_of(0)) == ("source", "source")  # it sends reports

            process.kill()
            process.communicate()
            camera.drop_viewers()
            stored = store.list_spans("cam")
            process = start(config, url)
            spans = wait_for_clips(store, len(stored) + 3, process)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=120)
        finally:
            process.kill()
            process.communicate()

        info, gaps = store.get_info("cam"), store.list_gaps("cam")
        assert info.status == "paused"
        assert info.wall_start_s == pytest.approx(time.time(), abs=300)
        assert [span.index for span in spans] == list(range(len(spans)))
        # Samples of 10 pictures a second at 4: up to half a step early.
        assert all(after.start_s > before.end_s - 0.2 for before, after in pairwise(spans))
        assert "restart" in {gap.reason for gap in gaps}
        assert store.verify("cam").ok


STREAMS = """
streams:
  - {name: front, url_env: FRONT_URL, fps: 2, hold_still: true}
  - {name: yard, url: 'rtsp://cameras.example/yard'}
"""


def load(tmp_path, text):
    path = tmp_path / "cameras.yaml"
    path.write_text(text)
    return load_settings(path)


def test_named_streams_are_what_the_settings_and_the_environment_say(tmp_path, monkeypatch):
    monkeypatch.setenv("FRONT_URL", "rtsp://me:secret@10.0.0.5/live")

    front, yard = named_streams(load(tmp_path, STREAMS))

    assert front.source == VideoSource("rtsp://me:secret@10.0.0.5/live", "front", 2.0)
    assert front.hold_still is True
    assert (yard.source.fps, yard.hold_still) == (1.0, None)


def test_named_streams_whose_variable_is_not_set_are_an_error_that_names_it(tmp_path, monkeypatch):
    monkeypatch.delenv("FRONT_URL", raising=False)

    with pytest.raises(InvalidSettings, match="FRONT_URL"):
        named_streams(load(tmp_path, STREAMS))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("streams: [{name: a, url: 'rtsp://me:hunter2@h/x'}]", "url_env"),
        ("streams: [{name: a, url: 'rtsp://h/x?token=hunter2'}]", "url_env"),
        ("streams: [{name: a}]", "either url or url_env"),
        ("streams: [{name: a/b, url: 'rtsp://h/x'}]", "1 to 64"),
        ("streams: [{name: a, url: 'rtsp://h/x'}, {name: a, url: 'rtsp://h/y'}]", "twice"),
    ],
)
def test_streams_that_cannot_be_are_refused_without_showing_a_secret(tmp_path, text, said):
    with pytest.raises(InvalidSettings, match=said) as caught:
        load(tmp_path, text)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["{}", "streams: [{name: a, url: lecture.mp4}]"])
def test_nothing_to_keep_is_an_error(tmp_path, text):
    with pytest.raises(InvalidQuery):
        named_streams(load(tmp_path, text))


NORTH = "label_selector: {site: north}"


def test_a_stream_for_labelled_machines_alone_is_refused_without_a_cluster(tmp_path):
    near = f"{{name: dock, url: 'rtsp://h/x', {NORTH}}}"

    with pytest.raises(InvalidSettings, match=r"of dock, .*--detach.*label_fallback"):
        named_streams(load(tmp_path, f"streams: [{near}, {{name: hall, url: 'rtsp://h/y'}}]"))


def test_one_that_other_machines_may_read_is_read_here_and_said_to_be(tmp_path, caplog):
    either = f"streams: [{{name: yard, url: 'rtsp://h/x', {NORTH}, label_fallback: true}}]"

    [yard] = named_streams(load(tmp_path, either))

    assert yard.source.stream_id == "yard"
    assert "yard: label_selector says nothing without --detach" in caplog.text


def test_a_stream_that_fails_is_begun_again_while_the_others_go_on(camera, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.ingest.live_session.KEEP_WAIT_S", 0.2)
    settings = load_settings(
        None,
        {
            "model": {"id": str(ROOT / "demo/weights")},
            "store": {"url": f"embedded://{tmp_path}/store"},
            "live": {"networks": ("127.0.0.0/8",)},
            "streams": (
                {"name": "good", "url": camera.url, "fps": 4.0},
                {"name": "refused", "url": "rtsp://10.1.2.3/x"},
            ),
        },
    )
    stop, failed, ends = threading.Event(), 0, []
    encoded = 0
    try:
        for news in ingest_live(settings, named_streams(settings), stop=stop, keep=True):
            if isinstance(news, LiveEnd):
                ends.append(news)
            elif news.stream_id == "good":
                encoded = max(encoded, news.encoded)
            else:
                failed += news.state == "failed"
                assert news.outage is None or "allow-net" in news.outage
            if failed >= 2 and encoded >= 4:
                stop.set()
    finally:
        stop.set()
        stop_embedded(tmp_path / "store")

    assert {end.stream_id for end in ends} == {"good", "refused"}


def test_what_is_deployed_can_be_read(monkeypatch):
    monkeypatch.setenv("CAMERA_FRONT_URL", "rtsp://me:secret@10.0.0.5/live")
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.read(ROOT / "deploy/aot.service")
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())

    requests = named_streams(load_settings(ROOT / "deploy/cameras.yaml"))

    assert [request.source.stream_id for request in requests] == ["front", "yard"]
    assert unit["Service"]["ExecStart"].endswith("aot --config /etc/aot/cameras.yaml up")
    assert compose["services"]["aot"]["command"] == ["--config", "/etc/aot/cameras.yaml", "up"]
    assert "noeviction" in compose["services"]["valkey"]["command"]


@pytest.mark.timeout(240)
def test_streams_that_the_file_adds_changes_and_removes_are_applied(camera, config):
    text = config.read_text() + "streams:\n"
    entry = "  - {{name: {}, url: '" + camera.url + "', fps: {}}}\n"
    config.write_text(text + entry.format("cam", 4) + entry.format("old", 2))
    command = [sys.executable, "-m", "pipeline", "--config", str(config), "up"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    def wait_for(condition):
        until_s = time.monotonic() + 60
        while not condition():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until_s, store.list_streams()
            time.sleep(0.1)

    def status(name):
        return store.get_info(name).status if name in store.list_streams() else None

    with open_store(StoreConfig(f"embedded://{config.parent}/store")) as store:
        try:
            wait_for_clips(store, 1, process)
            config.write_text(text + "  - {name: broken")
            config.write_text(text + entry.format("cam", 4) + entry.format("new", 2))
            wait_for(lambda: status("new") == "running" and status("old") == "paused")
            assert store.get_lease("old") is None
            assert status("cam") == "running"
            there = len(store.list_spans("cam"))
            config.write_text(text + entry.format("new", 2))
            os.kill(process.pid, signal.SIGHUP)
            wait_for(lambda: status("cam") == "paused")
            assert len(store.list_spans("cam")) >= there
            process.send_signal(signal.SIGTERM)
            began_s = time.monotonic()
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
            process.communicate()
    assert time.monotonic() - began_s <= 15
    assert "settings read again: streams new" in said
    assert "Traceback" not in said
