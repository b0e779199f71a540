"""Rows of later releases, and what a crash or another program left: nothing hides what is sound."""

import json

import pytest

from pipeline.store import StoreConfig, open_store, rows
from pipeline.store.keys import Keys
from pipeline.values.errors import SchemaMismatch, UnknownStream
from pipeline.values.types import BrokenStream, Gap, StreamOverview
from tests.pipeline.store.test_redis import fill


@pytest.fixture
def opened(serve, info, make_clip):
    """(store, client, lease, spans) of a stream of two clips."""
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        lease, spans = fill(store, info, [make_clip(0), make_clip(1)])
        yield store, server.client(), lease, spans


def test_fields_of_a_later_release_are_passed_over(opened):
    store, client, lease, spans = opened
    keys = Keys()
    (first, score), *_ = client.zrange(keys.clips("lobby"), 0, -1, withscores=True)
    client.zrem(keys.clips("lobby"), first)
    client.zadd(keys.clips("lobby"), {first + b":level 3:more": score})
    gap = {**vars(Gap("lobby", 0, 8, 9, "gap")), "seen_by": "x"}
    client.zadd(keys.gaps("lobby"), {json.dumps(gap): 8})
    client.set(
        keys.lease("lobby"), json.dumps({**json.loads(client.get(keys.lease("lobby"))), "x": 1})
    )
    client.hset(keys.info("lobby"), "zoom", '"3"')
    for name in (rows.POSITION, rows.TOTALS):
        client.hset(keys.info("lobby"), name, client.hget(keys.info("lobby"), name) + b":7")
    assert store.list_spans("lobby") == spans
    assert store.list_gaps("lobby") == [Gap("lobby", 0, 8, 9, "gap")]
    assert store.get_lease("lobby") == lease
    assert store.get_overview("lobby").totals.clips == 2


def test_a_later_layout_says_upgrade_and_hides_no_other_stream(opened, info, make_clip):
    store, client, lease, _ = opened
    client.hset(Keys().info("lobby"), rows.LAYOUT_FIELD, 3)
    store.put_info(type(info)("hall", "x", "m", "f1"))
    asks = (
        lambda: store.list_spans("lobby"),
        lambda: store.get_info("lobby"),
        lambda: store.list_gaps("lobby"),
        lambda: store.put_clip(make_clip(2), lease, fingerprint="f1"),
        lambda: store.put_info(info, lease=lease),
    )
    for ask in asks:
        with pytest.raises(SchemaMismatch, match=r"layout 3, .* upgrade aot-stream"):
            ask()
    hall, lobby = store.iter_overviews()
    assert isinstance(hall, StreamOverview)
    assert isinstance(lobby, BrokenStream)
    assert "upgrade" in lobby.error
    assert "delete" not in lobby.error


def test_a_lease_of_a_later_layout_says_upgrade(opened):
    store, client, _, _ = opened
    client.set(Keys().lease("lobby"), json.dumps({"layout": 3}))
    with pytest.raises(SchemaMismatch, match="the lease is of layout 3"):
        store.get_lease("lobby")


def test_a_bad_gap_costs_one_gap(opened, caplog):
    store, client, lease, _ = opened
    gap = Gap("lobby", 0, 8, 9, "gap")
    store.put_gap(gap, lease)
    client.zadd(Keys().gaps("lobby"), {b"not json": 3})
    assert store.list_gaps("lobby") == [gap]
    assert "left out of the gaps" in caplog.text


def test_an_id_without_a_stream_is_passed_over_and_can_be_removed(opened):
    store, client, _, _ = opened
    client.sadd(Keys().streams, "orphan")
    assert [overview.info.stream_id for overview in store.iter_overviews()] == ["lobby"]
    assert store.delete_stream("orphan").clips == 0
    assert store.list_streams() == ["lobby"]
    with pytest.raises(UnknownStream):
        store.delete_stream("orphan")


def test_a_stream_from_before_totals_is_counted_and_has_them_after_a_put(opened, make_clip):
    store, client, lease, _ = opened
    client.hdel(Keys().info("lobby"), rows.TOTALS, rows.LAYOUT_FIELD, rows.IF_FULL)
    assert store.get_overview("lobby").totals.clips == 2
    assert client.hget(Keys().info("lobby"), rows.TOTALS) is None
    store.put_clip(make_clip(1), lease, fingerprint="f1")
    store.put_clip(make_clip(2), lease, fingerprint="f1")
    assert store.get_overview("lobby").totals.size_bytes == sum(
        span.size_bytes for span in store.list_spans("lobby")
    )
    assert client.hget(Keys().info("lobby"), rows.TOTALS).startswith(b"3:15:")


def test_an_index_of_many_pages_is_read_whole_and_once(opened, monkeypatch, make_clip):
    store, _, lease, _ = opened
    monkeypatch.setattr("pipeline.store.redis.database.PAGE_ROWS", 3)
    for index in range(2, 20):  # five that begin at the same second, over page borders
        start_s = 40.0 if 8 <= index < 13 else 4.0 * index
        store.put_clip(make_clip(index, start_s=start_s), lease, fingerprint="f1")
    assert [span.index for span in store.list_spans("lobby")] == list(range(20))
    assert len(store.list_spans("lobby", 40.0, 44.0)) == 5
    assert [span.index for span in store.list_spans("lobby", 16.0, 20.0)] == [4]


def test_removing_touches_only_the_streams_own_keys(opened):
    store, client, _, _ = opened
    client.set("aot:{lobby}:clip:0:99", "no row names it")
    client.config_resetstat()
    assert store.delete_stream("lobby").clips == 2
    assert "cmdstat_scan" not in client.info("commandstats")
    assert client.keys("*") == [b"aot:{lobby}:clip:0:99"]
    assert store.delete_stream("lobby", deep=True).clips == 0
    assert client.keys("*") == []


def test_a_put_costs_the_same_in_a_long_stream(opened, make_clip):
    """By what the server was asked, again and in between: no walk over the index."""
    store, client, lease, _ = opened
    for index in range(2, 40):
        store.put_clip(make_clip(index), lease, fingerprint="f1")

    def commands_of(index):
        client.config_resetstat()
        store.put_clip(make_clip(index), lease, fingerprint="f1")
        stats = client.info("commandstats")
        return {name: value["calls"] for name, value in stats.items()}

    again = commands_of(20)
    assert again["cmdstat_zrangebyscore"] == 1
    assert "cmdstat_zscan" not in again
    assert "cmdstat_zrangebyscore" not in commands_of(40)
