"""One connection in a process of its own: pictures out, and every way it can end."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import pytest

from tests.videos import read_index, write_video
from tests.waits import HANG_S
from tests.workers.live.web import serve_http
from workers.decode.live import Picture
from workers.errors import (
    SourceBroken,
    SourceCrashed,
    SourceRefused,
    SourceStalled,
    SourceUnreachable,
)
from workers.live.process import DecoderProcess
from workers.live.slots import PictureSlots
from workers.live.wire import MessageReader


def test_pictures_come_in_order_with_their_times(camera, request_for):
    with DecoderProcess(request_for(camera.url)) as decoder:
        pictures = list(islice(decoder, 12))

    assert [read_index(picture.rgb) for picture in pictures] == list(range(12))
    assert [round(picture.media_s, 3) for picture in pictures] == [i / 10 for i in range(12)]
    assert {picture.epoch for picture in pictures} == {0}


def test_the_senders_clock_comes_with_a_picture(camera, request_for):
    with DecoderProcess(request_for(camera.url)) as decoder:
        last = list(islice(decoder, 15))[-1]

    assert last.sent_s == pytest.approx(time.time(), abs=5)


def test_a_rate_chooses_among_pictures(camera, request_for):
    with DecoderProcess(request_for(camera.url, fps=2.0)) as decoder:
        pictures = list(islice(decoder, 4))

    assert [read_index(picture.rgb) for picture in pictures] == [0, 5, 10, 15]


def test_a_cut_connection_ends_the_iteration(camera, request_for):
    with DecoderProcess(request_for(camera.url)) as decoder:
        pictures = iter(decoder)
        next(pictures)
        camera.drop_viewers()
        rest = list(pictures)

    assert len(rest) < 60


@pytest.fixture(scope="module")
def transport_stream(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "v.ts", frames=60, fps=10).read_bytes()


@pytest.mark.parametrize(
    ("how", "error", "told"),
    [
        ("reset", SourceBroken, "camera: reading broke off: Connection reset"),
        ("silent", SourceStalled, "camera: nothing came within the time that a read may take"),
    ],
)
def test_an_error_behind_the_first_pictures_is_told_and_they_are_kept(
    transport_stream, request_for, how, error, told
):
    leaving = threading.Event()

    def answer(request):
        request.send_response(200)
        request.end_headers()
        request.wfile.write(transport_stream[: len(transport_stream) * 2 // 3])
        if how == "silent":
            leaving.wait(HANG_S)
            return
        request.wfile.flush()
        time.sleep(0.5)  # else what was sent would be forgotten with the reset
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.connection.close()

    with (
        serve_http(answer) as url,
        DecoderProcess(request_for(f"{url}/v.ts", read_timeout_s=1.0)) as decoder,
    ):
        pictures = []
        with pytest.raises(error, match=told):
            pictures.extend(decoder)
        leaving.set()

    assert [read_index(picture.rgb) for picture in pictures] == list(range(len(pictures)))
    assert len(pictures) > 20


def test_a_stall_is_found_by_pictures_that_do_not_come(camera, request_for):
    with DecoderProcess(request_for(camera.url), stall_s=1.5) as decoder:
        pictures = iter(decoder)
        next(pictures)
        camera.stalled.set()
        with pytest.raises(SourceStalled, match="no picture for 2 s"):
            list(pictures)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_death_is_told_from_an_end(camera, request_for, how):
    with DecoderProcess(request_for(camera.url)) as decoder:
        pictures = iter(decoder)
        next(pictures)
        os.kill(decoder.pid, how)
        with pytest.raises(SourceCrashed, match=f"signal {how.value}"):
            list(pictures)


def test_a_hang_inside_the_decoder_is_killed(camera, request_for):
    with DecoderProcess(request_for(camera.url), stall_s=1.0) as decoder:
        pictures = iter(decoder)
        next(pictures)
        os.kill(decoder.pid, signal.SIGSTOP)
        with pytest.raises(SourceStalled):
            list(pictures)
        pid = decoder.pid

    assert not os.path.exists(f"/proc/{pid}")


SHUT = """
import os, sys
from workers.live import child

class Refuse:
    def find_spec(self, name, path=None, target=None):
        print("loaded too late:", name, file=sys.stderr)

give_up_privileges = child.give_up_privileges

def shut(*limits):
    give_up_privileges(*limits)
    sys.meta_path.insert(0, Refuse())

child.give_up_privileges = shut
child.decode(*map(int, sys.argv[1:]), parent=os.getppid())
"""


def test_nothing_is_loaded_once_privileges_are_given_up(camera, request_for):
    """Where root alone may read what is installed, a module that is loaded later is not there."""
    slots = PictureSlots.create()
    with subprocess.Popen(
        [sys.executable, "-c", SHUT, *map(str, slots.fds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=slots.fds,
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(request_for(camera.url).to_json() + b"\n")
        process.stdin.flush()
        messages, pictures = MessageReader(slots), 0
        while data := process.stdout.read1():
            messages.feed(data)
            pictures += sum(isinstance(one, Picture) for one in iter(messages.take, None))
            if pictures >= 5:
                camera.drop_viewers()
        _, said = process.communicate(timeout=HANG_S)
    slots.close()
    assert pictures >= 5
    assert said.decode() == ""
    assert process.returncode == 0


def test_its_limits_are_in_force(camera, request_for):
    with DecoderProcess(request_for(camera.url)) as decoder:
        next(iter(decoder))
        proc = Path(f"/proc/{decoder.pid}")
        lines = (proc / "status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        limits = (proc / "limits").read_text()
        environment = (proc / "environ").read_text() if os.geteuid() == 0 else ""

    assert status["NoNewPrivs"] == "1"
    assert os.geteuid() != 0 or status["Uid"].split()[0] == "65534"
    assert "Max file size             0" in limits
    assert "Max address space         unlimited" not in limits
    assert "HOME" not in environment


def test_a_system_without_the_limits_reads_no_camera(camera, request_for, monkeypatch):
    monkeypatch.setattr("workers.live.process.sys.platform", "darwin")
    with pytest.raises(SourceRefused, match="Linux alone"), DecoderProcess(request_for(camera.url)):
        pass


def test_nobody_there_is_unreachable(request_for):
    with (
        DecoderProcess(request_for("rtsp://127.0.0.1:9/x")) as decoder,
        pytest.raises(SourceUnreachable),
    ):
        list(decoder)


def test_a_network_that_is_not_named_is_refused(camera, request_for):
    with (
        DecoderProcess(request_for(camera.url, networks=())) as decoder,
        pytest.raises(SourceRefused, match="allow-net"),
    ):
        list(decoder)

    assert camera.viewers == 0
