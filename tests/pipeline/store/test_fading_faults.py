"""Fading through kills, on a real server, and for a month."""

import random
import signal

import pytest

from pipeline.store import StoreConfig, open_store
from pipeline.store.fading import FadeRule, Fading
from pipeline.store.memory import MemoryStore
from pipeline.values.types import StreamTotals
from tests.pipeline.store.killed import run_killed

DAY_S = 86_400.0
FADE = """
from pipeline.store import StoreConfig, fading, open_store
from pipeline.store.retention import FadeRule

url, keep = arguments
fading.PAGE = 3
with open_store(StoreConfig(url)) as store:
    fading.Fading(store, "lobby", [FadeRule(1.0, float(keep))]).turn(1e9)
"""


def fill(store, info, make_clip, count):
    store.put_info(info)
    lease = store.acquire_lease("lobby", "tests", ttl_s=600)
    for index in range(count):
        store.put_clip(make_clip(index, num_tokens=20), lease, fingerprint="f1")
    return store.list_spans("lobby")


def assert_whole(store, client, given, keep):
    """Every clip is there, each at one level or the other; how many were faded."""
    spans, totals = store.list_spans("lobby"), StreamTotals()
    for span in spans:
        totals = totals.plus(span)
    assert [(s.index, s.start_s, s.end_s) for s in spans] == [
        (s.index, s.start_s, s.end_s) for s in given
    ]
    assert store.verify("lobby").ok
    assert store.get_overview("lobby").totals == totals
    assert len(client.keys("aot:{lobby}:clip:*")) == len(spans)
    for span, clip in zip(spans, store.iter_clips(spans), strict=True):
        assert (len(clip.tokens), clip.level.keep) == (span.num_tokens, span.keep)
        assert clip.stats.tokens_out == 20  # what it was is known
    return sum(span.keep == keep for span in spans)


def run_through_kills(serve, info, make_clip, points, clips):
    server, rng, seen = serve(), random.Random(5), []
    with open_store(StoreConfig(server.url)) as store:
        given = fill(store, info, make_clip, clips)
        for turn in range(points):
            keep = 0.5 / 2 ** (turn // 5)
            kill_at = rng.randint(1, clips // 3)
            code = run_killed(FADE, kill_at, server.url, keep, sends_it=bool(turn % 2))
            assert code in (-signal.SIGKILL, 0)
            seen.append(assert_whole(store, server.client(), given, keep))
        assert len(set(seen) - {0, clips}) >= min(2, points)  # kills did fall into the middle
        Fading(store, "lobby", [FadeRule(1.0, 0.01)]).turn(1e9)
        assert assert_whole(store, server.client(), given, 0.01) == clips


def test_a_fade_that_is_killed_at_seeded_points_loses_nothing(serve, info, make_clip):
    run_through_kills(serve, info, make_clip, points=3, clips=60)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_fade_that_is_killed_at_twenty_seeded_points_loses_nothing(serve, info, make_clip):
    run_through_kills(serve, info, make_clip, points=20, clips=120)


def test_a_server_that_is_killed_has_each_page_faded_or_not(serve, info, make_clip, monkeypatch):
    monkeypatch.setattr("pipeline.store.fading.PAGE", 3)
    server = serve("--appendonly", "yes", "--appendfsync", "always")
    with open_store(StoreConfig(server.url)) as store:
        given = fill(store, info, make_clip, 30)
        fading = Fading(store, "lobby", [FadeRule(1.0, 0.1)])
        for most in (9, 18):
            fading.turn(1e9, most=most - assert_whole(store, server.client(), given, 0.1))
            server.kill()
            server.start()
            assert assert_whole(store, server.client(), given, 0.1) == most


RULES = (FadeRule(DAY_S, 0.02), FadeRule(7 * DAY_S, 0.002))
RECORD_BYTES, TIME_BYTES = 1_800, 10
"""Of a record without its tokens: header and schema, and of every frame its time as text."""


def bound_bytes(clip_s: float, before: int, width: int, days: float) -> float:
    """Most bytes of a stream that fades by `RULES`, written at 10 %."""
    per_day, token_bytes = DAY_S / clip_s, 2 * width + 9
    record_bytes = RECORD_BYTES + TIME_BYTES * clip_s
    ages = [(1.0, 0.10), (min(days, 7.0) - 1.0, 0.02), (max(0.0, days - 7.0), 0.002)]
    return sum(
        age * per_day * (record_bytes + max(1, int(keep * before)) * token_bytes)
        for age, keep in ages
    )


def simulate(info, make_clip, *, days: float, clip_s: float, before: int, width: int) -> None:
    """A stream that is written and faded turn by turn; its bytes are bounded at every hour."""
    import dataclasses

    store, wall_s = MemoryStore(), 1.7e9
    store.put_info(dataclasses.replace(info, wall_start_s=wall_s))
    lease = store.acquire_lease("lobby", "tests", ttl_s=DAY_S)
    fading, size_bytes, most = Fading(store, "lobby", RULES), 0, 0
    shown = make_clip(0, num_tokens=int(0.10 * before), width=width)
    stats = dataclasses.replace(shown.stats, tokens_in=before, tokens_out=int(0.10 * before))
    frames = round(clip_s)
    for index in range(int(days * DAY_S / clip_s)):
        start_s = index * clip_s
        clip = dataclasses.replace(
            shown,
            index=index,
            start_s=start_s,
            end_s=start_s + clip_s,
            pts_s=tuple(start_s + float(second) for second in range(frames)),
            stats=stats,
        )
        size_bytes += store.put_clip(clip, lease, fingerprint="f1").size_bytes
        if index % int(3600 / clip_s) == 0:
            size_bytes -= fading.turn(wall_s + start_s).size_bytes
            most = max(most, size_bytes)
            # An hour is what a turn may be late.
            assert size_bytes <= bound_bytes(clip_s, before, width, days) * (1 + 1 / 24)
    assert store.get_overview("lobby").totals.size_bytes == size_bytes
    assert {span.keep for span in store.list_spans("lobby")} == {1.0, 0.02, 0.002}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_month_at_one_frame_a_second_stays_under_its_bound(info, make_clip):
    simulate(info, make_clip, days=30, clip_s=256.0, before=1000, width=16)
