"""Ranges removed from streams, on every store: whole clips, told as gaps, never stored again."""

import dataclasses
import random
import threading

import pytest

from pipeline.store.redis.expiry import PAGE
from pipeline.store.repair import repair
from pipeline.values.errors import CorruptValue, UnknownStream
from pipeline.values.types import Gap, Position, StreamTotals


@pytest.fixture
def lease(store, info):
    store.put_info(info)
    return store.acquire_lease("lobby", "tests", ttl_s=600)


@pytest.fixture
def put(store, lease, make_clip):
    def put_clip(index, **options):
        return store.put_clip(make_clip(index, **options), lease, fingerprint="f1")

    return put_clip


def indexes(store):
    return [span.index for span in store.list_spans("lobby")]


def gaps(store):
    return [(gap.start_s, gap.end_s, gap.reason) for gap in store.list_gaps("lobby")]


def counted(store):
    """The totals as the index has them."""
    totals = StreamTotals().with_gaps(store.list_gaps("lobby"))
    for span in store.list_spans("lobby"):
        totals = totals.plus(span)
    return totals


def assert_sound(store):
    assert store.verify("lobby").ok
    assert store.get_overview("lobby").totals == counted(store)


def test_a_range_goes_with_its_values_and_says_how_much(store, put):
    spans = [put(index) for index in range(6)]
    removed = store.delete_range("lobby", 5.0, 13.0)
    assert (removed.clips, removed.gaps) == (3, 0)
    assert removed.size_bytes == sum(span.size_bytes for span in spans[1:4])
    assert indexes(store) == [0, 4, 5]
    for span in spans[1:4]:
        with pytest.raises(CorruptValue):
            store.get_record(span)
    assert gaps(store) == [(4.0, 16.0, "expired")]
    assert_sound(store)


@pytest.mark.parametrize(
    ("start_s", "end_s", "left"),
    [
        (None, None, []),
        (None, 8.0, [2, 3]),
        (12.0, None, [0, 1, 2]),
        (4.0, 12.0, [0, 3]),
        (16.0, 99.0, [0, 1, 2, 3]),
        (None, 0.0, [0, 1, 2, 3]),
    ],
)
def test_every_clip_with_a_part_in_the_range_goes_and_no_other(store, put, start_s, end_s, left):
    for index in range(4):
        put(index)
    store.delete_range("lobby", start_s, end_s)
    assert indexes(store) == left
    assert_sound(store)


def test_removing_again_changes_nothing(store, put):
    for index in range(4):
        put(index)
    store.delete_range("lobby", None, 8.0)
    before = store.get_overview("lobby"), store.list_gaps("lobby")
    assert store.delete_range("lobby", None, 8.0).clips == 0
    assert (store.get_overview("lobby"), store.list_gaps("lobby")) == before


def test_a_stream_that_is_cut_at_its_start_again_and_again_has_one_gap(store, lease, put):
    for index in range(40):
        put(index, epoch=index // 7, start_s=10.0 * index)
        store.put_gap(Gap("lobby", index // 7, 10 * index + 4.0, 10 * index + 8.0, "held"), lease)
        if index >= 3:
            store.delete_range("lobby", None, 10.0 * (index - 3))
    assert indexes(store) == [36, 37, 38, 39] or indexes(store) == [37, 38, 39]
    assert sum(gap.reason == "expired" for gap in store.list_gaps("lobby")) == 1
    assert len(store.list_gaps("lobby")) <= 6
    assert_sound(store)


def test_stretches_apart_are_told_apart_until_they_meet(store, put):
    for index in range(8):
        put(index)
    store.delete_range("lobby", 4.0, 8.0)
    store.delete_range("lobby", 16.0, 20.0)
    assert gaps(store) == [(4.0, 8.0, "expired"), (16.0, 20.0, "expired")]
    store.delete_range("lobby", 8.0, 16.0)
    assert gaps(store) == [(4.0, 20.0, "expired")]
    store.delete_range("lobby", None, 4.0)
    assert gaps(store) == [(0.0, 20.0, "expired")]


def test_gaps_within_what_goes_go_and_others_stay(store, lease, put):
    for index in (0, 2, 4):
        put(index)
    for gap in (Gap("lobby", 0, 4.0, 8.0, "disconnected"), Gap("lobby", 0, 12.0, 16.0, "held")):
        store.put_gap(gap, lease)
    removed = store.delete_range("lobby", None, 12.0)
    assert (removed.clips, removed.gaps) == (2, 1)
    assert gaps(store) == [(0.0, 12.0, "expired"), (12.0, 16.0, "held")]
    assert_sound(store)


def test_held_stretches_alone_are_removed_as_well(store, lease, put):
    for start_s in range(0, 600, 60):
        store.put_gap(Gap("lobby", 0, start_s, start_s + 60.0, "held"), lease)
    assert store.get_overview("lobby").totals.held_s == 600
    store.delete_range("lobby", None, 300.0)
    assert gaps(store)[0] == (0.0, 300.0, "expired")
    assert store.get_overview("lobby").totals == StreamTotals(held=5, held_s=300.0)


def test_a_held_stretch_told_again_and_taken_back_is_counted_once(store, lease, put):
    put(0)
    for end_s in (8.0, 8.0, 12.0):
        store.put_gap(Gap("lobby", 0, 4.0, end_s, "held"), lease)
    store.put_gap(Gap("lobby", 0, 12.0, 20.0, "stalled"), lease)
    assert store.get_overview("lobby").totals.held_s == 8.0
    assert_sound(store)
    store.remove_gap(Gap("lobby", 0, 4.0, 12.0, "held"), lease)
    assert store.get_overview("lobby").totals.held == 0


def test_one_epoch_of_several_that_count_from_nought(store, put):
    for index in range(6):
        put(index, epoch=index // 3, start_s=4.0 * (index % 3))
    assert store.delete_range("lobby", 0.0, 8.0, epoch=1).clips == 2
    assert indexes(store) == [0, 1, 2, 5]
    assert [(gap.epoch, gap.first_clip, gap.last_clip) for gap in store.list_gaps("lobby")] == [
        (1, 3, 4)
    ]
    assert_sound(store)


def test_what_was_removed_is_not_stored_again_and_its_writer_goes_on(store, lease, put):
    for index in range(4):
        put(index)
    store.delete_range("lobby", 4.0, 12.0)
    store.rewind(lease, position=None)
    for index in range(6):  # a file read again from its start
        put(index)
    assert indexes(store) == [0, 3, 4, 5]
    assert store.get_position("lobby") == Position(0, 5, 24.0, 23.0)
    assert_sound(store)


def test_a_writer_whose_first_clips_go_writes_on(store, lease, put):
    for index in range(3):
        put(index)
    store.delete_range("lobby", None, 8.0)
    assert store.get_lease("lobby") == lease
    assert put(3).index == 3
    assert store.get_position("lobby").index == 3


def test_a_stream_emptied_at_its_end_goes_on_behind_it(store, lease, put, make_clip):
    for index in range(3):
        put(index)
    store.put_open(make_clip(3), lease, fingerprint="f1")
    store.delete_range("lobby")
    assert (indexes(store), store.get_position("lobby").index) == ([], 2)
    assert store.get_open("lobby").index == 3
    put(3)
    assert indexes(store) == [3]
    assert_sound(store)


def test_what_was_removed_on_purpose_is_no_hole_to_a_repair(store, lease, put):
    for index in (0, 1, 2, 3, 5):
        put(index)
    store.delete_range("lobby", 4.0, 12.0)
    store.put_gap(Gap("lobby", 0, 16.0, 20.0, "failed"), lease)
    assert repair(store, lease).goes_on_at_s == 16.0


def test_a_clip_removed_between_listing_and_reading_is_left_out_and_known(store, put, caplog):
    spans = [put(index) for index in range(5)]
    store.delete_range("lobby", None, 8.0)
    read = [clip.index for clip in store.iter_clips(spans, on_corrupt="skip")]
    assert read == [2, 3, 4]
    assert store.list_removed(spans) == spans[:2]
    assert "left out" not in caplog.text


def test_a_stream_that_is_not_there_is_named(store):
    with pytest.raises(UnknownStream, match="'nobody'"):
        store.delete_range("nobody")
    assert store.list_streams() == []


def test_more_clips_than_a_page_leave_one_gap_and_right_totals(store, put):
    for index in range(PAGE + 40):
        put(index, num_tokens=1)
    assert store.delete_range("lobby", 8.0, 4.0 * (PAGE + 30)).clips == PAGE + 28
    assert indexes(store) == [0, 1, *range(PAGE + 30, PAGE + 40)]
    assert gaps(store) == [(8.0, 4.0 * (PAGE + 30), "expired")]
    assert_sound(store)


def test_seeded_removals_keep_index_totals_and_gaps_in_step(store, lease, put):
    rng = random.Random(5)
    for index in range(60):
        put(index, epoch=index // 20, start_s=4.0 * index + 30 * (index // 20))
    given = {span.index: span for span in store.list_spans("lobby")}
    for _ in range(12):
        start_s = rng.choice([None, rng.uniform(0, 300)])
        store.delete_range("lobby", start_s, (start_s or 0.0) + rng.uniform(0, 60))
        assert_sound(store)
        told = [gap for gap in store.list_gaps("lobby") if gap.reason == "expired"]
        for index in set(given) - set(indexes(store)):
            span = given[index]
            assert any(g.first_clip <= index <= g.last_clip for g in told)
            assert any(g.start_s <= span.start_s and span.end_s <= g.end_s for g in told)
        for index in indexes(store):
            assert not any(g.first_clip <= index <= g.last_clip for g in told)


def test_retention_beside_a_writer_and_a_reader(store, lease, put, make_clip):
    """All three at once: nothing is lost, nobody is shut out, readers see whole clips."""
    stop, failures, num_clips = threading.Event(), [], 150

    def guarded(work):
        try:
            work()
        except Exception as error:
            failures.append(error)

    def cut():
        while not stop.is_set():
            position = store.get_position("lobby")
            if position is not None:
                store.delete_range("lobby", None, position.end_s - 40.0)

    def read():
        while not stop.is_set():
            spans = store.list_spans("lobby")
            got = {clip.index for clip in store.iter_clips(spans, on_corrupt="skip")}
            missing = [span for span in spans if span.index not in got]
            assert store.list_removed(missing) == missing

    put(0)
    threads = [threading.Thread(target=guarded, args=(work,)) for work in (cut, read)]
    for thread in threads:
        thread.start()
    try:
        for index in range(1, num_clips):
            put(index)
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=120)
    assert not failures
    store.delete_range("lobby", None, 4.0 * num_clips - 40.0)
    assert indexes(store) == list(range(num_clips - 10, num_clips))
    assert gaps(store) == [(0.0, 4.0 * num_clips - 40.0, "expired")]
    assert dataclasses.replace(store.get_overview("lobby").totals, footage_s=40.0) == counted(store)
