"""The spool on disk: in order, whole or not at all, and never more than it may hold."""

import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.store.spool import SUFFIX, Entry, Spool, SpoolRules, SpoolUse, measure
from pipeline.values.types import Gap, StreamInfo
from workers.errors import SinkFull

INFO = StreamInfo("lobby", "rtsp://camera/live", "tiny", "f1", created_at_s=5.0)


def clip(index, body=b"record" * 20):
    after = (0, index - 1) if index else None
    return Entry("clip", "lobby", 5.0, 0, 2.0 * index, 2.0 * index + 2, index, after, body=body)


@pytest.fixture
def rules(tmp_path):
    return SpoolRules(str(tmp_path / "spool"), 100_000)


def open_spool(rules, token=1, stream_id="lobby"):
    return Spool(rules, "store", stream_id, f"{token:012d}")


def fill(spool, count) -> int:
    """How many of so many clips it takes."""
    for index in range(count):
        try:
            spool.append(clip(index))
        except SinkFull:
            return index
    return count


def files(rules):
    return sorted(
        os.path.join(folder, name) for folder, _, names in os.walk(rules.folder) for name in names
    )


def test_the_next_writer_finds_all_in_the_order_it_was_put(rules):
    spool = open_spool(rules)
    gap = Entry.of_gap(INFO, Gap("lobby", 0, 4.0, 9.0, "disconnected"))
    entries = [clip(0), clip(1), gap, *(clip(index) for index in range(2, 13))]
    for entry in entries:
        spool.append(entry)
    assert list(open_spool(rules, token=2).earlier()) == entries
    assert gap.to_gap() == Gap("lobby", 0, 4.0, 9.0, "disconnected")


def test_writers_come_in_the_order_of_their_tokens_and_see_nothing_of_their_own(rules):
    for token, index in ((9, 0), (10, 1), (11, 2)):
        open_spool(rules, token).append(clip(index))
    last = open_spool(rules, 11)
    assert [entry.index for entry in last.earlier()] == [0, 1]
    last.remove_earlier()
    assert list(last.earlier()) == []
    assert len(files(rules)) == 1


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_a_torn_or_changed_file_is_refused_and_the_others_are_read(tmp_path_factory, data):
    rules = SpoolRules(str(tmp_path_factory.mktemp("spool")), 100_000)
    spool = open_spool(rules)
    for index in range(3):
        spool.append(clip(index))
    path = files(rules)[1]
    blob = bytearray(Path(path).read_bytes())
    at = data.draw(st.integers(0, len(blob) - 1))
    if data.draw(st.booleans()):
        blob = blob[:at]
    else:
        blob[at] ^= data.draw(st.integers(1, 255))
    Path(path).write_bytes(blob)
    assert list(open_spool(rules, 2).earlier()) == [clip(0), None, clip(2)]


def test_a_file_that_was_not_finished_is_none(rules):
    spool = open_spool(rules)
    spool.append(clip(0))
    folder = os.path.dirname(files(rules)[0])
    Path(folder, f"0000000002{SUFFIX}.new").write_bytes(clip(1).to_bytes()[:-1])
    assert list(open_spool(rules, 2).earlier()) == [clip(0)]


def test_a_full_spool_takes_no_more_and_stays_within_its_bound(rules):
    rules = replace(rules, max_bytes=2_000)
    spool = open_spool(rules)
    assert fill(spool, 100) < 100
    with pytest.raises(SinkFull, match=r"bytes of at most 2000; bring the store back, or raise"):
        spool.append(clip(100))
    assert 1_000 < measure(spool._root) <= 2_000
    held = spool.waiting
    spool.acknowledge(1.0)
    spool.acknowledge(2.0)
    spool.forget_before(3.0)
    spool.append(clip(50))
    assert spool.waiting == held - 1


def test_the_bound_counts_all_streams(rules):
    rules = replace(rules, max_bytes=2_000)
    taken = [fill(open_spool(rules, stream_id=f"cam{index}"), 1) for index in range(100)]
    assert 0 < sum(taken) < 100
    assert measure(open_spool(rules)._root) <= 2_000


def test_streams_of_one_process_share_a_look_and_the_bound(rules, monkeypatch):
    """However many there are: what they add is counted, and nothing is full by an old look."""
    looks, now_s = [], [0.0]
    look = lambda root: looks.append(root) or measure(root)  # noqa: E731
    monkeypatch.setattr("pipeline.store.spool.measure", look)
    rules, use = replace(rules, max_bytes=20_000), SpoolUse(clock=lambda: now_s[0])
    spools = [Spool(rules, "store", f"cam{index}", "000000000001", use=use) for index in range(30)]
    assert [fill(spool, 1) for spool in spools] == [1] * 30
    assert len(looks) == 1
    now_s[0] = 6.0
    assert fill(spools[0], 100) < 100
    assert len(looks) == 3  # once for the time, and once more before anything is refused
    spools[0].keep_open(clip(200, b"x" * 5_000))
    assert len(looks) == 3  # that one may be left out, and comes with every frame
    assert 19_000 < measure(spools[0]._root) <= 20_000
    for at_s in (1.0, 2.0):
        spools[0].acknowledge(at_s)
    spools[0].forget_before(3.0)
    spools[1].append(clip(1))  # what one has let go of is another's at once


def test_a_disk_that_takes_no_more_is_full_and_leaves_nothing_torn(rules):
    spool = open_spool(rules)
    spool.append(clip(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(SinkFull, match="takes no more"):
            spool.append(clip(1, b"x" * 5_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(files(rules)) == 1
    spool.append(clip(1))
    assert list(open_spool(rules, 2).earlier()) == [clip(0), clip(1)]


def test_what_was_stored_goes_but_for_the_last_clip(rules):
    spool = open_spool(rules)
    for index in range(3):
        spool.append(clip(index))
        spool.acknowledge(float(index))
    gap = Entry.of_gap(INFO, Gap("lobby", 0, 6.0, 9.0, "held"))
    spool.append(gap)
    spool.acknowledge(3.0)
    spool.forget_before(100.0)
    assert list(open_spool(rules, 2).earlier()) == [clip(2)]
    spool.remove()
    assert files(rules) == []


def test_what_a_store_lost_waits_again(rules):
    spool = open_spool(rules)
    for index in range(4):
        spool.append(clip(index))
        spool.acknowledge(float(index))
    spool.append(clip(4))
    spool.rewind((0, 1), covered_s=4.0)
    assert (spool.waiting, spool.told_gaps()) == (3, [])
    read = []
    while (entry := spool.first()) is not None:
        read.append(entry)
        spool.acknowledge(9.0)
    assert read == [clip(2), clip(3), clip(4)]


def test_of_what_a_store_lost_gaps_are_told_again_and_clips_without_a_file_are_gaps(rules):
    spool = open_spool(rules)
    stalled = Entry.of_gap(INFO, Gap("lobby", 0, 2.0, 4.0, "stalled"))
    for entry in (clip(0), stalled, clip(2), clip(3), clip(4)):
        spool.append(entry)
        spool.acknowledge(0.0)
    spool.forget_before(1.0)
    spool.rewind((0, 0), covered_s=2.0)
    assert spool.waiting == 1  # the last clip, which is kept
    told = [entry.to_gap() for entry in spool.told_gaps()]
    assert told == [Gap("lobby", 0, 2.0, 4.0, "stalled"), Gap("lobby", 0, 4.0, 8.0, "store")]


def test_only_the_owner_reads_what_is_spooled(rules):
    open_spool(rules).append(clip(0))
    folder = os.path.dirname(files(rules)[0])
    assert os.stat(folder).st_mode & 0o077 == 0


def test_a_writer_whose_folder_was_taken_away_makes_no_new_one(rules):
    frozen = open_spool(rules, 1)
    frozen.append(clip(0))
    open_spool(rules, 2).remove_earlier()
    with pytest.raises(SinkFull):
        frozen.append(clip(1))
    frozen.keep_open(replace(clip(2), kind="open"))
    assert files(rules) == []
