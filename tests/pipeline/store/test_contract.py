"""What every store promises, on every store."""

import dataclasses
import threading
import time

import numpy as np
import pytest
import torch

from pipeline.store.arrow import encode_clip
from pipeline.store.memory import MemoryStore
from pipeline.store.repair import repair
from pipeline.values.errors import (
    Conflict,
    FingerprintMismatch,
    InvalidQuery,
    InvalidRecord,
    LeaseHeld,
    LeaseLost,
    MissingValue,
    StoreWentBack,
    UnknownStream,
)
from pipeline.values.types import (
    FileIdentity,
    Gap,
    Position,
    StreamInfo,
    StreamOverview,
    StreamSegment,
    StreamTotals,
)


@pytest.fixture
def lease(store, info):
    store.put_info(info)
    return store.acquire_lease("lobby", "tests", ttl_s=30)


def put(store, clip, lease):
    return store.put_clip(clip, lease, fingerprint="f1")


def assert_same_clip(got, expected):
    for name in ("tokens", "frame", "cell", "mass", "kind"):
        assert torch.equal(getattr(got.tokens, name), getattr(expected.tokens, name)), name
    assert got.tokens.grid == expected.tokens.grid
    without = {"tokens": expected.tokens}
    assert dataclasses.replace(got, **without) == dataclasses.replace(expected, **without)


def test_a_clip_comes_back_as_it_was(store, lease, make_clip):
    clip = make_clip(3, wall_start_s=1.7e9)
    span = put(store, clip, lease)
    assert_same_clip(store.get_clip(span), clip)


def test_a_span_tells_the_cost_before_anything_is_loaded(store, lease, make_clip):
    put(store, make_clip(2, num_tokens=7, wall_start_s=1.5e9), lease)
    (span,) = store.list_spans("lobby")
    assert (span.epoch, span.index, span.start_s, span.end_s) == (0, 2, 8.0, 12.0)
    assert (span.num_tokens, span.wall_start_s) == (7, 1.5e9)
    assert span.size_bytes == len(store.get_record(span))


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [
        (None, None, [0, 1, 2, 3]),
        (4.0, 8.0, [1]),
        (3.999, 8.001, [0, 1, 2]),
        (5.0, 5.5, [1]),
        (None, 4.0, [0]),
        (12.0, None, [3]),
        (16.0, 20.0, []),
        (-5.0, 0.0, []),
    ],
)
def test_a_range_gives_every_clip_that_has_a_part_in_it(
    store, lease, make_clip, start_s, end_s, expected
):
    for index in (2, 0, 3, 1):
        put(store, make_clip(index), lease)
    found = [span.index for span in store.list_spans("lobby", start_s, end_s)]
    assert found == expected


def test_bounds_may_be_numbers_of_numpy(store, lease, make_clip):
    for index in range(3):
        put(store, make_clip(index), lease)
    bounds = np.float64(4.0), np.float32(8.0)
    assert [span.index for span in store.list_spans("lobby", *bounds)] == [1]
    store.delete_range("lobby", *bounds)
    assert [span.index for span in store.list_spans("lobby")] == [0, 2]


def test_a_long_clip_before_short_ones_is_found(store, lease, make_clip):
    put(store, make_clip(0, start_s=0.0, length_s=100.0), lease)
    put(store, make_clip(1, start_s=10.0), lease)
    assert [span.index for span in store.list_spans("lobby", 50, 60)] == [0]


def test_spans_come_in_the_order_the_stream_was_seen(store, lease, make_clip):
    put(store, make_clip(0, epoch=0, start_s=100.0), lease)
    put(store, make_clip(1, epoch=1, start_s=0.0), lease)
    assert [(s.epoch, s.index) for s in store.list_spans("lobby")] == [(0, 0), (1, 1)]


def test_putting_a_clip_again_changes_nothing(store, lease, make_clip):
    first = put(store, make_clip(1), lease)
    put(store, make_clip(2), lease)
    assert put(store, make_clip(1), lease) == first
    assert len(store.list_spans("lobby")) == 2
    assert store.get_position("lobby").index == 2


def test_another_clip_under_the_same_key_is_a_conflict(store, lease, make_clip):
    span = put(store, make_clip(1), lease)
    with pytest.raises(Conflict, match="lobby/0/1 holds another clip"):
        put(store, make_clip(1, seed=9), lease)
    assert_same_clip(store.get_clip(span), make_clip(1))


def test_the_position_is_the_end_of_the_last_clip(store, lease, make_clip):
    assert store.get_position("lobby") is None
    put(store, make_clip(0), lease)
    put(store, make_clip(1), lease)
    assert store.get_position("lobby") == Position(0, 1, 8.0, 7.0)


def test_a_record_put_as_bytes_is_the_same_clip(store, lease, make_clip):
    blob = encode_clip(make_clip(4), fingerprint="f1")
    span = store.put_record("lobby/0/4", blob, lease)
    assert store.get_record(span) == blob
    assert_same_clip(store.get_clip(span), make_clip(4))


def test_clips_are_iterated_in_the_order_asked_for(store, lease, make_clip):
    spans = [put(store, make_clip(index), lease) for index in range(7)]
    got = [clip.index for clip in store.iter_clips(reversed(spans))]
    assert got == [6, 5, 4, 3, 2, 1, 0]


def test_iteration_may_be_left_early(store, lease, make_clip):
    spans = [put(store, make_clip(index), lease) for index in range(5)]
    clips = store.iter_clips(spans)
    assert next(clips).index == 0
    clips.close()
    assert store.get_clip(spans[4]).index == 4


def test_a_missing_value_is_named(store, lease, make_clip):
    span = put(store, make_clip(0), lease)
    gone = dataclasses.replace(span, index=5)
    with pytest.raises(MissingValue, match="lobby/0/5"):
        store.get_clip(gone)
    with pytest.raises(MissingValue):
        list(store.iter_clips([span, gone]))


def test_skip_leaves_out_what_cannot_be_read_and_says_so(store, lease, make_clip, caplog):
    span = put(store, make_clip(0), lease)
    spans = [dataclasses.replace(span, index=5), span]
    caplog.set_level("INFO", logger="pipeline.store")
    assert [clip.index for clip in store.iter_clips(spans, on_corrupt="skip")] == [0]
    assert "lobby clip 5 was removed meanwhile" in caplog.text  # the index has no row of it


def lose_value(store, span):
    """What a crash of the store leaves: a row of the index whose value is gone."""
    if isinstance(store, MemoryStore):
        del store._streams[span.stream_id].values[span.epoch, span.index]
    else:
        store._client.delete(store._keys.clip(span.stream_id, span.epoch, span.index))


def test_skip_tells_of_a_value_that_is_lost(store, lease, make_clip, caplog):
    spans = [put(store, make_clip(index), lease) for index in range(3)]
    lose_value(store, spans[1])
    assert [clip.index for clip in store.iter_clips(spans, on_corrupt="skip")] == [0, 2]
    [told] = [record for record in caplog.records if record.name.startswith("pipeline.store")]
    assert told.levelname == "WARNING"
    assert "lobby clip 1 left out" in told.getMessage()


def test_two_iterations_at_the_same_time(store, lease, make_clip):
    spans = [put(store, make_clip(index), lease) for index in range(9)]
    pairs = zip(store.iter_clips(spans), store.iter_clips(reversed(spans)), strict=True)
    assert [(one.index, other.index) for one, other in pairs] == [(i, 8 - i) for i in range(9)]


def test_what_is_missing_in_the_middle_is_left_out(store, lease, make_clip, caplog):
    spans = [put(store, make_clip(index), lease) for index in range(9)]
    spans[4] = dataclasses.replace(spans[4], epoch=3)
    caplog.set_level("INFO", logger="pipeline.store")
    got = [clip.index for clip in store.iter_clips(spans, on_corrupt="skip")]
    assert got == [0, 1, 2, 3, 5, 6, 7, 8]
    assert "lobby clip 4 was removed meanwhile" in caplog.text


def test_a_clip_of_no_tokens_is_iterated(store, lease, make_clip):
    clips = [make_clip(index, num_tokens=index % 2) for index in range(4)]
    spans = [put(store, clip, lease) for clip in clips]
    for got, expected in zip(store.iter_clips(spans), clips, strict=True):
        assert_same_clip(got, expected)


def test_writing_into_tokens_that_were_read_changes_no_record(store, lease, make_clip):
    spans = [put(store, make_clip(index), lease) for index in range(3)]
    for clip in store.iter_clips(spans):
        clip.tokens.tokens.zero_()
    for clip in store.iter_clips(spans):
        assert_same_clip(clip, make_clip(clip.index))


def test_verify_reads_every_record(store, lease, make_clip):
    for index in range(3):
        put(store, make_clip(index), lease)
    report = store.verify("lobby")
    assert (report.ok, report.num_clips, report.num_tokens) == (True, 3, 15)


def test_gaps_are_kept_once_and_in_order(store, lease):
    late = Gap("lobby", 0, 60.0, 62.5, "overload")
    early = Gap("lobby", 0, 10.0, 12.0, "disconnected", wall_start_s=1.7e9)
    for gap in (late, early, late):
        store.put_gap(gap, lease)
    assert store.list_gaps("lobby") == [early, late]


def test_info_comes_back_without_the_credentials(store):
    given = StreamInfo(
        "hall",
        "rtsp://admin:secret@10.0.0.7/live?token=abc&channel=1",
        "org/model",
        "f9",
        status="failed",
        error="SourceStalled: nothing for 20 s",
        settings={"retention": 0.1, "detach": True, "end_s": None},
        declared_duration_s=3600.5,
        wall_start_s=1.7e9,
    )
    store.put_info(given)
    assert store.get_info("hall") == given
    assert given.source == "rtsp://10.0.0.7/live?token=***&channel=1"


def test_info_can_change_without_touching_the_position(store, lease, info, make_clip):
    put(store, make_clip(0), lease)
    store.put_info(dataclasses.replace(info, status="complete"), lease=lease)
    assert store.get_info("lobby").status == "complete"
    assert store.get_position("lobby").index == 0


def test_streams_are_listed(store, info):
    for stream_id in ("b", "a"):
        store.put_info(dataclasses.replace(info, stream_id=stream_id))
    assert store.list_streams() == ["a", "b"]


def test_an_unknown_stream_is_named(store, make_clip):
    for ask in (store.get_info, store.list_spans, store.delete_stream, store.verify):
        with pytest.raises(UnknownStream, match="'nobody'"):
            ask("nobody")
    lease = store.acquire_lease("lobby", "tests")
    with pytest.raises(UnknownStream):
        put(store, make_clip(0), lease)


def test_tokens_of_another_fingerprint_are_refused(store, lease, info, make_clip):
    put(store, make_clip(0), lease)
    with pytest.raises(FingerprintMismatch, match="fingerprint f1, got f2"):
        store.put_clip(make_clip(1), lease, fingerprint="f2")
    with pytest.raises(FingerprintMismatch, match="fingerprint f1, got f2"):
        store.put_info(dataclasses.replace(info, fingerprint="f2"))
    assert len(store.list_spans("lobby")) == 1


def test_the_fingerprint_of_a_stream_without_clips_may_change(store, lease, info):
    store.put_info(dataclasses.replace(info, fingerprint="f2"))
    assert store.get_info("lobby").fingerprint == "f2"


def test_a_second_writer_is_told_who_holds_the_lease(store, lease):
    with pytest.raises(LeaseHeld, match="lobby is being written by tests"):
        store.acquire_lease("lobby", "others")
    assert store.get_lease("lobby") == lease


def test_a_takeover_shuts_the_first_writer_out(store, lease, info, make_clip):
    second = store.acquire_lease("lobby", "others", takeover=True)
    assert second.token > lease.token
    for write in (
        lambda: put(store, make_clip(0), lease),
        lambda: store.put_gap(Gap("lobby", 0, 0, 1, "paused"), lease),
        lambda: store.put_info(info, lease=lease),
        lambda: store.renew_lease(lease),
    ):
        with pytest.raises(LeaseLost, match="taken over by others"):
            write()
    assert store.list_spans("lobby") == []
    put(store, make_clip(0), second)


def test_a_lease_ends_by_itself(store, info, make_clip):
    store.put_info(info)
    lease = store.acquire_lease("lobby", "tests", ttl_s=0.05)
    time.sleep(0.1)
    with pytest.raises(LeaseLost, match=r"ended after 0\.05 s"):
        put(store, make_clip(0), lease)
    store.acquire_lease("lobby", "others")


def test_renewal_keeps_a_lease(store, info, make_clip):
    store.put_info(info)
    lease = store.acquire_lease("lobby", "tests", ttl_s=2.0)
    for _ in range(3):
        time.sleep(0.8)
        store.renew_lease(lease)
    put(store, make_clip(0), lease)
    assert len(store.list_spans("lobby")) == 1


def test_a_released_lease_is_free_and_releasing_twice_is_harmless(store, lease):
    store.release_lease(lease)
    second = store.acquire_lease("lobby", "others")
    store.release_lease(lease)
    assert store.get_lease("lobby") == second


def test_a_lease_is_for_one_stream(store, lease, make_clip):
    with pytest.raises(LeaseLost, match="lease is for stream lobby, the write for hall"):
        put(store, make_clip(0, stream_id="hall"), lease)


def test_deleting_removes_everything_and_says_how_much(store, lease, make_clip):
    spans = [put(store, make_clip(index), lease) for index in range(3)]
    store.put_gap(Gap("lobby", 0, 12, 13, "paused"), lease)
    counts = store.delete_stream("lobby")
    assert (counts.clips, counts.gaps) == (3, 1)
    assert counts.size_bytes == sum(span.size_bytes for span in spans)
    assert store.list_streams() == []
    with pytest.raises(MissingValue):
        store.get_clip(spans[0])


def test_the_files_of_a_joined_stream_are_kept_in_their_order(store, lease):
    file = FileIdentity(10, 1.5, "a", "b", "c")
    names = ["p2", "p1", "p\udcff"]  # the last is no UTF-8
    rows = [
        StreamSegment(name, 4.0 - n, 4.0 - n, 5.0 - n, 9.0, None, file)
        for n, name in enumerate(names)
    ]
    store.put_segments(rows[:2], lease)
    store.put_segments([rows[2], dataclasses.replace(rows[0], end_s=7.0)], lease)
    found = store.list_segments("lobby")
    assert [one.path for one in found] == ["p\udcff", "p1", "p2"]
    assert found[2].end_s == 7.0
    store.delete_stream("lobby")
    assert store.list_segments("lobby") == []
    with pytest.raises(LeaseLost):
        store.put_segments(rows, lease)


def test_a_writer_of_a_deleted_stream_is_shut_out_for_good(store, lease, info, make_clip):
    store.delete_stream("lobby")
    store.put_info(info)
    store.acquire_lease("lobby", "others")
    with pytest.raises(LeaseLost):
        put(store, make_clip(0), lease)


def test_a_clip_that_cannot_be_read_back_is_not_stored(store, lease, make_clip):
    clip = make_clip(0)
    clip.tokens.tokens[0, 0] = float("nan")
    with pytest.raises(InvalidRecord, match="NaN or infinity"):
        put(store, clip, lease)
    assert store.list_spans("lobby") == []


@pytest.mark.parametrize("stream_id", ["", "a b", "../x", "a{b}", "x" * 65, "a\n"])
def test_a_wrong_stream_id_is_refused(store, stream_id):
    for ask in (store.get_info, store.list_spans, store.get_lease):
        with pytest.raises(InvalidRecord, match="stream id"):
            ask(stream_id)


def test_a_range_that_is_no_number_is_refused(store, lease):
    with pytest.raises(InvalidQuery):
        store.list_spans("lobby", float("nan"), 3.0)


def test_usage_and_health_can_be_asked(store, lease, make_clip):
    put(store, make_clip(0), lease)
    assert store.stats().used_bytes >= store.list_spans("lobby")[0].size_bytes
    assert store.stats().num_streams == 1
    assert store.check().server


def show(store, clip, lease):
    return store.put_open(clip, lease, fingerprint="f1")


def test_an_open_clip_can_be_read_before_it_closes(store, lease, make_clip):
    assert store.get_open(lease.stream_id) is None

    size_bytes = show(store, make_clip(0), lease)

    assert size_bytes > 0
    assert_same_clip(store.get_open(lease.stream_id), make_clip(0))
    assert store.list_spans(lease.stream_id) == []


def test_an_open_clip_goes_with_the_next_clip(store, lease, make_clip):
    show(store, make_clip(0), lease)

    put(store, make_clip(0), lease)

    assert store.get_open(lease.stream_id) is None


def test_an_open_clip_is_refused_without_the_lease(store, lease, info, make_clip):
    store.acquire_lease(info.stream_id, "other", takeover=True)

    with pytest.raises(LeaseLost):
        show(store, make_clip(0), lease)


def test_an_open_clip_of_another_fingerprint_is_refused(store, lease, make_clip):
    with pytest.raises(FingerprintMismatch):
        store.put_open(make_clip(0), lease, fingerprint="other")


def test_an_open_clip_goes_with_its_stream(store, lease, make_clip):
    show(store, make_clip(0), lease)

    store.delete_stream(lease.stream_id)

    assert store.get_open(lease.stream_id) is None


def test_an_overview_adds_up_what_the_index_says(store, lease, make_clip):
    spans = [put(store, make_clip(index), lease) for index in (0, 1, 5)]
    put(store, make_clip(1), lease)
    store.put_gap(Gap("lobby", 0, 8.0, 20.0, "gap"), lease)
    overview = store.get_overview("lobby")
    size_bytes = sum(span.size_bytes for span in spans)
    assert overview.totals == StreamTotals(3, 15, size_bytes, 12.0, 0.0, 24.0)
    assert (overview.info, overview.num_gaps) == (store.get_info("lobby"), 1)
    assert (overview.position, overview.writer) == (store.get_position("lobby"), lease)


def test_totals_do_not_depend_on_the_order_of_clips_and_epochs(store, lease, make_clip):
    for index, epoch, start_s in ((3, 1, 0.0), (0, 0, 100.0), (4, 1, 4.0), (1, 0, 104.0)):
        put(store, make_clip(index, epoch=epoch, start_s=start_s), lease)
    totals = store.get_overview("lobby").totals
    assert (totals.clips, totals.footage_s) == (4, 16.0)
    assert (totals.start_s, totals.end_s) == (0.0, 108.0)


def test_a_lease_alone_makes_no_stream(store, lease):
    store.acquire_lease("hall", "tests")
    assert store.list_streams() == ["lobby"]
    assert [overview.info.stream_id for overview in store.iter_overviews()] == ["lobby"]
    with pytest.raises(UnknownStream):
        store.put_gap(
            Gap("hall", 0, 0, 1, "paused"), store.acquire_lease("hall", "x", takeover=True)
        )


def test_a_stream_removed_while_it_is_written_leaves_nothing(store, lease, info, make_clip):
    put(store, make_clip(0), lease)
    store.delete_stream("lobby")
    for write in (
        lambda: put(store, make_clip(1), lease),
        lambda: store.put_gap(Gap("lobby", 0, 4, 5, "gap"), lease),
        lambda: store.put_info(dataclasses.replace(info, status="failed"), lease=lease),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert store.list_streams() == []
    assert list(store.iter_overviews()) == []
    with pytest.raises(UnknownStream):
        store.get_overview("lobby")


def test_a_list_beside_somebody_who_makes_and_removes_streams(store, info):
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            store.put_info(dataclasses.replace(info, stream_id="hall"))
            store.delete_stream("hall")

    store.put_info(info)
    other = threading.Thread(target=churn)
    other.start()
    try:
        for _ in range(100):
            listed = list(store.iter_overviews())
            assert all(isinstance(overview, StreamOverview) for overview in listed)
            assert "lobby" in [overview.info.stream_id for overview in listed]
    finally:
        stop.set()
        other.join(timeout=120)


def test_a_gap_told_again_is_one_gap(store, lease):
    store.put_gap(Gap("lobby", 0, 10.0, 12.0, "disconnected"), lease)
    longer = Gap("lobby", 0, 10.0, 30.0, "disconnected", wall_start_s=1.7e9)
    store.put_gap(longer, lease)
    other = Gap("lobby", 1, 10.0, 30.0, "disconnected")
    store.put_gap(other, lease)
    assert sorted(store.list_gaps("lobby"), key=lambda gap: gap.epoch) == [longer, other]


def test_a_clip_that_comes_after_all_takes_its_gap_away(store, lease, make_clip):
    kept = Gap("lobby", 0, 4.0, 8.0, "gap")
    for gap in (kept, Gap("lobby", 0, 4.0, 8.0, "failed"), Gap("lobby", 0, 8.0, 12.0, "failed")):
        store.put_gap(gap, lease)
    put(store, make_clip(1), lease)
    assert [(gap.start_s, gap.reason) for gap in store.list_gaps("lobby")] == [
        (4.0, "gap"),
        (8.0, "failed"),
    ]


def test_a_store_behind_what_its_writer_was_told_is_an_error(store, lease, info, make_clip):
    for index in range(3):
        put(store, make_clip(index), lease)
    for write in (
        lambda: store.put_clip(make_clip(6), lease, fingerprint="f1", after=(0, 5)),
        lambda: store.put_gap(Gap("lobby", 0, 24, 30, "gap"), lease, after=(0, 5)),
        lambda: store.put_info(dataclasses.replace(info, status="complete"), after=(0, 5)),
    ):
        with pytest.raises(
            StoreWentBack, match=r"clip 5 of epoch 0 was stored, now .* clip 2"
        ) as e:
            write()
        assert e.value.last == (0, 2)
    assert len(store.list_spans("lobby")) == 3
    assert store.get_info("lobby").status == "running"
    store.put_clip(make_clip(3), lease, fingerprint="f1", after=(0, 2))


def test_a_repaired_stream_goes_on_at_its_first_hole(store, lease, info, make_clip):
    for index in (0, 1, 3, 4):
        put(store, make_clip(index), lease)
    store.put_gap(Gap("lobby", 0, 8.0, 12.0, "failed"), lease)
    store.put_info(dataclasses.replace(info, status="complete"), lease=lease)
    done = repair(store, lease)
    assert (done.damaged, done.failed, done.goes_on_at_s) == (0, 1, 8.0)
    assert store.get_position("lobby") == Position(0, 1, 8.0, 7.0)
    assert store.get_info("lobby").status == "paused"
    for index in (2, 3, 4):  # as an ingest does: from the position on
        put(store, make_clip(index), lease)
    assert [span.index for span in store.list_spans("lobby")] == [0, 1, 2, 3, 4]
    assert store.list_gaps("lobby") == []
    assert store.get_overview("lobby").totals.clips == 5
    assert repair(store, lease).goes_on_at_s is None


def test_a_sound_stream_is_not_changed_by_a_repair(store, lease, make_clip):
    put(store, make_clip(7), lease)
    before = store.get_overview("lobby")
    assert repair(store, lease).goes_on_at_s is None
    assert store.get_overview("lobby") == before


def test_many_leases_are_taken_at_once_but_for_what_others_have(store, info):
    names = [f"cam{number}" for number in range(300)]
    mine = store.acquire_lease(names[3], "host-old", ttl_s=30)
    others = store.acquire_lease(names[4], "somebody", ttl_s=30)
    taken = store.acquire_leases(names, "host-new", ttl_s=30, kin="host-")
    assert set(names) - set(taken) == {names[4]}
    assert store.get_lease(names[4]) == others
    assert taken[names[3]].token == mine.token + 1
    assert {name: store.get_lease(name) for name in taken} == taken
    with pytest.raises(LeaseLost):
        store.renew_lease(mine)
    store.renew_lease(taken[names[3]])
    again = store.acquire_leases(names, "host-next", ttl_s=30, kin="host-")
    assert all(lease.token == taken[name].token + 1 for name, lease in again.items())


def test_of_many_that_take_leases_at_once_the_last_has_each(store):
    names = [f"cam{number}" for number in range(60)]
    got: list[dict] = []
    threads = [
        threading.Thread(
            target=lambda n=n: got.append(
                store.acquire_leases(names, f"host-{n}", ttl_s=30, kin="host-")
            )
        )
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(leases) for leases in got] == [60] * 4
    for name in names:
        tokens = [leases[name].token for leases in got]
        assert sorted(tokens) == [1, 2, 3, 4], "no token is given twice"
        assert store.get_lease(name) == max((x[name] for x in got), key=lambda x: x.token)
