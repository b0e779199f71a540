"""Sampling grid, wraps, epochs: arithmetic on timestamps, no video."""

from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.decode.clock import MPEG_TIME_BASE, unwrap_packets
from workers.decode.sampling import Sampler, SamplingGrid
from workers.decode.timeline import HoldLimits, Timeline

MILLI = Fraction(1, 1000)


@dataclass
class FakePacket:
    pts: int | None
    dts: int | None = None
    duration: int | None = None
    is_keyframe: bool = False
    is_discard: bool = False


def unwrap(packets: list[FakePacket], time_base: Fraction = MPEG_TIME_BASE) -> list[tuple]:
    timed = unwrap_packets(packets, time_base, 3600)
    return [(t.epoch, t.packet.pts, t.timed) for t in timed]


def test_every_wrap_is_unwrapped():
    step, wrap = 2**31, 2**33
    true_times = [step * i for i in range(14)]  # three wraps
    packets = [FakePacket(t % wrap, t % wrap) for t in true_times]
    assert unwrap(packets) == [(0, t, True) for t in true_times]


def test_pictures_decoded_before_a_wrap_and_shown_behind_it_are_unwrapped():
    wrap = 2**33
    true_times = [(wrap - 3, wrap - 4), (wrap + 1, wrap - 3), (wrap - 1, wrap - 2), (wrap, wrap)]
    packets = [FakePacket(pts % wrap, dts % wrap) for pts, dts in true_times]
    assert [pts for _, pts, _ in unwrap(packets)] == [pts for pts, _ in true_times]


def test_a_step_back_beyond_a_second_is_a_new_epoch():
    packets = [FakePacket(t, t) for t in (0, 90_000, 180_000, 0, 90_000)]
    assert [epoch for epoch, _, _ in unwrap(packets)] == [0, 0, 0, 1, 1]


def test_a_small_step_back_is_disorder_in_the_same_epoch():
    packets = [FakePacket(t, t) for t in (0, 90_000, 50_000, 140_000)]
    assert [epoch for epoch, _, _ in unwrap(packets)] == [0, 0, 0, 0]


def test_a_clock_that_is_not_mpegs_does_not_wrap():
    packets = [FakePacket(t, t) for t in (2**33 - 1000, 0)]
    assert [epoch for epoch, _, _ in unwrap(packets, MILLI)] == [0, 1]


def test_packets_without_any_time_follow_the_one_before():
    packets = [FakePacket(0, 0, 3000), FakePacket(None), FakePacket(None, None, 3000)]
    assert unwrap(packets) == [(0, 0, True), (0, 3000, False), (0, 6600, False)]


def test_first_packets_without_a_decode_time_are_no_jump_back():
    """As Matroska's are: their presentation times are of another clock than the first dts."""
    times = [(0, None), (4000, None), (2000, 0), (1000, 1000), (3000, 2000), (8000, 3000)]
    packets = [FakePacket(pts, dts, 1000) for pts, dts in times]
    assert [epoch for epoch, _, _ in unwrap(packets, MILLI)] == [0] * 6


def test_presentation_times_alone_start_an_epoch_at_a_keyframe_only():
    packets = [FakePacket(pts) for pts in (0, 9000, 3000, 6000, 0, 9000)]
    packets[4].is_keyframe = True
    assert [epoch for epoch, _, _ in unwrap(packets, MILLI)] == [0, 0, 0, 0, 1, 1]


def test_an_mpeg_clock_set_back_by_an_hour_is_a_new_epoch_and_no_wrap():
    hour = 3600 * 90_000
    packets = [FakePacket(t, t) for t in (hour, hour + 3600, 0, 3600)]
    assert unwrap(packets)[2:] == [(1, 0, True), (1, 3600, True)]


def test_a_picture_ends_at_the_next_one_whatever_the_decode_order():
    packets = [FakePacket(p, d, 10) for p, d in ((0, 0), (30, 10), (10, 20), (20, 30), (40, 40))]
    (timeline,) = {t.timeline for t in unwrap_packets(packets, MILLI, 10)}
    assert [timeline.look_up(t)[0] for t in (0, 10, 20, 30, 40)] == [10, 20, 30, 40, None]


def test_a_jump_of_the_decode_clock_is_told_from_a_long_picture():
    told = [FakePacket(t, t, d) for t, d in ((0, 60_000), (60_000, 10))]
    untold = [FakePacket(t, t, d) for t, d in ((0, 40), (60_000, 10))]
    for packets, ran_on in ((told, True), (untold, False)):
        (timeline,) = {t.timeline for t in unwrap_packets(packets, MILLI, 10)}
        assert timeline.look_up(0)[:2] == (60_000, ran_on)


@pytest.mark.parametrize(
    ("container", "stretch", "duration", "end"),
    [
        ("mov,mp4", 0, 0, 300_000),  # the clock ran on: shown until the next one
        ("mov,mp4", 1, 33, 33),  # fragments were lost
        ("matroska,webm", 1, 33, 120_000),  # nobody says so: two minutes
        ("matroska,webm", 1, 200_000, 200_000),  # a block's duration says so
        ("mpegts", 1, 33, 33),  # packets were lost
    ],
)
def test_how_long_a_picture_holds(container: str, stretch: int, duration: int, end: int):
    timeline = Timeline(0)
    timeline.add(0, 0, duration)
    timeline.add(300_000, stretch, 33)
    assert HoldLimits.of(container, MILLI, None).end(timeline, 0) == end


@pytest.mark.parametrize(
    ("container", "end"), [("matroska,webm", 240_000), ("mov,mp4", 33), ("mpegts", 33)]
)
def test_a_limit_given_holds_where_the_container_says_nothing(container: str, end: int):
    timeline = Timeline(0)
    timeline.add(0, 0, 33)
    timeline.add(300_000, 1, 33)
    assert HoldLimits.of(container, MILLI, 240.0).end(timeline, 0) == end


def test_no_picture_holds_longer_than_the_limit():
    timeline = Timeline(0)
    timeline.add(0, 0, 90_000)
    timeline.add(90_000, 0, 90_000)
    limits = HoldLimits.of("mov,mp4", MILLI, 50.0)
    assert [limits.end(timeline, t) for t in (0, 90_000)] == [50_000, 140_000]


def test_a_held_picture_is_sampled_where_no_other_comes():
    sampler = Sampler(SamplingGrid(MILLI, 0, 1.0))
    assert sampler.take(200, 700) == [200]
    assert sampler.take(700, 5400) == [1000, 2000, 3000, 4000]
    assert sampler.take(5400, 5440) == [5400]


def test_a_picture_held_for_less_than_a_gap_is_sampled_once():
    sampler = Sampler(SamplingGrid(MILLI, 0, 1.0))
    assert [sampler.take(t, t + 3000) for t in (0, 3000, 6000)] == [[0], [3000], [6000]]


def test_a_range_that_begins_in_a_held_picture_begins_with_it():
    sampler = Sampler(SamplingGrid(MILLI, 0, 0.5, start_s=31.0, end_s=36.0))
    assert sampler.take(0, 60_000) == [31_000, 33_000, 35_000]


def test_slots_are_half_open():
    grid = SamplingGrid(MILLI, 0, 1.0)
    assert [grid.slot(t) for t in (0, 998, 1000, 1999, 2000)] == [0, 0, 1, 1, 2]


def test_a_frame_half_a_tick_early_is_on_its_target():
    grid = SamplingGrid(MILLI, 0, 30.0)
    assert [grid.slot(t) for t in (0, 33, 67, 100)] == [0, 1, 2, 3]


def test_a_coarse_clock_gets_no_more_than_half_a_millisecond():
    grid = SamplingGrid(Fraction(1, 30), 0, 7.0)  # target 1 is at 4.29 ticks
    assert [grid.slot(t) for t in (4, 5)] == [0, 1]


def test_nothing_before_the_start_nor_from_the_end_on():
    grid = SamplingGrid(MILLI, 500, 2.0, start_s=1.0, end_s=2.0)
    assert [grid.slot(t) for t in (1499, 1500, 2499, 2500)] == [None, 0, 1, None]
    assert grid.seconds(1500) == 1.0
    assert grid.ticks(1.0) == 1500


def test_no_rate_keeps_every_tick():
    sampler = Sampler(SamplingGrid(MILLI, 0, None))
    assert [sampler.take(t) for t in (0, 1, 1, 0, 2)] == [[0], [1], [], [], [2]]


def pictures(ticks: list[int]) -> list[tuple[int, None]]:
    """Pictures of which nobody knows how long they are shown."""
    return [(tick, None) for tick in ticks]


TICKS = st.lists(st.integers(0, 20_000), min_size=1, max_size=60, unique=True)
RATES = st.sampled_from([0.1, 0.5, 1.0, 2.0, 7.3, 29.97, None])


@given(TICKS, RATES)
def test_planning_ahead_and_choosing_on_the_way_agree(ticks: list[int], fps: float | None):
    sampler = Sampler(SamplingGrid(MILLI, 0, fps))
    planned = sampler.select(pictures(ticks))
    assert planned == [t for t in sorted(ticks) if sampler.take(t)]


@given(TICKS, RATES, st.data())
def test_a_resumed_sampler_continues_the_same_grid(
    ticks: list[int], fps: float | None, data: st.DataObject
):
    whole = Sampler(SamplingGrid(MILLI, 0, fps)).select(pictures(ticks))
    done = data.draw(st.integers(0, len(whole) - 1))
    grid = SamplingGrid(MILLI, 0, fps)
    resumed = Sampler(grid, last=grid.ticks(grid.seconds(whole[done])))
    assert resumed.select(pictures(ticks)) == whole[done + 1 :]


@given(TICKS, RATES, st.data())
def test_held_pictures_are_planned_taken_and_resumed_alike(
    ticks: list[int], fps: float | None, data: st.DataObject
):
    ends = [*sorted(ticks)[1:], max(ticks) + 5000]
    shown = list(zip(sorted(ticks), ends, strict=True))
    grid = SamplingGrid(MILLI, 0, fps)
    sampler, taken = Sampler(grid), {}
    for tick, until in shown:
        taken[tick] = sampler.take(tick, until)
    assert Sampler(grid).select(shown) == [tick for tick, samples in taken.items() if samples]
    samples = [at for of_one in taken.values() for at in of_one]
    slots = [grid.slot(at) for at in samples]
    assert samples == sorted(set(samples))
    assert len(set(slots)) == len(slots)
    assert all(tick <= at < until for tick, until in shown for at in taken[tick])
    done = data.draw(st.integers(0, len(samples) - 1))
    resumed = Sampler(grid, last=grid.ticks(grid.seconds(samples[done])))
    assert [at for tick, until in shown for at in resumed.take(tick, until)] == samples[done + 1 :]


@given(TICKS)
def test_chosen_frames_are_the_first_at_or_after_each_target(ticks: list[int]):
    chosen = Sampler(SamplingGrid(MILLI, 0, 2.0)).select(pictures(ticks))
    naive = []
    for k in range(42):
        behind = [t for t in sorted(ticks) if t + 0.5 >= k * 500]
        if behind and behind[0] not in naive:
            naive.append(behind[0])
    assert chosen == naive


@pytest.mark.parametrize("seconds", [0.04, 3599.96, 86_399.9667])
def test_seconds_and_ticks_are_inverse(seconds: float):
    grid = SamplingGrid(MPEG_TIME_BASE, 123_456_789, 1.0)
    assert abs(grid.seconds(grid.ticks(seconds)) - seconds) <= 1 / 180_000
    assert grid.ticks(grid.seconds(987_654_321)) == 987_654_321
