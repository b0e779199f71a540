"""Decoders that are forked: small, apart from one another, and none outlives who asked for it."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.waits import HANG_S, wait_until
from workers.errors import SourceCrashed
from workers.live import fork_server
from workers.live.child import NAME
from workers.live.forks import Fork, Forks
from workers.live.process import DecoderProcess


@pytest.fixture
def forks():
    with Forks() as forks:
        yield forks


@pytest.fixture
def two(camera, request_for, forks):
    """Two decoders of one fork server, both of which have given a picture."""
    with (
        DecoderProcess(request_for(camera.url), forks=forks) as one,
        DecoderProcess(request_for(camera.url), forks=forks) as other,
    ):
        pictures = iter(one), iter(other)
        for each in pictures:
            next(each)
        yield (one, pictures[0]), (other, pictures[1])


def server_of(decoder) -> psutil.Process:
    server = psutil.Process(decoder.pid).parent()
    assert server is not None
    assert "workers.live.fork_server" in server.cmdline()
    return server


def smaps(pid: int) -> dict[str, int]:
    """Bytes of each kind."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: int(kb) << 10 for name, kb in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}


def test_decoders_share_what_they_have_loaded(two):
    (one, _), (other, _) = two
    assert server_of(one) == server_of(other)
    assert psutil.Process(one.pid).name() == NAME
    memory = smaps(one.pid)
    assert memory["Private_Dirty"] < memory["Rss"] / 2


def test_a_decoder_has_no_descriptor_but_its_own(two):
    """Standard streams, its slots' two, its source's and what polls that; none of another one."""
    (one, _), (other, _) = two
    held = [
        {os.readlink(fd) for fd in Path(f"/proc/{each.pid}/fd").iterdir()} for each in (one, other)
    ]
    mine = {name for name in held[1] if not name.startswith(("/dev", "anon_inode"))}
    assert held[0].isdisjoint(mine - {"/memfd:pictures (deleted)"})
    assert len(list(Path(f"/proc/{other.pid}/fd").iterdir())) <= 10


def test_no_thread_but_one_runs_where_decoders_are_forked(two):
    (one, _), _ = two
    assert server_of(one).num_threads() == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_one_that_dies_takes_no_other_along(two, how):
    (one, pictures), (_, others) = two
    os.kill(one.pid, how)
    with pytest.raises(SourceCrashed, match=f"signal {how.value}"):
        list(pictures)
    for _ in range(5):
        next(others)


def test_the_id_of_one_that_has_ended_is_nobodys_to_limit(two):
    """The kernel gives it to another process, which a limit of CPU seconds would end later."""
    (one, _), (other, _) = two
    gone = psutil.Process(one.pid)
    os.kill(one.pid, signal.SIGKILL)
    gone.wait(HANG_S)
    assert one._process.get_pid() == gone.pid
    assert not one._process.is_running
    assert other._process.is_running


def test_after_a_fault_decoders_come_from_another_process(camera, request_for, forks, two):
    """So that what was learnt of addresses by one crash is of no use for the next."""
    (one, pictures), (other, others) = two
    before = server_of(one)
    os.kill(one.pid, signal.SIGSEGV)
    with pytest.raises(SourceCrashed):
        list(pictures)
    with DecoderProcess(request_for(camera.url), forks=forks) as new:
        next(iter(new))
        assert server_of(new) != before
    next(others)
    assert server_of(other) == before
    other.kill()
    before.wait(HANG_S)


def test_decoders_die_with_the_process_they_were_forked_from_and_start_again(
    camera, request_for, forks, two
):
    (one, pictures), (_, others) = two
    server_of(one).kill()
    for each in (pictures, others):
        with pytest.raises(SourceCrashed, match="with the process that it was forked from"):
            list(each)
    with DecoderProcess(request_for(camera.url), forks=forks) as again:
        next(iter(again))


SUPERVISOR = """
import sys, time
from workers.live.child import Request
from workers.live.forks import Forks
from workers.live.process import DecoderProcess
forks = Forks()
request = Request(url=sys.argv[1], shown="camera", fps=None, networks=("127.0.0.0/8",))
with DecoderProcess(request, forks=forks) as one:
    next(iter(one))
    print(one.pid, flush=True)
    time.sleep(1000)
"""


def test_none_outlives_the_supervisor(camera):
    command = [sys.executable, "-c", SUPERVISOR, camera.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        decoder = psutil.Process(int(process.stdout.readline()))
        server = decoder.parent()
        assert server is not None
        decoder.suspend()  # it could not hear of it by itself
        process.kill()
    wait_until(lambda: not decoder.is_running() or decoder.status() == psutil.STATUS_ZOMBIE)
    wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


def test_one_that_is_let_go_before_it_began_is_ended(camera, request_for, forks):
    with DecoderProcess(request_for(camera.url), forks=forks) as decoder:
        pass
    assert decoder._process.has_ended
    pid = decoder._process.get_pid()
    assert pid is not None
    assert not psutil.pid_exists(pid)


def test_many_threads_may_start_and_kill_them(camera, request_for, forks):
    seen: list[int] = []

    def start() -> None:
        with DecoderProcess(request_for(camera.url), forks=forks) as decoder:
            next(iter(decoder))
            seen.append(decoder.pid)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert len(set(seen)) == 8
    assert not any(map(psutil.pid_exists, seen))


def test_a_kill_from_elsewhere_ends_a_wait(camera, request_for, forks):
    with DecoderProcess(request_for(camera.url), forks=forks) as decoder:
        next(iter(decoder))
        waited: list[bool] = []
        thread = threading.Thread(target=lambda: waited.append(decoder._process.wait(HANG_S)))
        thread.start()
        time.sleep(0.2)
        decoder._process.kill(HANG_S)
        thread.join(HANG_S)
    assert waited == [True]
    assert decoder._process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("lacking", ["fork", "pidfd_open"])
def test_where_no_process_can_be_had_the_others_go_on(monkeypatch, lacking, capfd):
    ours, requests = socket.socketpair()
    told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(fork_server, "_decode", lambda fds, parent: os._exit(0))

    def refuse(*arguments):
        raise OSError("no more of them")

    monkeypatch.setattr(os, lacking, refuse)
    server = fork_server.ForkServer(requests)
    with ours, requests, told:
        with theirs:
            socket.send_fds(ours, [fork_server.REQUEST], [theirs.fileno()] * fork_server.NUM_FDS)
        server._take(requests)
        assert told.recv(1) == b""
    assert server._children == {}
    assert "no process for a decoder: no more of them" in capfd.readouterr().err


def test_a_decoder_that_is_not_forked_is_told(camera, request_for, forks, monkeypatch):
    def start(fds):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.close()
        return Fork(ours)

    monkeypatch.setattr(forks, "start", start)
    with (
        DecoderProcess(request_for(camera.url), forks=forks) as decoder,
        pytest.raises(SourceCrashed, match="no process could be had for it"),
    ):
        next(iter(decoder))
