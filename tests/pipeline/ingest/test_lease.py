"""A living writer keeps its lease, a dead one's is taken, a stranger's is waited out."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.ingest.lease import (
    holder_text,
    is_lease_held,
    require_free,
    take_lease,
    this_process,
)
from pipeline.store import StoreConfig
from pipeline.store.memory import MemoryStore
from pipeline.values.errors import LeaseHeld

pytestmark = pytest.mark.skipif(
    this_process() is None, reason="the kernel tells no boot id and pid namespace: leases expire"
)

LONG_S = 60.0
SHORT_S = 0.6


@pytest.fixture
def store():
    with MemoryStore(StoreConfig("memory://")) as opened:
        yield opened


@pytest.fixture
def slack(monkeypatch):
    monkeypatch.setattr("pipeline.ingest.lease.SLACK_S", 0.2)


def take(store, writer: str = "me"):
    return take_lease(store, "lobby", writer=writer, lease_s=LONG_S)


def hold(store, holder: str, ttl_s: float = LONG_S):
    return store.acquire_lease("lobby", holder, ttl_s=ttl_s)


def changed(**fields: object) -> str:
    """The holder's text of this process, but for some of what makes it this one."""
    here = this_process()
    assert here is not None
    boot, namespace, pid, started = (
        fields.get(name, getattr(here, name)) for name in ("boot", "namespace", "pid", "started")
    )
    return f"other@{socket.gethostname()}:{pid} [{boot}/{namespace}/{started}]"


def said_by(code: str) -> str:
    """What a process that has ended called itself."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


NAME = "from pipeline.ingest.lease import holder_text; print(holder_text('other'), flush=True)"


def test_a_living_writer_keeps_its_lease_at_once(store):
    hold(store, holder_text("other"))
    started_s = time.monotonic()
    with pytest.raises(LeaseHeld, match=re.escape(holder_text("other"))):
        take(store)
    assert time.monotonic() - started_s < LONG_S / 4
    assert is_lease_held(store, "lobby")


def test_a_dead_process_of_this_machine_is_taken_over_from(store):
    hold(store, said_by(NAME))
    assert not is_lease_held(store, "lobby")
    assert take(store).holder.startswith("me@")


def test_a_dead_process_nobody_waited_for_is_taken_over_from(store):
    zombie = subprocess.Popen([sys.executable, "-c", NAME], stdout=subprocess.PIPE, text=True)
    assert zombie.stdout is not None
    holder = zombie.stdout.readline().strip()
    until_s = time.monotonic() + 30
    while Path(f"/proc/{zombie.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until_s
        time.sleep(0.01)
    hold(store, holder)
    assert take(store).token == 2
    zombie.communicate(timeout=200)


def test_a_pid_that_was_given_again_is_another_process(store):
    hold(store, changed(started=1))
    assert take(store).token == 2


@pytest.mark.parametrize(
    "holder",
    [
        "by hand",
        f"other@{socket.gethostname()}:{2**22 + 1}",
        changed(boot="00000000-0000-0000-0000-000000000000", pid=2**22 + 1),
        changed(namespace=1, pid=2**22 + 1),
    ],
    ids=["by hand", "another host", "another boot", "another namespace"],
)
def test_a_holder_that_cannot_be_seen_from_here_is_waited_out(store, slack, holder):
    hold(store, holder, ttl_s=SHORT_S)
    started_s = time.monotonic()
    assert take(store).token == 2
    assert time.monotonic() - started_s >= SHORT_S * 0.9


def test_a_holder_that_cannot_be_seen_and_renews_keeps_its_lease(store, slack):
    lease, ended = hold(store, "other@elsewhere:1", ttl_s=SHORT_S), threading.Event()

    def renew() -> None:
        while not ended.wait(SHORT_S / 4):
            store.renew_lease(lease)

    renewer = threading.Thread(target=renew)
    renewer.start()
    try:
        with pytest.raises(LeaseHeld, match="other@elsewhere:1"):
            take(store)
    finally:
        ended.set()
        renewer.join()


def test_a_writer_that_starts_again_takes_over_from_itself(store):
    hold(store, "me@elsewhere:1")
    assert take(store, "me").token == 2


def test_a_lease_that_changed_hands_meanwhile_is_not_removed(store, monkeypatch):
    """Between the look and the removal somebody else was quicker."""
    dead = hold(store, changed(started=1))
    real = store.release_lease

    def late(lease):
        if lease == dead:
            store.acquire_lease("lobby", holder_text("quicker"), takeover=True)
        real(lease)

    monkeypatch.setattr(store, "release_lease", late)
    with pytest.raises(LeaseHeld, match="quicker@"):
        take(store)


@pytest.fixture
def orphan():
    """`orphan(seconds)`: a holder that lives so long under a Ray worker's name, without a Ray."""
    here, started = this_process(), []
    assert here is not None

    def start(seconds: float) -> str:
        process = subprocess.Popen(["ray::SessionActor", str(seconds)], executable="/bin/sleep")
        started.append(process)
        stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return changed(pid=process.pid, started=stat[19])

    yield start
    for process in started:
        process.kill()
        process.wait(timeout=120)


def test_a_session_whose_cluster_was_killed_is_given_time_to_end(store, orphan):
    hold(store, orphan(0.5))
    require_free(store, "lobby")
    assert store.get_lease("lobby") is None


def test_a_session_that_does_not_end_without_its_cluster_is_named(store, orphan, monkeypatch):
    monkeypatch.setattr("pipeline.ingest.lease.ORPHAN_S", 0.3)
    holder = orphan(60)
    hold(store, holder)
    with pytest.raises(LeaseHeld, match=re.escape(holder)):
        require_free(store, "lobby")


CONTAINER = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture(scope="session")
def container() -> list[str]:
    """A command that runs another one like a container: its own host name, pids and /proc."""
    for more in ([], ["--user", "--map-root-user"]):
        command = [CONTAINER[0], *more, *CONTAINER[1:]]
        if (
            shutil.which("unshare")
            and not subprocess.run([*command, "true"], timeout=200).returncode
        ):
            return command
    pytest.skip("unshare may not make namespaces of pids and host names here")


WRITE = """
import sys, time
from pipeline.ingest.lease import take_lease
from pipeline.store import StoreConfig, open_store
store = open_store(StoreConfig(sys.argv[1], sys.argv[2]))
lease = take_lease(store, "lobby", writer=sys.argv[3], lease_s=float(sys.argv[4]))
print("has it", flush=True)
while sys.stdin.readline():
    store.renew_lease(lease)
    print("renewed", flush=True)
"""


def test_two_containers_of_one_host_name_do_not_rob_each_other(
    environment, opened, container, server_folder
):
    """Both are pid 1 of a machine of one name: only one of them may write."""
    from pipeline.store import open_store

    with open_store(environment) as store:
        url = store.config.url

    def start(writer: str, lease_s: float) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", WRITE, url, environment.namespace, writer, str(lease_s)]
        return subprocess.Popen(
            [*container, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )

    first = start("first", 3.0)
    assert first.stdin is not None
    assert first.stdout is not None
    assert first.stdout.readline() == "has it\n"
    second = start("second", 3.0)
    until_s = time.monotonic() + 60
    while second.poll() is None and time.monotonic() < until_s:
        first.stdin.write("\n")
        first.stdin.flush()
        assert first.stdout.readline() == "renewed\n"
        time.sleep(0.3)
    _, said = second.communicate(timeout=120)
    assert "LeaseHeld" in said
    first.communicate(timeout=120)
    third = start("third", 3.0)  # the first one is dead now: its lease is waited out, not longer
    assert third.stdout is not None
    assert third.stdout.readline() == "has it\n"
    third.communicate(timeout=120)
