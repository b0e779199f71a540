"""A Redis Cluster of three primaries and a replica each that changes while it is written and read:
slots move to another node, a primary dies."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot

from pipeline.store import StoreConfig, open_store
from pipeline.store.embedded import find_server
from pipeline.store.patience import retry_while_away
from pipeline.values.types import StreamInfo
from tests.pipeline.store.test_flavours import SLOTS, free_ports
from tests.waits import wait_until

ROOT = Path(__file__).parents[3]
AWAY_S = 60.0


class Cluster:
    """Real servers on loopback."""

    def __init__(self, folder: Path, *, replicas: bool) -> None:
        self.folder = folder
        self.ports = free_ports(6 if replicas else 3)
        self.processes = {port: self._start(port) for port in self.ports}
        self.nodes = {port: redis.Redis(port=port, socket_timeout=10) for port in self.ports}
        for node in self.nodes.values():
            wait_until(lambda node=node: _pings(node))
        self._join(self.ports[:3], self.ports[3:])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.ports[0]}/0"

    def _start(self, port: int) -> subprocess.Popen:
        folder = self.folder / str(port)
        folder.mkdir()
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--save", "")
        more = ("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0")
        where = ("--port", str(port), "--dir", str(folder), "--bind", "127.0.0.1")
        command = [str(find_server().path), *where, *options, *more]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def _join(self, primaries: list[int], replicas: list[int]) -> None:
        for number, port in enumerate(primaries):
            first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            self.nodes[port].execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            self.nodes[port].execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for port in self.ports[1:]:
            self.nodes[self.ports[0]].execute_command("CLUSTER", "MEET", "127.0.0.1", port)
        everyone = list(self.nodes.values())
        wait_until(lambda: all(len(n.cluster("NODES")) == len(self.ports) for n in everyone))
        for replica, primary in zip(replicas, primaries, strict=False):
            self.nodes[replica].execute_command("CLUSTER", "REPLICATE", self.id_of(primary))
        wait_until(lambda: all(n.cluster("INFO")["cluster_state"] == "ok" for n in everyone))
        for replica in replicas:
            node = self.nodes[replica]
            wait_until(lambda node=node: node.info("replication").get("master_link_status") == "up")

    def id_of(self, port: int) -> str:
        return self.nodes[port].execute_command("CLUSTER", "MYID").decode()

    def owner_of(self, slot: int) -> int:
        for port, node in self.nodes.items():
            if self.processes[port].poll() is None and node.info("replication")["role"] == "master":
                for first, last, *servers in node.execute_command("CLUSTER SLOTS"):
                    if first <= slot <= last:
                        return int(servers[0][1])
        raise AssertionError(f"nobody has slot {slot}")

    def move_slot(self, slot: int, *, pause_s: float = 0.0) -> None:
        """To the next primary, a key at a time, as a rebalance does it."""
        source = self.owner_of(slot)
        target = next(
            port
            for port, node in self.nodes.items()
            if port != source
            and self.processes[port].poll() is None
            and node.info("replication")["role"] == "master"
        )
        self.nodes[target].execute_command(
            "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source)
        )
        self.nodes[source].execute_command(
            "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target)
        )
        keys = self.nodes[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10_000)
        while keys:
            for key in keys:
                self.nodes[source].execute_command("MIGRATE", "127.0.0.1", target, key, 0, 5000)
                time.sleep(pause_s)
            keys = self.nodes[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10_000)
        for port in (target, source):
            self.nodes[port].execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))

    def kill_owner(self, slot: int) -> int:
        """The primary's port."""
        port = self.owner_of(slot)
        self.processes[port].kill()
        self.processes[port].wait(timeout=60)
        return port

    def wait_for_successor(self, slot: int, dead: int) -> float:
        """Seconds until a replica has the slot."""
        began_s = time.monotonic()
        wait_until(lambda: self._is_taken_over(slot, dead))
        return time.monotonic() - began_s

    def _is_taken_over(self, slot: int, dead: int) -> bool:
        try:
            return self.owner_of(slot) != dead
        except (AssertionError, redis.RedisError):
            return False

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(timeout=60)


def wait_for_replica(primary: redis.Redis) -> None:
    """Until it has all that was written so far."""
    written = primary.info("replication")["master_repl_offset"]
    wait_until(lambda: primary.info("replication")["slave0"]["offset"] >= written)


def _pings(node: redis.Redis) -> bool:
    try:
        return bool(node.ping())
    except redis.RedisError:
        return False


@pytest.fixture
def cluster(tmp_path):
    running = Cluster(tmp_path, replicas=True)
    yield running
    running.stop()


class Writer(threading.Thread):
    """Puts a clip after the other, as a session does: again where the store is away."""

    def __init__(self, url, make_clip):
        super().__init__(daemon=True)
        self.stopped, self.error, self.told = threading.Event(), None, []
        self.between_puts = threading.Lock()
        """Held by a test, so that a primary dies with nothing that its replica has not."""
        self._url, self._make_clip = url, make_clip

    def run(self):
        try:
            with open_store(StoreConfig(self._url)) as store:
                store.put_info(StreamInfo("lobby", "x", "m", "f1"))
                lease = store.acquire_lease("lobby", "tests", ttl_s=600)
                while not self.stopped.is_set():
                    self._put(store, lease)
        except BaseException as error:  # told to the test
            self.error = error

    def _put(self, store, lease):
        clip = self._make_clip(len(self.told))
        after = (0, len(self.told) - 1) if self.told else None

        def put():
            with self.between_puts:
                return store.put_clip(clip, lease, fingerprint="f1", after=after)

        self.told.append(retry_while_away(put, limit_s=AWAY_S))


def read_all(store):
    """Every clip that is listed, verified."""

    def read():
        spans = store.list_spans("lobby")
        return [clip.index for clip in store.iter_clips(spans)]

    return retry_while_away(read, limit_s=AWAY_S)


@pytest.fixture
def writer(cluster, make_clip):
    running = Writer(cluster.url, make_clip)
    running.start()
    wait_until(lambda: len(running.told) >= 20 or running.error)
    yield running
    running.stopped.set()
    running.join(timeout=120)


def check_nothing_lost(cluster, writer):
    count = len(writer.told)
    wait_until(lambda: len(writer.told) > count or writer.error)  # it goes on
    writer.stopped.set()
    writer.join(timeout=120)
    assert writer.error is None, repr(writer.error)
    port = next(p for p, process in cluster.processes.items() if process.poll() is None)
    with open_store(StoreConfig(f"redis://127.0.0.1:{port}/0")) as store:
        assert read_all(store) == list(range(len(writer.told)))
        assert store.list_spans("lobby") == writer.told
        assert store.verify("lobby").ok
        assert store.get_overview("lobby").totals.clips == len(writer.told)


def test_a_slot_that_moves_under_a_writer_and_a_reader_loses_nothing(cluster, writer):
    slot = key_slot(b"aot:{lobby}:info")
    with open_store(StoreConfig(cluster.url)) as store:
        found, done = [], threading.Event()

        def move():
            try:
                cluster.move_slot(slot, pause_s=0.02)
            finally:
                done.set()

        mover = threading.Thread(target=move)
        mover.start()
        while not done.is_set():
            found.append(len(read_all(store)))
        mover.join()
    assert found == sorted(found)
    assert found[0] >= 20
    check_nothing_lost(cluster, writer)


def test_a_primary_that_dies_is_followed_by_its_replica(cluster, writer):
    slot = key_slot(b"aot:{lobby}:info")
    with writer.between_puts:
        wait_for_replica(cluster.nodes[cluster.owner_of(slot)])
        died = cluster.kill_owner(slot)
    taken_over_s = cluster.wait_for_successor(slot, died)
    print(f"\na replica took over after {taken_over_s:.1f} s")
    check_nothing_lost(cluster, writer)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_contract_holds_on_a_cluster_whose_slots_move(cluster):
    """All of `test_contract`, beside a rebalance that never ends."""
    environment = {**os.environ, "REDIS_URL": cluster.url, "PYTHONPATH": str(ROOT)}
    command = ["-m", "pytest", "-q", "-k", "redis", "tests/pipeline/store/test_contract.py"]
    stopped, moved = threading.Event(), []

    def move_on():
        slot = key_slot(b"aot:{lobby}:info")
        while not stopped.is_set():
            cluster.move_slot(slot)
            moved.append(slot)
            time.sleep(0.2)

    mover = threading.Thread(target=move_on)
    mover.start()
    try:
        ran = subprocess.run(
            [sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True
        )
    finally:
        stopped.set()
        mover.join(timeout=60)
    print(f"\n{ran.stdout.splitlines()[-1]}; the slot moved {len(moved)} times")
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert len(moved) > 10


def test_a_writer_goes_on_through_a_failover_by_sentinels(tmp_path, make_clip):
    first, second, sentinel = free_ports(3)
    processes = []

    def start(port, *options):
        (tmp_path / str(port)).mkdir()
        where = ("--port", str(port), "--dir", str(tmp_path / str(port)), "--bind", "127.0.0.1")
        command = [str(find_server().path), *options, *where]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        wait_until(lambda: _pings(redis.Redis(port=port)))
        return redis.Redis(port=port)

    settings = tmp_path / "sentinel.conf"
    settings.write_text(
        f"sentinel monitor main 127.0.0.1 {first} 1\nsentinel down-after-milliseconds main 1000\n"
        "sentinel failover-timeout main 5000\n"
    )
    writer = None
    try:
        start(first, "--save", "")
        start(second, "--save", "", "--replicaof", "127.0.0.1", str(first))
        asked = start(sentinel, str(settings), "--sentinel")
        wait_until(lambda: asked.execute_command("SENTINEL", "REPLICAS", "main"))
        replica = redis.Redis(port=second)
        wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
        writer = Writer(f"sentinel://127.0.0.1:{sentinel}/main/0", make_clip)
        writer.start()
        wait_until(lambda: len(writer.told) >= 20 or writer.error)
        with writer.between_puts:
            wait_for_replica(redis.Redis(port=first))
            processes[0].kill()
        wait_until(lambda: replica.info("replication")["role"] == "master")
        count = len(writer.told)
        wait_until(lambda: len(writer.told) > count + 5 or writer.error)
        writer.stopped.set()
        writer.join(timeout=120)
        assert writer.error is None, repr(writer.error)
        with open_store(StoreConfig(f"redis://127.0.0.1:{second}/0")) as store:
            assert store.list_spans("lobby") == writer.told
            assert store.verify("lobby").ok
    finally:
        if writer is not None:
            writer.stopped.set()
        for process in processes:
            process.kill()
            process.wait(timeout=60)
