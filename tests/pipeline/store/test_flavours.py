"""Redis Cluster, Sentinel, users with few rights, options in the URL: supported or refused."""

import random
import socket

import pytest
import redis

from pipeline.store import StoreConfig, open_store
from pipeline.values.errors import InvalidSettings, StoreRefused, StoreUnavailable
from pipeline.values.types import Gap
from tests.pipeline.store.test_redis import fill
from tests.waits import wait_until

SLOTS = 16384


def free_ports(count):
    """Ports that are free, with those of the cluster's bus, 10,000 above."""
    ports = []
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as one, socket.socket() as bus:
            try:
                one.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


@pytest.fixture
def cluster_url(start):
    """Three nodes, a third of the slots each."""
    ports = free_ports(3)
    nodes = [start(port, "--cluster-enabled", "yes") for port in ports]
    for number, node in enumerate(nodes):
        first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        node.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for port in ports[1:]:
        nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port)
    known = lambda node: len(node.execute_command("CLUSTER SLOTS")) == 3  # noqa: E731
    wait_until(lambda: all(known(node) for node in nodes))
    is_up = lambda node: node.cluster("INFO")["cluster_state"] == "ok"  # noqa: E731
    wait_until(lambda: all(is_up(node) for node in nodes))
    return f"redis://127.0.0.1:{ports[0]}/0"


def test_a_cluster_keeps_streams_on_all_its_nodes(cluster_url, info, make_clip):
    names = [f"camera-{number}" for number in range(6)]
    with open_store(StoreConfig(cluster_url)) as store:
        assert store.check().server.endswith(" cluster")
        for name in names:
            store.put_info(type(info)(name, "x", "m", "f1"))
            lease = store.acquire_lease(name, "tests")
            for index in range(4):
                clip = make_clip(index, stream_id=name)
                store.put_clip(clip, lease, fingerprint="f1")
            store.put_gap(Gap(name, 0, 16, 20, "gap"), lease)
        assert store.list_streams() == names
        assert [overview.totals.clips for overview in store.iter_overviews()] == [4] * 6
        spans = [span for name in names for span in store.list_spans(name, 4, 12)]
        assert [(clip.stream_id, clip.index) for clip in store.iter_clips(spans)] == [
            (name, index) for name in names for index in (1, 2)
        ]
        assert all(store.verify(name).ok for name in names)
        assert store.stats().num_streams == 6
        assert store.delete_stream(names[0]).clips == 4
        assert store.delete_stream(names[1], deep=True).clips == 4
        assert store.list_streams() == names[2:]
        nodes = {store._client.get_node_from_key(f"aot:{{{name}}}:info").name for name in names}
        assert len(nodes) > 1


def test_a_cluster_is_found_by_any_node_that_its_url_names(cluster_url, info):
    [away] = free_ports(1)
    url = cluster_url.replace("127.0.0.1", f"127.0.0.1:{away},127.0.0.1", 1)
    with open_store(StoreConfig(url)) as store:
        for name in ("camera-1", "camera-2", "camera-3"):
            store.put_info(type(info)(name, "x", "m", "f1"))
        assert len(store.list_streams()) == 3
    with open_store(StoreConfig(cluster_url)) as store:
        assert len(store.list_streams()) == 3


def test_several_servers_that_are_no_cluster_are_refused(start):
    ports = free_ports(2)
    for port in ports:
        start(port)
    url = f"redis://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/0"
    with pytest.raises(InvalidSettings, match="several servers are named, which only nodes of"):
        open_store(StoreConfig(url))


def test_a_cluster_without_a_node_left_is_away(cluster_url, start, info):
    with open_store(StoreConfig(cluster_url, timeout_s=1.0)) as store:
        store.put_info(info)
        for node in store._client.get_nodes():
            redis.Redis(port=node.port).shutdown(nosave=True)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                store.get_info(info.stream_id)


def test_sentinels_name_the_primary_also_after_a_failover(start, watch_primary, info, make_clip):
    first, second, port = free_ports(3)
    start(first)
    replica = start(second, "--replicaof", "127.0.0.1", str(first))
    asked = watch_primary(port, first, "sentinel down-after-milliseconds main 500")
    wait_until(lambda: asked.execute_command("SENTINEL", "REPLICAS", "main"))
    wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
    url = f"sentinel://127.0.0.1:{port}/main/0"
    with open_store(StoreConfig(url)) as store:
        lease, spans = fill(store, info, [make_clip(0)])
        redis.Redis(port=first).execute_command("WAIT", 1, 5000)
        wait_until(lambda: asked.execute_command("SENTINEL", "FAILOVER", "main"))
        wait_until(lambda: replica.info("replication")["role"] == "master")
        wait_until(lambda: asked.sentinel_get_master_addr_by_name("main")[1] == second)
    with open_store(StoreConfig(url)) as store:
        assert store.list_spans("lobby") == spans
        assert [clip.index for clip in store.iter_clips(spans)] == [0]
        store.put_clip(make_clip(1), lease, fingerprint="f1")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h:1/0?decode_responses=1", "option 'decode_responses'"),
        ("redis://h:1/0?encoding=latin-1", "option 'encoding'"),
        ("redis://h:1/0?socket_timeout=0", "store.timeout_s"),
        ("sentinel://h:1", "sentinel://host:port,host:port/service/db"),
        ("sentinel://h/main", "sentinel://host:port,host:port/service/db"),
    ],
)
def test_a_url_that_would_change_the_answers_is_refused(url, said):
    with pytest.raises(InvalidSettings, match="store URL") as caught:
        open_store(StoreConfig(url))
    assert said in str(caught.value)


def test_a_user_without_info_can_work_and_is_told_what_is_not_checked(serve, info, make_clip):
    server = serve()
    server.client().execute_command(
        "ACL", "SETUSER", "writer", "on", ">pw", "~aot:*", "+@all", "-@admin", "-@dangerous"
    )
    with open_store(StoreConfig(server.url.replace("unix://", "unix://writer:pw@"))) as store:
        fill(store, info, [make_clip(0)])
        assert store.verify("lobby").ok
        assert store.stats().num_streams == 1
        assert "may not run INFO" in store.check().problems[0]
        store.delete_stream("lobby")


def test_a_cluster_that_does_not_show_as_one_is_refused(cluster_url, info):
    port = int(cluster_url.rpartition(":")[2].partition("/")[0])
    redis.Redis(port=port).execute_command(
        "ACL", "SETUSER", "few", "on", ">pw", "~*", "+@all", "-info"
    )

    def put_many(store):
        for number in range(9):
            store.put_info(type(info)(f"camera-{number}", "x", "m", "f1"))

    with (
        open_store(StoreConfig(f"redis://few:pw@127.0.0.1:{port}/0")) as store,
        pytest.raises(StoreRefused, match="the server is one of a Redis Cluster; allow"),
    ):
        put_many(store)
