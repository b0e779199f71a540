"""Removing a range from a real server through kills, and while it takes no more data."""

import random
import signal

import pytest

from pipeline.store import StoreConfig, open_store
from pipeline.values.errors import StoreFull
from pipeline.values.types import StreamTotals
from tests.pipeline.store.killed import run_killed

CLIPS = 400
REMOVE = """
from pipeline.store import StoreConfig, open_store
from pipeline.store.redis import expiry

url, end_s = arguments
expiry.PAGE = 3
with open_store(StoreConfig(url)) as store:
    store.delete_range("lobby", None, float(end_s))
"""


def fill(store, info, make_clip, count):
    store.put_info(info)
    lease = store.acquire_lease("lobby", "tests", ttl_s=600)
    for index in range(count):
        store.put_clip(make_clip(index), lease, fingerprint="f1")
    return lease


def assert_whole(store, client, given):
    """Index, values, totals and the gap agree, wherever the removal was cut off."""
    spans, totals = store.list_spans("lobby"), StreamTotals()
    for span in spans:
        totals = totals.plus(span)
    assert store.verify("lobby").ok
    assert store.get_overview("lobby").totals == totals
    assert len(client.keys("aot:{lobby}:clip:*")) == len(spans)
    gone = {span.index for span in given} - {span.index for span in spans}
    told = [gap for gap in store.list_gaps("lobby") if gap.reason == "expired"]
    assert len(told) == bool(gone)
    if gone:
        assert (told[0].first_clip, told[0].last_clip) == (min(gone), max(gone))
        assert (told[0].start_s, told[0].end_s) == (0.0, 4.0 * len(gone))
    return gone


def test_a_removal_that_is_killed_at_seeded_points_leaves_nothing_half(serve, info, make_clip):
    server, rng, seen = serve(), random.Random(11), []
    with open_store(StoreConfig(server.url)) as store:
        fill(store, info, make_clip, CLIPS)
        given = store.list_spans("lobby")
        for turn in range(6):
            kill_at, sends_it = rng.randint(1, CLIPS // 3 // 6), turn % 2
            code = run_killed(REMOVE, kill_at, server.url, 4.0 * CLIPS, sends_it=bool(sends_it))
            assert code == -signal.SIGKILL
            seen.append(len(assert_whole(store, server.client(), given)))
        assert seen == sorted(seen)
        assert len(set(seen) - {0, CLIPS}) >= 2  # kills did fall into the middle
        store.delete_range("lobby")
        assert len(assert_whole(store, server.client(), given)) == CLIPS


def test_a_server_killed_during_a_removal_has_all_or_nothing_of_each_page(
    serve, info, make_clip, monkeypatch
):
    monkeypatch.setattr("pipeline.store.redis.expiry.PAGE", 3)
    server = serve("--appendonly", "yes", "--appendfsync", "always")
    with open_store(StoreConfig(server.url)) as store:
        fill(store, info, make_clip, 60)
        given = store.list_spans("lobby")
        for end_s in (40.0, 90.0, 150.0):
            store.delete_range("lobby", None, end_s)
            server.kill()
            server.start()
            gone = assert_whole(store, server.client(), given)
            assert len(gone) == -(-end_s // 4)


def test_a_full_server_still_removes_and_tells_it(serve, info, make_clip):
    server = serve("--maxmemory-policy", "noeviction")
    with open_store(StoreConfig(server.url)) as store:
        lease = fill(store, info, make_clip, 20)
        given, client = store.list_spans("lobby"), server.client()
        client.set("filler", b"x" * 4_000_000)
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 1_000)
        with pytest.raises(StoreFull):
            store.put_clip(make_clip(20), lease, fingerprint="f1")
        removed = store.delete_range("lobby", None, 60.0)
        assert removed.clips == 15
        assert store.get_overview("lobby").totals.clips == 5
        client.config_set("maxmemory", 0)
        store.delete_range("lobby", None, 64.0)
        assert len(assert_whole(store, client, given)) == 16


def test_room_that_a_removal_makes_is_used_to_tell_it(serve, info, make_clip):
    server = serve("--maxmemory-policy", "noeviction")
    with open_store(StoreConfig(server.url)) as store:
        store.put_info(info)
        lease = store.acquire_lease("lobby", "tests", ttl_s=600)
        for index in range(20):
            store.put_clip(make_clip(index, num_tokens=9000), lease, fingerprint="f1")
        given, client = store.list_spans("lobby"), server.client()
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 1_000)
        assert store.delete_range("lobby", None, 40.0).clips == 10
        assert len(assert_whole(store, client, given)) == 10
