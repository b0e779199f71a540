"""Clips in the cold tier: read as before, removed as before, whole in one place or the other."""

import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
import uuid

import pytest

from pipeline.store import StoreConfig, open_store, rows
from pipeline.store.cold import moving, tidying
from pipeline.store.cold.moving import cool_stream, cool_turn, iter_batches, move
from pipeline.store.cold.run import cool as cool_all
from pipeline.store.cold.tidying import sweep, tidy_stream
from pipeline.store.fading import FadeRule
from pipeline.store.keys import Keys
from pipeline.store.levels import nodes_over
from pipeline.store.pyramid import Pyramid
from pipeline.store.retention import Retention, RetentionRules
from pipeline.values.errors import (
    Conflict,
    InvalidSettings,
    MissingValue,
    StoreUnavailable,
)
from pipeline.values.types import Gap
from tests.pipeline.store.test_contract import assert_same_clip, put

HOUR_AGO_S = 3600.0


@pytest.fixture(params=["memory", "embedded"])
def cold_store(request, tmp_path):
    """A store with a cold tier, in a namespace of the test's own."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    url = "memory://"
    if request.param == "embedded":
        url = f"embedded://{request.getfixturevalue('embedded_folder')}"
    with open_store(StoreConfig(url, namespace=namespace, cold=str(tmp_path / "cold"))) as opened:
        yield opened
        for stream_id in opened.list_streams():
            opened.delete_stream(stream_id)


@pytest.fixture
def lease(cold_store, info):
    cold_store.put_info(dataclasses.replace(info, wall_start_s=time.time() - HOUR_AGO_S))
    return cold_store.acquire_lease("lobby", "tests", ttl_s=60)


def fill(store, lease, make_clip, count=10):
    return [put(store, make_clip(index), lease) for index in range(count)]


def cool(store, upto_s, stream_id="lobby"):
    """Move what ends before that second of the stream."""
    info = store.get_info(stream_id)
    now_s = info.wall_start_s + upto_s
    return sum((m.clips for m in cool_stream(store, stream_id, 0.0, now_s=now_s)), 0)


def files_in(store):
    return sorted(store.cold.list_files("lobby"))


def cold_of(store):
    return [span.index for span in store.list_spans("lobby") if span.cold is not None]


def test_old_clips_move_and_read_as_before(cold_store, lease, make_clip):
    before = fill(cold_store, lease, make_clip)
    records = [cold_store.get_record(span) for span in before]
    totals = cold_store.get_overview("lobby").totals
    assert cool(cold_store, 24.0) == 6
    spans = cold_store.list_spans("lobby")
    assert cold_of(cold_store) == [0, 1, 2, 3, 4, 5]
    assert [dataclasses.replace(span, cold=None) for span in spans] == before
    assert [cold_store.get_record(span) for span in spans] == records
    for index, clip in enumerate(cold_store.iter_clips(spans)):
        assert_same_clip(clip, make_clip(index))
    assert cold_store.verify("lobby").ok
    assert cold_store.get_overview("lobby").totals == totals
    assert cold_store.get_position("lobby").index == 9
    assert all(cold_store.get_value(span) is None for span in before[:6])
    assert cool(cold_store, 24.0) == 0


def test_what_was_listed_before_the_move_is_found_after_it(cold_store, lease, make_clip):
    before = fill(cold_store, lease, make_clip, 4)
    clips = cold_store.iter_clips(before)
    assert next(clips).index == 0
    cool(cold_store, 16.0)
    assert [clip.index for clip in clips] == [1, 2, 3]
    assert cold_store.list_removed(before) == []
    by_place = dataclasses.replace(before[2], start_s=0.0, end_s=0.0, num_tokens=0, size_bytes=0)
    assert cold_store.get_record(by_place) == cold_store.get_record(before[2])


def test_a_file_that_was_joined_with_others_is_found_in_the_new_one(cold_store, lease, make_clip):
    fill(cold_store, lease, make_clip)
    for upto_s in (8.0, 16.0, 24.0):
        cool(cold_store, upto_s)
    listed = cold_store.list_spans("lobby")
    assert len(files_in(cold_store)) == 3
    assert [m.clips for m in tidy_stream(cold_store, "lobby")] == [6]
    assert len(files_in(cold_store)) == 1
    assert [clip.index for clip in cold_store.iter_clips(listed)] == list(range(10))
    assert list(tidy_stream(cold_store, "lobby")) == []
    assert cold_store.verify("lobby").ok


def test_putting_a_cold_clip_again_changes_nothing(cold_store, lease, make_clip):
    fill(cold_store, lease, make_clip, 3)
    cool(cold_store, 12.0)
    spans, totals = cold_store.list_spans("lobby"), cold_store.get_overview("lobby").totals
    assert put(cold_store, make_clip(1), lease) == spans[1]
    assert cold_store.list_spans("lobby") == spans
    assert cold_store.get_overview("lobby").totals == totals
    with pytest.raises(Conflict, match="lobby/0/1 holds another clip"):
        put(cold_store, make_clip(1, seed=9), lease)


def fade_all(store, rules, upto_s):
    """`aot store cool` when that second of the stream is now; how many clips faded."""
    now_s = store.get_info("lobby").wall_start_s + upto_s
    return sum(one.faded.clips for one in cool_all(store, None, fade=rules, now_s=now_s))


def test_cold_clips_fade_by_the_file(cold_store, lease, make_clip, monkeypatch):
    monkeypatch.setattr(moving, "FILE_CLIPS", 4)
    monkeypatch.setattr(tidying, "FILE_CLIPS", 4)
    fill(cold_store, lease, make_clip)
    cool(cold_store, 32.0)
    before = [cold_store.get_clip(span) for span in cold_store.list_spans("lobby")]
    rules = (FadeRule(10.0, 0.2), FadeRule(30.0, 0.1))
    assert fade_all(cold_store, rules, 25.5) == 0  # the last of the first file is 9.5 s old
    assert fade_all(cold_store, rules, 26.5) == 4
    spans = cold_store.list_spans("lobby")
    assert [span.keep for span in spans] == [0.2] * 4 + [1.0] * 6
    assert cold_of(cold_store) == list(range(8))
    assert {span.cold.partition("@")[0] for span in spans[:8]} == set(files_in(cold_store))
    assert fade_all(cold_store, rules, 26.5) == 0
    assert fade_all(cold_store, rules, 46.5) == 8
    spans = cold_store.list_spans("lobby")
    assert [span.keep for span in spans] == [0.1] * 4 + [0.2] * 4 + [1.0] * 2
    for old, span in zip(before, spans, strict=True):
        clip = cold_store.get_clip(span)
        share = max(1, int(span.keep * clip.stats.tokens_in))
        assert len(clip.tokens) == span.num_tokens == min(len(old.tokens), share)
        assert (clip.pts_s, clip.stats, clip.level.keep) == (old.pts_s, old.stats, span.keep)
        mass = float(old.tokens.mass.sum())
        assert float(clip.tokens.mass.sum()) == pytest.approx(mass, rel=0.01)
    totals = cold_store.get_overview("lobby").totals
    assert totals.tokens == sum(span.num_tokens for span in spans)
    assert totals.size_bytes == sum(span.size_bytes for span in spans)
    assert cold_store.verify("lobby").ok


def test_levels_over_cold_clips_go_when_those_fade(cold_store, lease, make_clip):
    fill(cold_store, lease, make_clip, 8)
    cool(cold_store, 32.0)
    while Pyramid(cold_store, "lobby").turn(lambda: True):
        pass
    nodes = [node for index in (0, 4) for node in nodes_over("lobby", (0, index))]
    assert cold_store.find_levels(nodes)
    assert fade_all(cold_store, (FadeRule(10.0, 0.1),), 100.0) == 8
    assert not cold_store.find_levels(nodes)


def test_a_faded_cold_clip_stays_faded_when_it_is_put_again(cold_store, lease, make_clip):
    fill(cold_store, lease, make_clip, 3)
    cool(cold_store, 12.0)
    fade_all(cold_store, (FadeRule(1.0, 0.1),), 100.0)
    spans = cold_store.list_spans("lobby")
    assert put(cold_store, make_clip(1), lease) == spans[1]
    assert cold_store.list_spans("lobby") == spans


def test_a_removed_range_goes_from_rows_and_files(cold_store, lease, make_clip):
    fill(cold_store, lease, make_clip)
    for upto_s in (12.0, 24.0):
        cool(cold_store, upto_s)
    assert len(files_in(cold_store)) == 2
    assert cold_store.delete_range("lobby", None, 15.0).clips == 4
    assert cold_of(cold_store) == [4, 5]
    [left] = files_in(cold_store)
    assert cold_store.cold.count_clips("lobby", left) == 3
    assert [m.clips for m in tidy_stream(cold_store, "lobby")] == [2]
    [rewritten] = files_in(cold_store)
    assert cold_store.cold.count_clips("lobby", rewritten) == 2
    assert cold_store.verify("lobby").ok
    assert put(cold_store, make_clip(1), lease).index == 1  # it was removed: passed over
    assert cold_of(cold_store) == [4, 5]


def test_a_removed_stream_leaves_no_file(cold_store, lease, make_clip, tmp_path):
    fill(cold_store, lease, make_clip, 3)
    cool(cold_store, 12.0)
    assert cold_store.delete_stream("lobby").clips == 3
    assert not [path for path in (tmp_path / "cold").rglob("*") if path.is_file()]


def test_a_mover_that_was_overtaken_changes_nothing(cold_store, lease, make_clip):
    spans = fill(cold_store, lease, make_clip, 2)
    token = cold_store.begin_move("lobby")
    cold_store.begin_move("lobby")
    moved = dataclasses.replace(spans[0], cold="0-8-00000000@64")
    assert cold_store.move_clips("lobby", [(spans[0], moved)], token) == 0
    assert cold_of(cold_store) == []


def test_what_no_row_names_is_swept(cold_store, lease, make_clip):
    spans = fill(cold_store, lease, make_clip, 4)
    cool(cold_store, 8.0)
    records = [(span, cold_store.get_record(span)) for span in spans[2:]]
    cold_store.cold.write(records, cold_store.get_info("lobby"))  # killed before its rows
    assert len(files_in(cold_store)) == 2
    assert sweep(cold_store, "lobby") == 1
    assert len(files_in(cold_store)) == 1
    assert cold_store.verify("lobby").ok


def test_a_damaged_record_stays_and_is_named(cold_store, lease, make_clip, monkeypatch, caplog):
    spans = fill(cold_store, lease, make_clip, 3)
    whole = cold_store.get_record(spans[1])
    get = cold_store.get_record
    torn = lambda span: whole[:-1] + b"x" if span.index == 1 else get(span)  # noqa: E731
    monkeypatch.setattr(cold_store, "get_record", torn)
    assert move(cold_store, cold_store.get_info("lobby"), spans).clips == 2
    assert cold_of(cold_store) == [0, 2]
    assert "not moved: lobby/0/1" in caplog.text


def test_a_changed_file_is_found_by_the_digest(cold_store, lease, make_clip, tmp_path):
    fill(cold_store, lease, make_clip, 2)
    cool(cold_store, 8.0)
    [path] = (tmp_path / "cold").rglob("*.parquet")
    place = rows.span_to_text(cold_store.list_spans("lobby")[1]).rpartition("@")[2]
    data = bytearray(path.read_bytes())
    data[int(place) + 300] ^= 1
    path.write_bytes(bytes(data))
    [(bad, _)] = cold_store.verify("lobby").corrupt
    assert bad.index == 1


def test_a_lost_file_costs_its_clips_and_a_lost_folder_none(cold_store, lease, make_clip, tmp_path):
    fill(cold_store, lease, make_clip, 3)
    cool(cold_store, 8.0)
    [path] = (tmp_path / "cold").rglob("*.parquet")
    path.unlink()
    assert [span.index for span, _ in cold_store.verify("lobby").corrupt] == [0, 1]
    with pytest.raises(MissingValue, match="put the file back"):
        cold_store.get_clip(cold_store.list_spans("lobby")[0])
    (tmp_path / "cold").rename(tmp_path / "away")
    with pytest.raises(StoreUnavailable, match="mount it"):
        cold_store.verify("lobby")


def test_a_process_without_the_tier_says_what_to_set(cold_store, lease, make_clip):
    fill(cold_store, lease, make_clip, 2)
    cool(cold_store, 8.0)
    cold_store.cold = None
    with pytest.raises(StoreUnavailable, match=r"set store\.cold"):
        cold_store.verify("lobby")
    with pytest.raises(InvalidSettings, match="no cold tier"):
        list(cool_stream(cold_store, "lobby", 0.0))


def test_a_session_waits_for_a_files_worth(cold_store, lease, make_clip, monkeypatch):
    spans = fill(cold_store, lease, make_clip, 6)
    assert cool_turn(cold_store, "lobby", HOUR_AGO_S - 20.0).clips == 0  # 5 clips of 4 s are old
    monkeypatch.setattr(moving, "FILE_BYTES", 2 * spans[0].size_bytes)
    rules = RetentionRules(cool_after_s=HOUR_AGO_S - 20.0)
    for _ in range(4):
        Retention(cold_store, "lobby", rules).after_write()
    assert cold_of(cold_store) == [0, 1, 2, 3]  # the fifth waits for another
    monkeypatch.setattr(moving, "WAIT_S", 2.0)
    assert cool_turn(cold_store, "lobby", HOUR_AGO_S - 20.0).clips == 1


def test_a_file_is_of_so_many_bytes_and_clips(cold_store, lease, make_clip, monkeypatch):
    spans = fill(cold_store, lease, make_clip, 5)
    monkeypatch.setattr(moving, "FILE_CLIPS", 2)
    assert [len(batch) for batch in iter_batches(spans)] == [2, 2, 1]
    monkeypatch.setattr(moving, "FILE_BYTES", 1)
    assert [len(batch) for batch in iter_batches(spans)] == [1] * 5


def test_a_stream_with_cold_clips_is_not_read_by_an_older_release(cold_store, lease, make_clip):
    if not hasattr(cold_store, "_client"):
        pytest.skip("what stands in the server is asked")
    fill(cold_store, lease, make_clip, 2)
    key = Keys(cold_store.config.namespace).info("lobby")
    assert cold_store._client.hget(key, rows.LAYOUT_FIELD) == b"1"
    cool(cold_store, 4.0)
    cold_store.put_info(cold_store.get_info("lobby"), lease=lease)
    assert cold_store._client.hget(key, rows.LAYOUT_FIELD) == b"2"


def test_gaps_and_facts_go_with_the_clips(cold_store, lease, make_clip):
    from pipeline.store.arrow import Folder, parquet_facts

    fill(cold_store, lease, make_clip, 3)
    gap = Gap("lobby", 0, 4.0, 8.0, "disconnected")
    cold_store.put_gap(gap, lease)
    cool(cold_store, 12.0)
    [file] = Folder(cold_store.config.cold).list()
    facts = parquet_facts(Folder(cold_store.config.cold), file.name)
    assert (facts.info, facts.gaps) == (cold_store.get_info("lobby"), (gap,))


class Crash(BaseException):
    """Ends a move as a kill does: nothing behind it runs."""


STEPS = ("begin_move", "move_clips", "write", "remove_file")


def crash_at(store, monkeypatch, number, *, before):
    """Have the `number`-th step of a move end it, before or after it is done; whether one did."""
    count = iter(range(1, 1000))
    crashed = []

    def crashing(target, name):
        step = getattr(target, name)

        def run(*args, **options):
            is_it = next(count) == number
            if is_it and before:
                crashed.append(name)
                raise Crash
            done = step(*args, **options)
            if is_it:
                crashed.append(name)
                raise Crash
            return done

        monkeypatch.setattr(target, name, run)

    for name in STEPS:
        crashing(store if hasattr(store, name) else store.cold, name)
    return crashed


@pytest.mark.parametrize("before", [True, False])
def test_a_crash_at_any_step_of_fading_leaves_each_clip_old_or_new(
    cold_store, lease, make_clip, monkeypatch, before
):
    monkeypatch.setattr(moving, "FILE_CLIPS", 2)
    fill(cold_store, lease, make_clip, 6)
    cool(cold_store, 24.0)
    sizes, number = {span.index: {span.num_tokens} for span in cold_store.list_spans("lobby")}, 0
    while True:
        number += 1
        with monkeypatch.context() as patched:
            crashed = crash_at(cold_store, patched, number, before=before)
            with contextlib.suppress(Crash):
                fade_all(cold_store, (FadeRule(1.0, 0.1),), 100.0)
        spans = cold_store.list_spans("lobby")
        assert [clip.index for clip in cold_store.iter_clips(spans)] == list(range(6))
        for span in spans:
            sizes[span.index].add(span.num_tokens)
        if not crashed:
            break
    assert all(len(seen) == 2 for seen in sizes.values())
    assert {span.keep for span in spans} == {0.1}
    assert {span.cold.partition("@")[0] for span in spans} == set(files_in(cold_store))


@pytest.mark.parametrize("before", [True, False])
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    cold_store, lease, make_clip, monkeypatch, before
):
    spans = fill(cold_store, lease, make_clip, 6)
    records = [cold_store.get_record(span) for span in spans]
    monkeypatch.setattr(moving, "FILE_CLIPS", 2)
    cool(cold_store, 8.0)  # one file is there, whose first clip is removed: to be rewritten
    cold_store.delete_range("lobby", None, 3.0)
    number, steps = 0, set()
    while True:
        number += 1
        with monkeypatch.context() as patched:
            patched.setattr(moving, "FILE_CLIPS", 2 + number % 2)
            crashed = crash_at(cold_store, patched, number, before=before)
            with contextlib.suppress(Crash):
                list(cool_all(cold_store, HOUR_AGO_S - 30.0))
        steps.update(crashed)
        left = cold_store.list_spans("lobby")
        assert [span.index for span in left] == [1, 2, 3, 4, 5]
        assert [cold_store.get_record(span) for span in left] == records[1:]
        if not crashed:
            break
    assert {"begin_move", "move_clips", "write"} <= steps
    assert cold_of(cold_store) == [1, 2, 3, 4, 5]
    held = {span.cold.partition("@")[0] for span in cold_store.list_spans("lobby")}
    assert set(files_in(cold_store)) == held
    assert sum(cold_store.cold.count_clips("lobby", file) for file in held) == 5


@pytest.mark.parametrize("what", ["folder", "file"])
def test_files_of_the_tier_are_imported(cold_store, lease, make_clip, tmp_path, what):
    from pipeline.api.transfer import import_stream

    spans = fill(cold_store, lease, make_clip, 6)
    gap = Gap("lobby", 0, 4.0, 8.0, "disconnected")
    cold_store.put_gap(gap, lease)
    cool(cold_store, 12.0)
    if what == "folder":
        cool(cold_store, 24.0)
    records = [cold_store.get_record(span) for span in spans]
    folder = tmp_path / "cold" / cold_store.config.namespace / "lobby"
    source = folder if what == "folder" else next(folder.iterdir())
    count = 6 if what == "folder" else 3
    with open_store(StoreConfig("memory://")) as other:
        assert import_stream(other, "lobby", str(source)) == count
        assert import_stream(other, "lobby", source) == count
        found = other.list_spans("lobby")
        assert [other.get_record(span) for span in found] == records[:count]
        assert other.list_gaps("lobby") == [gap]
        assert other.get_info("lobby").status == "paused"


def test_an_import_leaves_cold_clips_where_they_are(cold_store, lease, make_clip, tmp_path):
    from pipeline.api.transfer import import_stream

    fill(cold_store, lease, make_clip, 3)
    cool(cold_store, 12.0)
    cold_store.release_lease(lease)
    assert import_stream(cold_store, "lobby", tmp_path / "cold") == 3
    assert cold_of(cold_store) == [0, 1, 2]


def test_a_query_in_the_docs_reads_the_files(cold_store, lease, make_clip, tmp_path):
    """The SQL and the Python of docs/storage.md, as they stand there."""
    import re
    from pathlib import Path

    import duckdb

    spans = fill(cold_store, lease, make_clip, 6)
    cool(cold_store, 24.0)
    text = Path(__file__).parents[3].joinpath("docs/storage.md").read_text()
    glob = str(tmp_path / "cold" / cold_store.config.namespace / "*" / "*.parquet")
    queries = [
        q.replace("/cold/aot/*/*.parquet", glob)
        for q in re.findall(r"```sql\n(.*?)```", text, re.S)
    ]
    assert len(queries) == 3
    clips, kinds, cells = (duckdb.sql(query).fetchall() for query in queries)
    assert sum(row[-2] for row in clips) == 6
    assert sum(row[-1] for row in clips) == sum(span.num_tokens for span in spans)
    assert sum(row[-1] for row in kinds) == sum(span.num_tokens for span in spans)
    assert cells
    [code] = re.findall(r"```python\n(.*?)```", text, re.S)
    found = {}
    exec(code.replace("/cold/aot/lobby/0-24-3fa85f64.parquet", glob), found)
    assert found["tokens"].shape == (spans[0].num_tokens, 8)
    expected = make_clip(0).tokens.tokens.float().numpy()
    assert (found["tokens"] == expected).all()


MONTH_CLIPS = 43_200
"""30 days of clips of a minute."""
MOVER = """
import sys, time
from pipeline.store import StoreConfig, open_store, arrow
from pipeline.store.cold import moving, tidying
from pipeline.store.cold.run import cool
moving.FILE_CLIPS = int(sys.argv[3])
arrow.decode_clip, arrow.write_parquet
with open_store(StoreConfig(sys.argv[1], cold=sys.argv[2])) as store:
    print("ready", flush=True)
    for one in cool(store, 60.0):
        pass
    print("done", flush=True)
"""


def kill_while_moving(store, folder, kills, file_clips, files_between, seed):
    """Movers killed at seeded points, each some files after the last one; then one that ends.

    A reader asks for windows of the stream all the while, and finds every clip of them.
    """
    rng = random.Random(seed)
    command = [sys.executable, "-c", MOVER, store.config.url, str(folder), str(file_clips)]
    end_s = store.get_position("lobby").end_s
    for _ in range(kills):
        mover = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert mover.stdout.readline() == "ready\n"
            until = len(files_in(store)) + rng.randint(1, files_between)
            while len(files_in(store)) < until:
                at_s = rng.uniform(0, 0.9) * end_s
                window = store.list_spans("lobby", at_s, at_s + end_s / 50)
                assert len(list(store.iter_clips(window))) == len(window) > 0
                assert mover.poll() is None, "it ended before it was killed"
            time.sleep(rng.uniform(0, 0.03))
            os.kill(mover.pid, signal.SIGKILL)
            assert mover.wait(timeout=120) == -signal.SIGKILL
        finally:
            mover.kill()
            mover.wait(timeout=120)
            mover.stdout.close()
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    assert done.stdout == "ready\ndone\n"


def check_month(serve, info, make_clip, tmp_path, *, clips, kills, file_clips, files_between):
    from pipeline.store.arrow import encode_clip

    server = serve()
    with open_store(StoreConfig(server.url, cold=str(tmp_path / "cold"))) as store:
        length_s = 30 * 86_400 / clips
        start_s = time.time() - 31 * 86_400
        store.put_info(dataclasses.replace(info, wall_start_s=start_s))
        lease = store.acquire_lease("lobby", "tests", ttl_s=3600)
        base = [make_clip(index) for index in range(16)]
        for index in range(clips):
            begins_s = index * length_s
            pts_s = tuple(begins_s + i * length_s / 4 for i in range(4))
            clip = dataclasses.replace(
                base[index % 16],
                index=index,
                start_s=begins_s,
                end_s=begins_s + length_s,
                pts_s=pts_s,
            )
            store.put_record(f"lobby/0/{index}", encode_clip(clip, fingerprint="f1"), lease)
        before = store.list_spans("lobby")
        digests = [store.get_record(span)[32:64] for span in before]
        began_s = time.monotonic()
        kill_while_moving(store, tmp_path / "cold", kills, file_clips, files_between, seed=7)
        took_s = time.monotonic() - began_s
        after = store.list_spans("lobby")
        assert [dataclasses.replace(span, cold=None) for span in after] == before
        assert all(span.cold for span in after)
        assert [store.get_record(span)[32:64] for span in after] == digests
        assert store.verify("lobby").ok
        names = {span.cold.partition("@")[0] for span in after}
        assert set(files_in(store)) == names
        assert sum(store.cold.count_clips("lobby", name) for name in names) == clips
        print(f"\n{clips} clips, {kills} kills: {len(names)} files, {took_s:.0f} s")


def test_a_killed_mover_loses_and_doubles_nothing(serve, info, make_clip, tmp_path):
    check_month(
        serve, info, make_clip, tmp_path, clips=120, kills=1, file_clips=2, files_between=20
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_month_is_moved_under_twenty_kills(serve, info, make_clip, tmp_path):
    check_month(
        serve,
        info,
        make_clip,
        tmp_path,
        clips=MONTH_CLIPS,
        kills=20,
        file_clips=256,
        files_between=8,
    )


def test_a_filesystem_that_is_not_this_machines_is_written_as_a_stream(
    cold_store, lease, make_clip, tmp_path
):
    """By Arrow's own calls alone, as they go to S3 and GCS; on servers of those: `test_folder`."""
    from pyarrow import fs

    base = tmp_path / "bucket"
    (base / cold_store.config.namespace / "lobby").mkdir(parents=True)
    folder = cold_store.cold._folder
    folder._fs, folder._root = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "bucket"
    fill(cold_store, lease, make_clip, 4)
    cool(cold_store, 16.0)
    assert [clip.index for clip in cold_store.iter_clips(cold_store.list_spans("lobby"))] == [
        *range(4)
    ]
    assert len(list(base.rglob("*.parquet"))) == len(files_in(cold_store)) == 1
    cold_store.delete_stream("lobby")
    assert not list(base.rglob("*.parquet"))
