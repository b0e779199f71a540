"""Levels over clips: what they hold, that they are kept, and that they are only what clips are."""

import dataclasses

import pytest

from pipeline.store import StoreConfig, open_store
from pipeline.store.arrow import decode_clip, encode_clip
from pipeline.store.cold.moving import cool_stream
from pipeline.store.fading import fade_clips
from pipeline.store.levels import (
    FANOUT,
    HIGHEST,
    Node,
    merge_node,
    node_at,
    nodes_of,
    nodes_over,
    nodes_over_all,
)
from pipeline.store.pyramid import Pyramid, count_reads, make_level, read_levels
from pipeline.store.repair import repair
from pipeline.store.retention import Retention, RetentionRules
from pipeline.values.errors import CorruptValue
from workers.types import Level, TokenLayout


@pytest.fixture
def lease(store, info):
    store.put_info(info)
    return store.acquire_lease("lobby", "tests", ttl_s=600)


@pytest.fixture
def write(store, lease, make_clip):
    """`write(first, stop)`: clips of 6 tokens by their indexes."""

    def write_clips(first, stop):
        for index in range(first, stop):
            store.put_clip(make_clip(index, num_tokens=6), lease, fingerprint="f1")

    return write_clips


def node(first, level):
    return Node("lobby", 0, first, level)


def make(store, asked):
    made = make_level(store, asked, store.list_spans("lobby")[asked.first : asked.end])
    assert made is not None
    return made


def there(store):
    found = store.find_levels(nodes_of(store.list_spans("lobby")))
    return sorted((one.level, one.first) for one in found)


def test_levels_are_measured_by_their_records(store, write):
    write(0, 6)
    made = make(store, node(0, 1))
    sizes = store.measure_levels(nodes_of(store.list_spans("lobby")))
    assert sizes == {node(0, 1): made.size_bytes}


def test_digests_are_those_of_the_records(store, write):
    write(0, 6)
    made = make(store, node(0, 1))
    spans = store.list_spans("lobby")
    nodes = [node(0, 1), node(4, 1), *(node(span.index, 0) for span in spans), node(9, 0)]

    found = store.list_digests(nodes)

    assert found.keys() == {node(0, 1), *(node(index, 0) for index in range(6))}
    assert found[node(0, 1)] == made.digest
    record = decode_clip(store.get_record(spans[5]), key=node(5, 0).record_id)
    assert found[node(5, 0)] == record.digest
    assert store.list_digests([]) == {}


def test_groups_are_counted_from_the_first_index():
    assert node_at("lobby", 0, 37, 2) == node(32, 2)
    assert [(n.first, n.end) for n in nodes_over("lobby", (0, 37))][:3] == [
        (36, 40),
        (32, 48),
        (0, 64),
    ]
    assert node(32, 2).children == (node(32, 1), node(36, 1), node(40, 1), node(44, 1))


def test_a_level_holds_as_much_as_a_clip_and_all_of_the_mass(make_clip):
    clips = [make_clip(index, num_tokens=6) for index in range(4)]
    told = merge_node(node(0, 1), clips)
    assert len(told.tokens) == 6
    mass = sum(float(clip.tokens.mass.sum()) for clip in clips)
    assert float(told.tokens.mass.sum()) == pytest.approx(mass, rel=1e-5)
    assert (told.index, told.start_s, told.end_s) == (0, 0.0, 16.0)
    assert told.level == Level(clips=4)
    assert told.stats.frames_in == sum(clip.stats.frames_in for clip in clips)


def test_the_times_of_what_is_left_stay(make_clip):
    clips = [make_clip(index, num_tokens=6) for index in range(4)]
    told = merge_node(node(0, 1), clips)
    of_clips = {
        (clip.pts_s[frame], cell)
        for clip in clips
        for frame, cell in zip(clip.tokens.frame.tolist(), clip.tokens.cell.tolist(), strict=True)
    }
    left = [
        (told.pts_s[frame], cell)
        for frame, cell in zip(told.tokens.frame.tolist(), told.tokens.cell.tolist(), strict=True)
    ]
    assert set(left) <= of_clips
    assert len(told.pts_s) == len(set(told.tokens.frame.tolist()))


def test_temporal_patches_stay_whole(make_clip):
    layout = TokenLayout(frames=2)
    clips = [
        dataclasses.replace(
            clip,
            layout=layout,
            pts_s=clip.pts_s[:3],  # the last patch is filled up
            tokens=dataclasses.replace(clip.tokens, frame=clip.tokens.frame // 2 * 2),
        )
        for clip in (make_clip(index, num_tokens=6) for index in range(4))
    ]
    told = merge_node(node(0, 1), clips)
    assert len(told.pts_s) % 2 == 0
    assert set((told.tokens.frame % 2).tolist()) == {0}
    assert encode_clip(told, fingerprint="f1")


def test_a_level_is_made_once_and_kept(store, write, monkeypatch):
    write(0, 16)
    made = make(store, node(0, 2))
    assert there(store) == [(1, 0), (1, 4), (1, 8), (1, 12), (2, 0)]
    monkeypatch.setattr("pipeline.store.pyramid.merge_node", None)
    [(_, read)] = read_levels(store, [(node(0, 2), store.list_spans("lobby"))])
    assert read is not None
    assert read.digest == made.digest
    assert read.clip.level == Level(clips=16)
    assert store.get_overview("lobby").totals.clips == 16


def test_it_is_the_same_whenever_it_is_made(store, write):
    write(0, 16)
    first = make(store, node(0, 2))
    store.remove_levels([node(0, 2), node(4, 1)])
    assert make(store, node(0, 2)).digest == first.digest


def test_a_clip_that_is_missing_leaves_the_others(store, write):
    write(0, 2)
    write(3, 6)
    made = make_level(store, node(0, 1), store.list_spans("lobby")[:3])
    assert made is not None
    assert made.clip.stats.frames_in == 12
    assert there(store) == [(1, 0)]
    assert make_level(store, node(8, 1), []) is None


@pytest.mark.parametrize("level", [1, 2])
def test_a_clip_that_is_removed_takes_its_levels_with_it(store, write, level):
    write(0, 32)
    for at in range(0, 32, FANOUT**level):
        make(store, node(at, level))
    store.delete_range("lobby", 4.0 * 5, 4.0 * 6)
    left = set(there(store))
    assert not left & {(1, 4), (2, 0)}
    assert (1, 8) in left
    assert store.verify("lobby").ok


def test_a_clip_that_fades_takes_its_levels_with_it(store, write):
    write(0, 32)
    for at in (0, 16):
        make(store, node(at, 2))
    fade_clips(store, store.list_spans("lobby")[20:21], 0.1)
    assert there(store) == [(1, 0), (1, 4), (1, 8), (1, 12), (1, 16), (1, 24), (1, 28), (2, 0)]
    assert make(store, node(16, 2)).clip.level.keep == 0.1


def test_a_clip_that_comes_late_takes_its_levels_with_it(store, write):
    write(0, 2)
    write(3, 8)
    make_level(store, node(0, 1), store.list_spans("lobby")[:3])
    write(2, 3)
    assert there(store) == []


def test_a_stream_that_is_removed_leaves_no_level(store, write, info):
    write(0, 16)
    make(store, node(0, 2))
    spans = store.list_spans("lobby")
    store.delete_stream("lobby")
    assert store.find_levels(nodes_of(spans)) == set()


def test_a_level_of_what_changed_meanwhile_is_not_kept(store, write, monkeypatch):
    write(0, 4)
    put_level = store.put_level

    def remove_first(*given):
        store.delete_range("lobby", 4.0, 8.0)
        return put_level(*given)

    monkeypatch.setattr(store, "put_level", remove_first)
    assert make(store, node(0, 1)) is not None
    assert there(store) == []


def test_levels_of_cold_clips_are_made_and_not_of_removed_ones(tmp_path, info, make_clip):
    with open_store(StoreConfig("memory://", cold=str(tmp_path))) as store:
        store.put_info(dataclasses.replace(info, wall_start_s=1000.0))
        lease = store.acquire_lease("lobby", "tests", ttl_s=600)
        for index in range(8):
            store.put_clip(make_clip(index, num_tokens=6), lease, fingerprint="f1")
        expected = make(store, node(0, 1)).digest
        store.remove_levels([node(0, 1)])
        list(cool_stream(store, "lobby", 1.0, now_s=1009.0))
        spans = store.list_spans("lobby")
        assert [span.cold is not None for span in spans[:4]] == [True, True, False, False]
        assert make(store, node(0, 1)).digest == expected
        assert there(store) == [(1, 0)]
        store.delete_range("lobby", 0.0, 4.0)
        record = encode_clip(
            merge_node(node(0, 1), list(store.iter_clips(spans[1:4]))), fingerprint="f1"
        )
        digests = dict.fromkeys(node(0, 1).children)
        assert not store.put_level(node(0, 1), record, digests, spans[:1])


def test_a_record_of_another_group_is_refused(store, write):
    write(0, 8)
    clips = list(store.iter_clips(store.list_spans("lobby")[:4]))
    blob = encode_clip(merge_node(node(0, 1), clips), fingerprint="f1")
    with pytest.raises(CorruptValue):
        store.put_level(node(4, 1), blob, {})


def test_a_level_that_does_not_read_is_told_made_anew_and_repaired(serve, info, make_clip):
    server = serve()
    with open_store(StoreConfig(server.url)) as store:
        store.put_info(info)
        lease = store.acquire_lease("lobby", "tests", ttl_s=600)
        for index in range(8):
            store.put_clip(make_clip(index, num_tokens=6), lease, fingerprint="f1")
        digest, key = make(store, node(0, 1)).digest, "aot:{lobby}:clip:0:0:1"
        server.client().setrange(key, 100, b"\x00\xff\x00\xff")
        report = store.verify("lobby")
        assert (report.ok, report.num_levels, len(report.bad_levels)) == (False, 1, 1)
        assert "0/0+4" in report.bad_levels[0]
        [(_, read)] = read_levels(store, [(node(0, 1), store.list_spans("lobby")[:4])])
        assert read is not None
        assert read.digest == digest
        assert store.verify("lobby").ok
        server.client().setrange(key, 100, b"\x00\xff\x00\xff")
        assert repair(store, lease).goes_on_at_s is None
        assert (store.verify("lobby").ok, there(store)) == (True, [])


def test_what_is_to_be_read_is_counted_before(store, write):
    write(0, 32)
    assert count_reads(store, [node(0, 2), node(16, 2)], most=100) == 32
    make(store, node(0, 2))
    assert count_reads(store, [node(0, 2), node(16, 2)], most=100) == 17
    assert count_reads(store, [node(0, 2), node(16, 0)], most=100) == 2
    assert count_reads(store, [node(0, HIGHEST)], most=10) > 10


def test_a_writer_makes_levels_beside_its_writing(store, write):
    write(0, 9)
    retention = Retention(store, "lobby", RetentionRules(levels=True))
    retention.after_write()
    turn = retention._upkeep._turn
    assert turn is not None
    turn.join(60)
    retention.close()
    assert there(store) == [(1, 0), (1, 4)]


def test_a_stream_gets_its_levels_as_it_grows(store, write):
    write(0, 18)
    pyramid = Pyramid(store, "lobby")
    assert pyramid.turn() == 5
    assert there(store) == [(1, 0), (1, 4), (1, 8), (1, 12), (2, 0)]
    assert pyramid.turn() == 0
    write(18, 33)
    assert pyramid.turn(goes_on=lambda: False) == 0
    assert pyramid.turn() == 5
    assert there(store)[-2:] == [(2, 0), (2, 16)]
    assert Pyramid(store, "lobby").turn() == 0


def test_levels_over_many_clips_are_those_over_each():
    places = [(epoch, index) for epoch in (0, 2) for index in (0, 5, 6, 7, 300, 9999)]
    each = {node for place in places for node in nodes_over("lobby", place)}
    over_all = nodes_over_all("lobby", places)
    assert set(over_all) == each
    assert len(over_all) == len(each)
    assert nodes_over_all("lobby", []) == []
