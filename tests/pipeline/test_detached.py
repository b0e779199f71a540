"""Sessions that outlive their command, on a cluster that the software starts."""

import os
import signal
import socket

import psutil
import pytest
import ray

from tests.pipeline.support import aot, digests
from tests.videos import write_video
from tests.waits import wait_until
from workers.cluster.cluster import ClusterSettings, open_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

CLIPS = 500
"""So many that the session still runs when the next command has started."""


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """Four frames a clip, two a second."""
    path = tmp_path_factory.mktemp("video") / "long.mp4"
    return write_video(path, frames=CLIPS * 8, fps=4, gop=8, width=160, height=120)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def detached(environment, monkeypatch):
    """Variables under which `--detach` starts a cluster of the test's own, ended afterwards.

    Gives the cluster's address.
    """
    port = free_port()
    monkeypatch.setenv("AOT_RAY__LOCAL_PORT", str(port))
    monkeypatch.setenv("AOT_RAY__ENABLED", "true")
    monkeypatch.setenv("AOT_RAY__CONNECT_TIMEOUT_S", "120")  # a busy machine starts it slowly
    yield f"127.0.0.1:{port}"
    with open_cluster(ClusterSettings(address=f"127.0.0.1:{port}")):
        folder = ray.get_runtime_context().get_session_name()
    ours = [p for p in psutil.process_iter(["cmdline"]) if _names(p, folder)]
    for process in ours:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(ours, timeout=120)


def _names(process: psutil.Process, folder: str) -> bool:
    return any(folder in word for word in process.info["cmdline"] or [])


def status(opened) -> str | None:
    return opened.get_info("long").status if "long" in opened.list_streams() else None


def test_a_detached_ingest_is_paused_resumed_watched_and_removed(detached, opened, long_video):
    started = aot("ingest", long_video, "--detach", "--json")
    assert started.code == 0, started.err
    assert started.json == {"detached": ["long"]}
    wait_until(lambda: len(digests(opened, "long")) >= 3)
    assert status(opened) == "running"
    again = aot("ingest", long_video, "--detach")
    assert again.code == 1
    assert "error: LeaseHeld: long is being written by" in again.err

    paused = aot("streams", "pause", "long", "--json")
    assert paused.code == 0, paused.err
    assert paused.json == {"stream_id": "long", "state": "stopped"}
    assert status(opened) == "paused"
    assert opened.get_lease("long") is None
    committed = len(digests(opened, "long"))
    assert 3 <= committed < CLIPS
    assert aot("streams", "pause", "long").code == 1

    resumed = aot("streams", "resume", "long", "--json")
    assert resumed.code == 0, resumed.err
    wait_until(lambda: status(opened) == "complete")
    assert [span.index for span in opened.list_spans("long")] == list(range(CLIPS))
    assert opened.verify("long").ok

    [row] = aot("streams", "--json").json["streams"]
    assert (row["status"], row["clips"]) == ("complete", CLIPS)
    assert aot("streams", "rm", "long", "--yes").code == 0
    assert opened.list_streams() == []


def test_of_several_detached_files_a_bad_one_is_left_out_and_said(
    detached, opened, video, tmp_path
):
    path = tmp_path / "long.mp4"
    path.write_text("no video")
    ran = aot("ingest", path, video, "--detach", "--json")
    assert (ran.code, ran.json) == (1, {"detached": ["walk"]})
    assert "stream long not started: " in ran.err
    assert status(opened) == "failed"
    assert opened.get_info("long").error.startswith("NoVideoStream: ")
    wait_until(lambda: opened.get_info("walk").status == "complete")

    joined = aot("ingest", path, "--ray", detached, "--stream", "x", "--model", "/no/such/folder")
    assert joined.code == 1
    assert "error: NoVideoStream: " in joined.err
    assert opened.get_info("x").error.startswith("NoVideoStream: ")
