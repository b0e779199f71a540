"""Older footage keeps fewer of its tokens: by the rules, in its own place, on every store."""

import dataclasses
import threading
import time

import pytest

from aot.types import TokenKind
from pipeline.ask.question import Question, look_up_stream
from pipeline.store import StoreConfig, open_store
from pipeline.store.arrow import encode_clip
from pipeline.store.cold.moving import cool_stream
from pipeline.store.fading import KEYFRAME, FadeRule, Fading, fade_clip, fade_clips
from pipeline.store.retention import Retention, RetentionRules, fade
from pipeline.values.errors import Conflict, InvalidSettings, StoreUnavailable, UnknownStream
from pipeline.values.types import FadedCounts

TOKENS, BEFORE = 20, 24
"""Of a clip of the tests, and before its reduction."""


@pytest.fixture
def write(store, info, make_clip):
    """`write(count, wall_start_s)`: a stream of so many clips of 4 s; its lease."""

    def write_stream(count, wall_start_s=None, name="lobby"):
        known = dataclasses.replace(info, stream_id=name, wall_start_s=wall_start_s)
        store.put_info(dataclasses.replace(known, updated_at_s=time.time()))
        lease = store.acquire_lease(name, "tests", ttl_s=600)
        for index in range(count):
            clip = make_clip(index, stream_id=name, num_tokens=TOKENS)
            store.put_clip(clip, lease, fingerprint="f1")
        return lease

    return write_stream


def sizes(store, name="lobby"):
    return [(span.num_tokens, span.keep) for span in store.list_spans(name)]


def test_a_faded_clip_is_the_same_clip_with_fewer_tokens(store, write):
    write(3)
    spans = store.list_spans("lobby")
    before = store.get_clip(spans[1])
    fade_clips(store, [spans[1]], 0.25)
    after = store.list_spans("lobby")
    clip = store.get_clip(after[1])
    assert (after[0], after[2]) == (spans[0], spans[2])
    assert (after[1].num_tokens, after[1].keep, clip.level.keep) == (6, 0.25, 0.25)
    assert after[1].size_bytes == len(store.get_record(after[1]))
    assert (clip.pts_s, clip.stats, clip.end_s) == (before.pts_s, before.stats, before.end_s)
    assert float(clip.tokens.mass.sum()) == pytest.approx(float(before.tokens.mass.sum()))
    assert store.verify("lobby").ok


def test_totals_and_index_agree_after_a_fade(store, write):
    write(5)
    before = store.get_overview("lobby").totals
    counts = fade_clips(store, store.list_spans("lobby")[:3], 0.1)
    totals, spans = store.get_overview("lobby").totals, store.list_spans("lobby")
    assert (totals.clips, totals.end_s) == (before.clips, before.end_s)
    assert totals.tokens == sum(span.num_tokens for span in spans)
    assert totals.size_bytes == sum(span.size_bytes for span in spans)
    gone = FadedCounts(3, before.tokens - totals.tokens, before.size_bytes - totals.size_bytes)
    assert counts == gone


def test_fading_twice_is_fading_once(store, write):
    write(3)
    listed = store.list_spans("lobby")
    assert fade_clips(store, listed, 0.1).clips == 3
    records = [store.get_record(span) for span in store.list_spans("lobby")]
    assert fade_clips(store, listed, 0.1).clips == 0  # rows as they were before
    assert fade_clips(store, store.list_spans("lobby"), 0.2).clips == 0
    assert [store.get_record(span) for span in store.list_spans("lobby")] == records


def test_a_clip_keeps_a_token_at_least_and_gains_none(make_clip):
    clip = make_clip(num_tokens=2)
    assert len(fade_clip(clip, 0.001).tokens) == 1
    assert len(fade_clip(clip, 0.9).tokens) == 2
    assert len(fade_clip(make_clip(num_tokens=0), 0.1).tokens) == 0


def test_a_rule_may_leave_the_keyframes_anchors(store, write):
    write(3)
    spans = store.list_spans("lobby")
    before = store.get_clip(spans[1])
    fade_clips(store, spans, 0.5)
    assert fade_clips(store, store.list_spans("lobby"), KEYFRAME).clips == 3
    after = store.list_spans("lobby")
    clip = store.get_clip(after[1])
    assert [span.keep for span in after] == [0.0] * 3
    assert TokenKind.DISTINCT not in clip.tokens.kind.tolist()
    assert 0 < len(clip.tokens) < len(before.tokens)
    assert float(clip.tokens.mass.sum()) == pytest.approx(float(before.tokens.mass.sum()), rel=0.01)
    assert fade_clips(store, after, KEYFRAME).clips == 0
    assert store.verify("lobby").ok


def test_a_reader_who_listed_before_the_fade_reads_the_faded_clip(store, write):
    write(3)
    spans = store.list_spans("lobby")
    fade_clips(store, spans, 0.1)
    assert [len(clip.tokens) for clip in store.iter_clips(spans)] == [2, 2, 2]
    assert store.list_removed(spans) == []


def test_a_clip_that_was_removed_meanwhile_does_not_come_back(store, write):
    write(3)
    spans = store.list_spans("lobby")
    exchanged = store.exchange

    def remove_first(stream_id, exchanges):
        store.delete_range("lobby", 4.0, 8.0)
        return exchanged(stream_id, exchanges)

    store.exchange = remove_first
    counts = fade_clips(store, spans, 0.1)
    assert counts.clips == 2
    assert sizes(store) == [(2, 0.1), (2, 0.1)]
    assert store.verify("lobby").ok


def test_a_clip_that_is_read_from_its_source_again_stays_faded(store, write, make_clip):
    lease = write(2)
    fade_clips(store, store.list_spans("lobby")[:1], 0.1)
    faded = store.list_spans("lobby")
    before = store.get_overview("lobby").totals
    clip = make_clip(0, num_tokens=TOKENS)
    assert store.put_clip(clip, lease, fingerprint="f1") == faded[0]
    assert (store.list_spans("lobby"), store.get_overview("lobby").totals) == (faded, before)
    with pytest.raises(Conflict):
        store.put_clip(make_clip(0, num_tokens=TOKENS, length_s=3.0), lease, fingerprint="f1")


def test_a_faded_record_that_is_imported_over_the_whole_one_changes_nothing(
    store, write, make_clip
):
    lease = write(1)
    before = store.list_spans("lobby")
    faded = fade_clip(store.get_clip(before[0]), 0.1)
    store.put_record("lobby/0/0", encode_clip(faded, fingerprint="f1"), lease)
    assert store.list_spans("lobby") == before


def test_each_rule_takes_what_is_old_enough_for_it(store, write):
    write(10, wall_start_s=1000.0)
    rules = (FadeRule(12.0, 0.5), FadeRule(24.0, 0.1))
    Fading(store, "lobby", rules).turn(1040.0)
    assert sizes(store) == [(2, 0.1)] * 4 + [(12, 0.5)] * 3 + [(20, 1.0)] * 3


def test_turns_go_on_where_the_last_one_ended(store, write, monkeypatch):
    write(10, wall_start_s=1000.0)
    monkeypatch.setattr("pipeline.store.fading.PAGE", 2)
    listed, fading = [], Fading(store, "lobby", (FadeRule(12.0, 0.5), FadeRule(24.0, 0.1)))
    iter_spans = store.iter_spans
    monkeypatch.setattr(
        store, "iter_spans", lambda *range_: (listed.append(range_[1]), iter_spans(*range_))[1]
    )
    assert fading.turn(1040.0, most=4).clips == 4
    assert fading.turn(1040.0).clips == 3
    assert fading.turn(1048.0).clips == 4
    assert listed[-2:] == [12.0, 24.0]
    assert sizes(store) == [(2, 0.1)] * 6 + [(12, 0.5)] * 3 + [(20, 1.0)]


def test_what_was_broken_off_is_found_by_the_next_session(store, write):
    write(6, wall_start_s=1000.0)
    rules = (FadeRule(4.0, 0.1),)
    fade_clips(store, store.list_spans("lobby")[:2], 0.1)
    assert Fading(store, "lobby", rules).turn(2000.0).clips == 4
    assert Fading(store, "lobby", rules).turn(2000.0).clips == 0


def test_a_store_that_fails_is_tried_again_from_there(store, write, monkeypatch):
    write(4, wall_start_s=1000.0)
    fading, exchange = Fading(store, "lobby", (FadeRule(4.0, 0.1),)), store.exchange

    def fail(*_):
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "exchange", fail)
    with pytest.raises(StoreUnavailable):
        fading.turn(2000.0)
    monkeypatch.setattr(store, "exchange", exchange)
    assert fading.turn(2000.0).clips == 4


def test_a_writer_fades_what_is_old_without_waiting_for_it(store, write, make_clip, monkeypatch):
    lease = write(8, wall_start_s=1000.0)
    retention = Retention(store, "lobby", RetentionRules(fade=(FadeRule(4.0, 0.1),)))
    exchange, may_go_on = store.exchange, threading.Event()
    monkeypatch.setattr(store, "exchange", lambda *given: (may_go_on.wait(30), exchange(*given))[1])
    retention.after_write()
    store.put_clip(make_clip(8, num_tokens=TOKENS), lease, fingerprint="f1")
    assert sizes(store) == [(20, 1.0)] * 9
    may_go_on.set()
    turn = retention._upkeep._turn
    assert turn is not None
    turn.join(30)
    assert sizes(store)[:8] == [(2, 0.1)] * 8
    retention.close()
    retention._next_s = 0.0
    retention.after_write()  # it ended: nothing begins any more
    assert retention._upkeep._turn is turn


def test_all_streams_fade_by_one_call(store, write):
    write(2, wall_start_s=1000.0)
    write(3, wall_start_s=1000.0, name="hall")
    counts = dict(fade(store, (FadeRule(60.0, 0.1),)))
    assert {name: one.clips for name, one in counts.items()} == {"hall": 3, "lobby": 2}
    assert dict(fade(store, (FadeRule(60.0, 0.1),))) == {}
    with pytest.raises(UnknownStream):
        dict(fade(store, (FadeRule(60.0, 0.1),), "nobody"))


def test_faded_clips_go_to_the_cold_tier_and_no_turn_of_a_session_fades_cold_ones(
    tmp_path, info, make_clip
):
    config = StoreConfig("memory://", cold=str(tmp_path))
    with open_store(config) as store:
        store.put_info(dataclasses.replace(info, wall_start_s=1000.0))
        lease = store.acquire_lease("lobby", "tests", ttl_s=600)
        for index in range(6):
            store.put_clip(make_clip(index, num_tokens=TOKENS), lease, fingerprint="f1")
        fade_clips(store, store.list_spans("lobby")[:2], 0.1)
        before = [store.get_record(span) for span in store.list_spans("lobby")]
        list(cool_stream(store, "lobby", 1.0, now_s=1017.0))
        spans = store.list_spans("lobby")
        assert [span.cold is not None for span in spans] == [True] * 4 + [False] * 2
        assert [store.get_record(span) for span in spans] == before
        assert Fading(store, "lobby", (FadeRule(1.0, 0.05),)).turn(2000.0).clips == 2
        assert [span.keep for span in store.list_spans("lobby")] == [0.1, 0.1, 1, 1, 0.05, 0.05]
        lease_again = store.put_clip(make_clip(0, num_tokens=TOKENS), lease, fingerprint="f1")
        assert lease_again == store.list_spans("lobby")[0]


def test_coverage_is_what_it_was(store, write):
    write(6, wall_start_s=1000.0)
    asked = Question("what is seen", ("lobby",))
    before = look_up_stream(store, "lobby", asked)
    fade_clips(store, store.list_spans("lobby"), 0.05)
    after = look_up_stream(store, "lobby", asked)
    assert (after.footage_s, after.asked_s) == (before.footage_s, before.asked_s)


@pytest.mark.parametrize(
    "rules",
    [
        [FadeRule(0.0, 0.5)],
        [FadeRule(10.0, 1.0)],
        [FadeRule(10.0, -0.1)],
        [FadeRule(10.0, KEYFRAME), FadeRule(20.0, 0.1)],
        [FadeRule(10.0, 0.1), FadeRule(10.0, 0.05)],
        [FadeRule(10.0, 0.1), FadeRule(20.0, 0.1)],
    ],
)
def test_rules_that_do_not_follow_each_other_are_refused(rules):
    with pytest.raises(InvalidSettings, match=r"retention\.fade"):
        RetentionRules(fade=tuple(rules))


def test_a_command_fades_what_settings_say(run, video, opened, monkeypatch):
    assert run("ingest", video, "--stream", "walk").code == 0
    assert run("clips", "fade").code == 2
    before = opened.get_overview("walk").totals
    monkeypatch.setenv("AOT_RETENTION__FADE", '[{"after": "1m", "keep": "2%"}]')
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 120.0)
    faded = run("clips", "fade", "--json").json["streams"]["walk"]
    totals = opened.get_overview("walk").totals
    assert faded["clips"] == before.clips == totals.clips
    assert before.tokens - faded["tokens"] == totals.tokens < before.tokens / 2
    assert "nothing is old enough" in run("clips", "fade", "walk").out
    assert run("clips", "verify", "walk").code == 0
    assert run("ingest", video, "--stream", "walk").code == 0
    assert opened.get_overview("walk").totals == totals


def test_faded_clips_travel_as_they_are(tmp_path, run, video, opened, monkeypatch):
    assert run("ingest", video, "--stream", "walk").code == 0
    fade_clips(opened, opened.list_spans("walk")[:2], 0.02)
    spans = opened.list_spans("walk")
    path = tmp_path / "walk.arrow"
    assert run("clips", "export", "walk", "-o", path).code == 0
    opened.delete_stream("walk")
    assert run("clips", "import", "walk", path).code == 0
    assert opened.list_spans("walk") == spans


def test_a_reader_during_a_fade_sees_the_old_or_the_new(serve, info, make_clip):
    """Every clip that is read is wholly one or the other, and its row is that of a record."""
    config = StoreConfig(serve().url)
    with open_store(config) as store, open_store(config) as beside:
        store.put_info(info)
        lease = store.acquire_lease("lobby", "tests", ttl_s=600)
        for index in range(60):
            store.put_clip(make_clip(index, num_tokens=TOKENS), lease, fingerprint="f1")
        whole = {n: store.get_record(span) for n, span in enumerate(store.list_spans("lobby"))}
        levels = [1.0, 0.5, 0.25, 0.1]
        seen, done = set(), threading.Event()

        def read():
            while not done.is_set():
                spans = beside.list_spans("lobby")
                assert {span.keep for span in spans} <= set(levels)
                for clip in beside.iter_clips(spans):
                    seen.add((clip.index, clip.level.keep, encode_clip(clip, fingerprint="f1")))
                assert beside.get_overview("lobby").totals.clips == 60

        failures = []
        reader = threading.Thread(target=lambda: _collect(read, failures))
        reader.start()
        expected = {(n, 1.0, blob) for n, blob in whole.items()}
        for keep in levels[1:]:
            for at in range(0, 60, 4):
                fade_clips(store, store.list_spans("lobby")[at : at + 4], keep)
            spans = store.list_spans("lobby")
            expected |= {(s.index, s.keep, store.get_record(s)) for s in spans}
        done.set()
        reader.join(60)
        assert not failures
        assert seen <= expected
        assert len({keep for _, keep, _ in seen}) >= 2


def _collect(body, failures):
    try:
        body()
    except BaseException as error:
        failures.append(error)
