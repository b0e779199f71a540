"""Sampling grid, wraps, epochs: arithmetic on timestamps, no video."""

from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.decode.clock import MPEG_TIME_BASE, Sampler, SamplingGrid, unwrap_packets

MILLI = Fraction(1, 1000)


@dataclass
class FakePacket:
    pts: int | None
    dts: int | None = None
    duration: int | None = None


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
    assert unwrap(packets) == [(0, 0, True), (0, 3600, False), (0, 6600, False)]


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
    assert [sampler.choose(t) for t in (0, 1, 1, 0, 2)] == [True, True, False, False, True]


TICKS = st.lists(st.integers(0, 20_000), min_size=1, max_size=60, unique=True)
RATES = st.sampled_from([0.1, 0.5, 1.0, 2.0, 7.3, 29.97, None])


@given(TICKS, RATES)
def test_planning_ahead_and_choosing_on_the_way_agree(ticks: list[int], fps: float | None):
    sampler = Sampler(SamplingGrid(MILLI, 0, fps))
    planned = sampler.select(ticks)
    assert planned == [t for t in sorted(ticks) if sampler.choose(t)]


@given(TICKS, RATES, st.data())
def test_a_resumed_sampler_continues_the_same_grid(
    ticks: list[int], fps: float | None, data: st.DataObject
):
    whole = Sampler(SamplingGrid(MILLI, 0, fps)).select(ticks)
    done = data.draw(st.integers(0, len(whole) - 1))
    grid = SamplingGrid(MILLI, 0, fps)
    resumed = Sampler(grid, last=grid.ticks(grid.seconds(whole[done])))
    assert resumed.select(ticks) == whole[done + 1 :]


@given(TICKS)
def test_chosen_frames_are_the_first_at_or_after_each_target(ticks: list[int]):
    chosen = Sampler(SamplingGrid(MILLI, 0, 2.0)).select(ticks)
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
