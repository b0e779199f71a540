"""Rules of age and size on streams, by turns and to the end, on every store."""

import dataclasses
import time

import pytest

from pipeline.ingest.sink import StoreSinkFactory
from pipeline.settings import load_settings
from pipeline.store import open_store
from pipeline.store.retention import (
    EVERY_S,
    SHARED,
    Retention,
    RetentionRules,
    oldest_wall_s,
    prune,
    prune_stream,
)
from pipeline.values.errors import InvalidSettings
from pipeline.values.types import Gap

DAY_S = 86_400.0


@pytest.fixture
def write(store, info, make_clip):
    """`write("lobby", count, wall_start_s)`: a stream of so many clips of 4 s."""

    def write_stream(name, count, wall_start_s=None):
        known = dataclasses.replace(info, stream_id=name, wall_start_s=wall_start_s)
        store.put_info(dataclasses.replace(known, updated_at_s=time.time()))
        lease = store.acquire_lease(name, "tests", ttl_s=600)
        for index in range(count):
            wall_s = None if wall_start_s is None else wall_start_s + 4.0 * index
            clip = make_clip(index, stream_id=name, wall_start_s=wall_s)
            store.put_clip(clip, lease, fingerprint="f1")
        return lease

    return write_stream


def left(store, name):
    return [span.index for span in store.list_spans(name)]


def test_what_is_older_than_the_rule_goes(store, write):
    write("lobby", 10, wall_start_s=1000.0)
    removed = prune_stream(store, "lobby", RetentionRules(max_age_s=20.0), now_s=1040.0)
    assert removed.clips == 5
    assert left(store, "lobby") == [5, 6, 7, 8, 9]
    assert oldest_wall_s(store, "lobby") == 1020.0


def test_a_clip_goes_only_when_all_of_it_is_too_old(store, write):
    write("lobby", 3, wall_start_s=1000.0)
    prune_stream(store, "lobby", RetentionRules(max_age_s=10.0), now_s=1017.9)
    assert left(store, "lobby") == [1, 2]


def test_held_stretches_grow_old_as_well(store, write):
    lease = write("lobby", 1, wall_start_s=1000.0)
    for start_s in (4.0, 64.0, 124.0):
        store.put_gap(Gap("lobby", 0, start_s, start_s + 60.0, "held"), lease)
    prune_stream(store, "lobby", RetentionRules(max_age_s=70.0), now_s=1184.0)
    assert [(gap.start_s, gap.reason) for gap in store.list_gaps("lobby")] == [
        (0.0, "expired"),
        (64.0, "held"),
        (124.0, "held"),
    ]


def test_footage_without_a_wall_clock_ages_from_its_last_writing(store, write):
    write("lobby", 3)
    rules = RetentionRules(max_age_s=DAY_S)
    assert prune_stream(store, "lobby", rules).clips == 0
    assert prune_stream(store, "lobby", rules, now_s=time.time() + 2 * DAY_S).clips == 3


def test_the_oldest_go_until_a_stream_is_small_enough(store, write):
    write("lobby", 10)
    size_bytes = store.list_spans("lobby")[0].size_bytes
    rules = RetentionRules(max_bytes_per_stream=4 * size_bytes + 100)
    prune_stream(store, "lobby", rules)
    assert left(store, "lobby") == [6, 7, 8, 9]
    assert store.get_overview("lobby").totals.size_bytes <= 4 * size_bytes + 100
    assert prune_stream(store, "lobby", rules).clips == 0


def test_the_oldest_of_all_streams_go_first(store, write):
    write("hall", 4, wall_start_s=2000.0)
    write("lobby", 4, wall_start_s=1000.0)
    total = sum(o.totals.size_bytes for o in store.iter_overviews())
    size_bytes = store.list_spans("hall")[0].size_bytes
    removed = dict(prune(store, RetentionRules(max_bytes=total - 2 * size_bytes)))
    assert (left(store, "hall"), left(store, "lobby")) == ([0, 1, 2, 3], [2, 3])
    assert {name: counts.clips for name, counts in removed.items()} == {"lobby": 2}
    list(prune(store, RetentionRules(max_bytes=3 * size_bytes)))
    assert left(store, "lobby") == []
    assert left(store, "hall") in ([1, 2, 3], [2, 3])
    assert store.get_lease(SHARED) is None
    assert SHARED not in store.list_streams()


def test_a_session_applies_the_rules_now_and_then_and_never_fails(store, write, caplog):
    write("lobby", 6, wall_start_s=1000.0)
    now = [0.0]
    rules = RetentionRules(max_age_s=3600.0)
    retention = Retention(store, "lobby", rules, clock=lambda: now[0])
    assert retention.after_write().clips == 6
    write("hall", 2, wall_start_s=1000.0)
    other = Retention(store, "hall", rules, clock=lambda: now[0])
    other._next_s = EVERY_S
    assert other.after_write().clips == 0
    now[0] = EVERY_S
    assert other.after_write().clips == 2
    gone = Retention(store, "nobody", rules, clock=lambda: now[0])
    assert gone.after_write().clips == 0
    assert "retention is put off" in caplog.text


def test_a_sink_bounds_the_stream_it_writes(serve, info, make_clip):
    from pipeline.store import StoreConfig

    config = StoreConfig(serve().url)
    rules = RetentionRules(max_bytes_per_stream=5000)
    sink = StoreSinkFactory(config, info, retention=rules).open()
    try:
        for index in range(30):
            sink._retention._next_s = 0.0  # as if a minute had gone by
            sink.put(make_clip(index))
    finally:
        sink.close()
    with open_store(config) as opened:
        assert opened.get_overview("lobby").totals.size_bytes <= 5000
        assert left(opened, "lobby")[-1] == 29
        assert len(opened.list_gaps("lobby")) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"max_age": "30d"}, RetentionRules(max_age_s=30 * DAY_S)),
        ({"max_age": 90}, RetentionRules(max_age_s=90.0)),
        ({"max_bytes_per_stream": "50GB"}, RetentionRules(max_bytes_per_stream=50_000_000_000)),
        ({"max_bytes": "2GiB"}, RetentionRules(max_bytes=2 << 30)),
        ({}, RetentionRules()),
    ],
)
def test_rules_read_as_people_write_them(environment, given, expected):
    assert load_settings(overrides={"retention": given}).retention_rules() == expected


@pytest.mark.parametrize("given", [{"max_age": "soon"}, {"max_age": "0d"}, {"max_bytes": "lots"}])
def test_a_rule_that_does_not_read_is_refused_by_name(environment, given):
    with pytest.raises(InvalidSettings, match=f"retention.{next(iter(given))}"):
        load_settings(overrides={"retention": given})


def test_commands_remove_a_range_and_apply_the_rules(run, video, opened, monkeypatch):
    assert run("ingest", video, "--stream", "walk").code == 0
    assert run("clips", "rm", "walk", "--yes").code == 2
    assert run("clips", "rm", "walk", "--from", "4").code == 2  # nobody to ask
    before = opened.get_overview("walk").totals
    removed = run("clips", "rm", "walk", "--from", "4", "--to", "8", "--yes", "--json").json
    assert (removed["clips"], removed["size_bytes"] > 0) == (2, True)
    shown = run("streams", "show", "walk", "--json").json
    assert shown["gaps_by_reason"] == {"expired": {"count": 1, "seconds": 4.0}}
    assert shown["coverage"] == pytest.approx(0.8)
    assert shown["retention"]["max_age_s"] is None
    assert run("clips", "prune").code == 2
    monkeypatch.setenv("AOT_RETENTION__MAX_BYTES_PER_STREAM", str(before.size_bytes // 2))
    pruned = run("clips", "prune", "--json").json["streams"]["walk"]
    assert pruned["clips"] >= 3
    assert opened.get_overview("walk").totals.size_bytes <= before.size_bytes // 2
    assert "nothing is older" in run("clips", "prune", "walk").out
    left_clips = opened.get_overview("walk").totals.clips
    assert run("ingest", video, "--stream", "walk").code == 0
    assert opened.get_overview("walk").totals.clips == left_clips
