"""A real Redis server that is full, away, read-only, killed, shared with others."""

import dataclasses
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.store import StoreConfig, open_store
from pipeline.store.keys import Keys
from pipeline.store.reads import decode_span
from pipeline.store.redis.connection import wait_until_idle
from pipeline.values.errors import (
    Conflict,
    CorruptValue,
    InvalidSettings,
    LeaseHeld,
    LeaseLost,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    StoreUnsafe,
)

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


def fill(store, info, clips):
    """Make the stream and put the clips; (lease, spans)."""
    store.put_info(info)
    lease = store.acquire_lease("lobby", "tests")
    return lease, [store.put_clip(clip, lease, fingerprint="f1") for clip in clips]


# --- killed ----------------------------------------------------------------------------------


def test_acknowledged_clips_survive_a_killed_server(serve, info, make_clip):
    server = serve(*DURABLE)
    with open_store(StoreConfig(server.url)) as store:
        _, spans = fill(store, info, map(make_clip, range(4)))
        before = [store.get_record(span) for span in spans]
        server.kill()
        server.start()
        assert store.list_spans("lobby") == spans
        assert [store.get_record(span) for span in spans] == before
        assert store.get_position("lobby").index == 3
        assert store.verify("lobby").ok


def test_a_writer_loses_nothing_that_was_acknowledged_when_the_server_is_killed(
    serve, info, make_clip
):
    """Killed at five moments while a writer puts clips and tries again after each error."""
    server = serve(*DURABLE)
    acknowledged = []
    stop = threading.Event()

    def write():
        with open_store(StoreConfig(server.url)) as store:
            lease, _ = fill(store, info, [])
            index = 0
            while not stop.is_set():
                try:
                    span = store.put_clip(
                        make_clip(index, num_tokens=300, width=64), lease, fingerprint="f1"
                    )
                except StoreUnavailable:
                    continue
                acknowledged.append(span)
                index += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            time.sleep(0.15)
            server.kill()
            server.start()
    finally:
        stop.set()
        writer.join(timeout=200)
    with open_store(StoreConfig(server.url)) as store:
        assert len(acknowledged) > 5
        assert store.list_spans("lobby")[: len(acknowledged)] == acknowledged
        assert store.verify("lobby").ok


# --- away ------------------------------------------------------------------------------------


def timed_error(url, limit_s, **settings):
    started_s = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        open_store(StoreConfig(url, **settings))
    assert time.monotonic() - started_s < limit_s
    return str(caught.value)


def test_a_server_that_is_not_there_is_an_error_that_says_what_to_do(tmp_path):
    said = timed_error("redis://user:secret@127.0.0.1:1/0", 6)
    assert "redis://127.0.0.1:1/0" in said
    assert "secret" not in said
    assert "start the server or correct the store URL" in said
    assert "start the server" in timed_error(f"unix://{tmp_path}/none.sock", 6)


def test_a_server_that_accepts_and_says_nothing_is_an_error_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        said = timed_error(f"redis://127.0.0.1:{port}/0", 6, timeout_s=0.3)
    assert "no answer in time" in said


def test_a_server_that_stops_answering_is_an_error_in_time(serve, info, make_clip):
    server = serve()
    with open_store(StoreConfig(server.url, timeout_s=0.3)) as store:
        _, spans = fill(store, info, [make_clip(0)])
        server.process.send_signal(19)  # SIGSTOP
        try:
            for ask in (store.check, lambda: store.get_clip(spans[0])):
                with pytest.raises(StoreUnavailable, match="no answer in time"):
                    ask()
        finally:
            server.process.send_signal(18)  # SIGCONT
        assert store.get_clip(spans[0]).index == 0


def test_an_answer_that_is_lost_is_asked_for_again(serve, info, make_clip):
    """All connections are cut between two puts; the second one connects anew by itself."""
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        lease, _ = fill(store, info, [make_clip(0)])
        server.client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        store.put_clip(make_clip(1), lease, fingerprint="f1")
        assert len(store.list_spans("lobby")) == 2


def test_a_wrong_password_says_where_it_goes(serve):
    server = serve("--requirepass", "right")
    for url in (server.url, server.url.replace("unix://", "unix://user:wrong@")):
        said = timed_error(url, 2)
        assert "set user and password in the store URL" in said
        assert "wrong@" not in said


def test_a_user_without_the_right_to_write_is_told(serve, info):
    server = serve()
    server.client().execute_command(
        "ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+info", "+@connection"
    )
    url = server.url.replace("unix://", "unix://reader:pw@")
    with open_store(StoreConfig(url)) as store:
        assert store.list_streams() == []
        with pytest.raises(StoreUnavailable, match="grant the store's user this command"):
            store.put_info(info)


@pytest.mark.parametrize(
    "url", ["http://x", "redis://h:port/0", "/tmp/x", "", "embedded://", "redis://h/0?db=x"]
)
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(InvalidSettings, match="store URL"):
        open_store(StoreConfig(url))


# --- full, read-only, unsafe -----------------------------------------------------------------


def test_a_full_server_refuses_and_keeps_what_it_has(serve, info, make_clip):
    server = serve("--maxmemory", "4mb", "--maxmemory-policy", "noeviction")
    with open_store(StoreConfig(server.url)) as store:
        lease, _ = fill(store, info, [])
        stored = []

        def put_many():
            for index in range(100):
                clip = make_clip(index, num_tokens=500, width=256)
                stored.append(store.put_clip(clip, lease, fingerprint="f1"))

        with pytest.raises(StoreFull, match="raise maxmemory or delete streams"):
            put_many()
        assert store.list_spans("lobby") == stored
        assert store.verify("lobby").ok
        assert store.delete_stream("lobby").clips == len(stored)


def test_a_full_disk_of_the_server_is_a_full_store(serve, info, make_clip):
    """Redis refuses writes after a failed save (MISCONF); here its save has nowhere to go."""
    server = serve("--stop-writes-on-bgsave-error", "yes")
    with open_store(StoreConfig(server.url)) as store:
        lease, _ = fill(store, info, [make_clip(0)])
        client = server.client()
        (server.folder / "dump.rdb" / "in-the-way").mkdir(parents=True)
        client.config_set("save", "1 1")
        client.bgsave()
        for _ in range(200):
            if client.info("persistence")["rdb_last_bgsave_status"] == "err":
                break
            time.sleep(0.02)
        with pytest.raises(StoreFull, match=r"lobby: MISCONF .* cannot write to disk"):
            store.put_clip(make_clip(1), lease, fingerprint="f1")
        assert len(store.list_spans("lobby")) == 1


def test_a_replica_is_read_only(serve, info, make_clip):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        lease, spans = fill(store, info, [make_clip(0)])
        server.client().execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreReadOnly, match="point the URL at the primary"):
            store.put_clip(make_clip(1), lease, fingerprint="f1")
        assert store.get_clip(spans[0]).index == 0
        assert any("is a slave" in problem for problem in store.check().problems)


def test_a_server_that_would_evict_is_refused(serve):
    server = serve("--maxmemory", "10mb", "--maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreUnsafe, match="allkeys-lru, which drops clips"):
        open_store(StoreConfig(server.url))


def test_the_doctor_is_told_what_could_lose_clips(serve):
    server = serve("--maxmemory-policy", "volatile-ttl")
    with open_store(StoreConfig(server.url)) as store:
        health = store.check()
    assert health.server.startswith(("redis ", "valkey "))
    assert [problem.split(",")[0] for problem in health.problems] == [
        "maxmemory-policy is volatile-ttl",
        "append-only file is off",
    ]


def test_a_server_that_rewrites_its_log_is_waited_for(serve, info, make_clip):
    server = serve(*DURABLE)
    with open_store(StoreConfig(server.url)) as store:
        clips = (make_clip(index, num_tokens=500, width=1000) for index in range(20))
        fill(store, info, clips)
        server.client().bgrewriteaof()
        wait_until_idle(store.config)
        facts = server.client().info("persistence")
        assert not facts["aof_rewrite_in_progress"]
        assert facts["aof_last_rewrite_time_sec"] >= 0  # -1 before the first


# --- shared with others, damaged -------------------------------------------------------------


def test_a_key_of_another_type_is_a_corrupt_value(serve, info, make_clip):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        lease, spans = fill(store, info, [make_clip(0)])
        keys, client = Keys(), server.client()
        client.delete(keys.clip("lobby", 0, 0))
        client.rpush(keys.clip("lobby", 0, 0), "a list")
        client.set(keys.info("hall"), "a string")
        with pytest.raises(CorruptValue, match="another program uses this key"):
            store.get_clip(spans[0])
        with pytest.raises(CorruptValue):
            store.put_clip(make_clip(0), lease, fingerprint="f1")
        with pytest.raises(CorruptValue):
            store.get_info("hall")


@pytest.mark.parametrize("row", [b"x", b"0:1:2", b"0:1:a:b:1:1:", b"\xff:1:1:1:1:1:"])
def test_a_bad_index_row_costs_one_clip_and_is_named(serve, info, make_clip, caplog, row):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        _, spans = fill(store, info, [make_clip(0), make_clip(1)])
        server.client().zadd(Keys().clips("lobby"), {row: 1.0})
        assert store.list_spans("lobby") == spans
        assert "lobby: an index row does not read" in caplog.text
        report = store.verify("lobby")
        assert (report.ok, report.num_clips, len(report.bad_rows)) == (False, 2, 1)


def test_values_swapped_between_keys_are_found(serve, info, make_clip):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        _, spans = fill(store, info, [make_clip(0), make_clip(1), make_clip(2)])
        client, keys = server.client(), Keys()
        first, second = keys.clip("lobby", 0, 0), keys.clip("lobby", 0, 1)
        one, two = client.get(first), client.get(second)
        client.mset({first: two, second: one})
        assert [span.index for span, _ in store.verify("lobby").corrupt] == [0, 1]
        assert [clip.index for clip in store.iter_clips(spans, on_corrupt="skip")] == [2]


def test_a_damaged_value_is_repaired_by_putting_it_again(serve, info, make_clip):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        lease, spans = fill(store, info, [make_clip(0), make_clip(1)])
        server.client().setrange(Keys().clip("lobby", 0, 0), 100, "damage")
        assert not store.verify("lobby").ok
        store.put_clip(make_clip(0), lease, fingerprint="f1")
        assert store.verify("lobby").ok
        assert store.list_spans("lobby") == spans


@pytest.mark.parametrize("what", ["clips", "gaps", "lease", "fence", "open_clip"])
def test_a_stream_that_does_not_read_can_still_be_deleted(serve, info, make_clip, what):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        fill(store, info, [make_clip(0)])
        store.put_info(dataclasses.replace(info, stream_id="lobby2"))
        client, key = server.client(), getattr(Keys(), what)("lobby")
        client.delete(key)
        client.rpush(key, "a list")
        store.delete_stream("lobby")
        assert store.list_streams() == ["lobby2"]
        assert {k.decode() for k in client.keys("*")} == {"aot:streams", "aot:{lobby2}:info"}


def test_a_lost_value_is_restored_by_putting_it_again(serve, info, make_clip):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        lease, spans = fill(store, info, [make_clip(0), make_clip(1)])
        server.client().delete(Keys().clip("lobby", 0, 0))
        assert not store.verify("lobby").ok
        store.put_clip(make_clip(0), lease, fingerprint="f1")
        assert store.verify("lobby").ok
        assert store.list_spans("lobby") == spans


def test_a_lost_value_that_comes_back_different_has_one_index_row(serve, info, make_clip):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        lease, _ = fill(store, info, [make_clip(0), make_clip(1)])
        server.client().delete(Keys().clip("lobby", 0, 0))
        store.put_clip(make_clip(0, num_tokens=9), lease, fingerprint="f1")
        assert [span.num_tokens for span in store.list_spans("lobby")] == [9, 5]


def test_namespaces_do_not_see_each_other(serve, info, make_clip):
    server = serve()
    with (
        open_store(StoreConfig(server.url, namespace="one")) as one,
        open_store(StoreConfig(server.url, namespace="two")) as two,
    ):
        fill(one, info, [make_clip(0)])
        assert two.list_streams() == []
        fill(two, info, [make_clip(0), make_clip(1)])
        two.delete_stream("lobby")
        assert one.verify("lobby").num_clips == 1
        assert [key for key in server.client().keys("*") if key.startswith(b"two")] == []


def test_every_key_of_a_stream_has_its_hash_tag(serve, info, make_clip):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        fill(store, info, [make_clip(0)])
    found = {key.decode() for key in server.client().keys("*")}
    assert found == {
        "aot:streams",
        "aot:{lobby}:info",
        "aot:{lobby}:clips",
        "aot:{lobby}:clip:0:0",
        "aot:{lobby}:lease",
        "aot:{lobby}:fence",
    }


# --- several at once -------------------------------------------------------------------------


def test_fifty_races_for_one_lease_have_one_winner_each(serve):
    server = serve()
    with (
        open_store(StoreConfig(server.url)) as store,
        ThreadPoolExecutor(4) as threads,
    ):

        def race(name):
            try:
                return store.acquire_lease("lobby", name)
            except (LeaseHeld, Conflict):
                return None

        tokens = []
        for _ in range(50):
            won = [lease for lease in threads.map(race, "abcd") if lease]
            assert len(won) == 1
            tokens.append(won[0].token)
            store.release_lease(won[0])
        assert tokens == sorted(set(tokens))


def test_two_writers_race_and_only_the_newest_lease_writes(serve, info, make_clip):
    """A writer that takes over while the other one writes: never a clip of both."""
    server = serve()
    config = StoreConfig(server.url)
    with open_store(config) as store:
        store.put_info(info)

        def write(seed):
            with open_store(config) as mine:
                lease = mine.acquire_lease("lobby", f"writer {seed}", takeover=True)
                written, is_refused = 0, False
                try:
                    for index in range(100 * seed, 100 * seed + 40):
                        mine.put_clip(make_clip(index, seed=seed), lease, fingerprint="f1")
                        written += 1
                except LeaseLost:
                    is_refused = True
                return lease.token, (written, is_refused)

        with ThreadPoolExecutor(3) as threads:
            results = dict(threads.map(write, (1, 2, 3)))
        assert results[max(results)] == (40, False)
        assert all(is_refused == (written < 40) for written, is_refused in results.values())
        assert len(store.list_spans("lobby")) == sum(written for written, _ in results.values())
        assert store.verify("lobby").ok


def test_a_lease_that_is_taken_between_check_and_commit_stops_the_commit(
    serve, info, make_clip, monkeypatch
):
    server = serve()
    with open_store(StoreConfig(server.url)) as store, open_store(StoreConfig(server.url)) as other:
        lease, _ = fill(store, info, [])
        require = type(store)._require_lease

        def take_after_check(self, pipe, checked):
            require(self, pipe, checked)
            monkeypatch.undo()
            other.acquire_lease("lobby", "others", takeover=True)

        monkeypatch.setattr(type(store), "_require_lease", take_after_check)
        with pytest.raises(LeaseLost, match="taken over by others"):
            store.put_clip(make_clip(0), lease, fingerprint="f1")
        assert store.list_spans("lobby") == []


def test_readers_see_whole_clips_while_others_write(serve, info, make_clip):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        lease, _ = fill(store, info, [])
        done = threading.Event()

        def read():
            seen = 0
            with open_store(StoreConfig(server.url)) as mine:
                while not done.is_set() or seen < 60:
                    spans = mine.list_spans("lobby")
                    assert len(spans) >= seen
                    seen = len(spans)
                    for span in spans[-3:]:
                        decode_span(span, mine.get_record(span))
            return seen

        with ThreadPoolExecutor(2) as threads:
            readers = [threads.submit(read) for _ in range(2)]
            for index in range(60):
                store.put_clip(make_clip(index), lease, fingerprint="f1")
            done.set()
            assert [reader.result(timeout=200) for reader in readers] == [60, 60]


def test_a_config_opens_the_same_store_in_another_process(serve, info, make_clip):
    server = serve()
    config = StoreConfig(server.url, namespace="shared")
    with open_store(config) as store:
        fill(store, info, [make_clip(0)])
        code = (
            "import sys, pipeline.store as s\n"
            "with s.open_store(s.StoreConfig(sys.argv[1], namespace=sys.argv[2])) as store:\n"
            "    print(store.get_clip(store.list_spans('lobby')[0]))"
        )
        said = subprocess.run(
            [sys.executable, "-c", code, store.config.url, store.config.namespace],
            capture_output=True,
            text=True,
            timeout=200,
            check=True,
        ).stdout
    assert "CompressedClip(lobby/0/0, 0.000..4.000 s" in said


def test_no_error_and_no_log_line_holds_the_password(caplog):
    caplog.set_level(logging.DEBUG)
    url = f"redis://:{'hunter2' + str(os.getpid())}@127.0.0.1:1/0"
    with pytest.raises(StoreError) as caught:
        open_store(StoreConfig(url))
    assert "hunter2" not in str(caught.value) + caplog.text + repr(StoreConfig(url))
    assert dataclasses.replace(StoreConfig(url), namespace="x").url == url
