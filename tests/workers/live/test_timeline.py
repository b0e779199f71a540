"""Live pictures on the stream's line: rising through all epochs, true to the wall clock."""

import numpy as np
import pytest

from workers.decode.live import Picture
from workers.live.timeline import DRIFT_PICTURES, Timeline

BEGAN_S = 1_800_000_000.0
RGB = np.zeros((2, 2, 3), np.uint8)


def picture(media_s, arrived_s, *, epoch=0, sent_s=None):
    return Picture(RGB, float(media_s), epoch, BEGAN_S + arrived_s, sent_s=sent_s)


def place_all(timeline, *pictures, connection=0):
    return [timeline.place(connection, each, interval_s=1.0) for each in pictures]


def test_the_first_picture_is_second_0():
    [place] = place_all(Timeline(BEGAN_S), picture(0.0, 0.0))

    assert (place.pts_s, place.wall_s, place.epoch, place.clock) == (0.0, BEGAN_S, 0, "arrival")


def test_within_an_epoch_the_cameras_clock_counts():
    late = [picture(i, i + jitter) for i, jitter in enumerate([0, 0.4, 0.1, 0.7])]

    assert [place.pts_s for place in place_all(Timeline(BEGAN_S), *late)] == [0.0, 1.0, 2.0, 3.0]


def test_a_reconnect_lies_where_the_wall_clock_says():
    timeline = Timeline(BEGAN_S)
    place_all(timeline, picture(0.0, 0.0), picture(1.0, 1.0))

    [place] = place_all(timeline, picture(0.0, 60.0), connection=1)

    assert (place.pts_s, place.epoch, place.starts_epoch) == (60.0, 1, True)


def test_an_epoch_never_begins_before_the_last_one_ended():
    timeline = Timeline(BEGAN_S)
    place_all(timeline, *(picture(i, i / 10) for i in range(10)))  # read faster than it happened

    [place] = place_all(timeline, picture(0.0, 1.1), connection=1)

    assert place.pts_s == 10.0


def test_a_senders_clock_is_preferred():
    [place] = place_all(Timeline(BEGAN_S), picture(0.0, 2.0, sent_s=BEGAN_S + 0.5))

    assert (place.pts_s, place.clock) == (0.5, "source")


def test_a_senders_clock_that_was_never_set_is_not_believed():
    [place] = place_all(Timeline(BEGAN_S), picture(0.0, 2.0, sent_s=3.0))

    assert (place.wall_s, place.clock) == (BEGAN_S + 2.0, "arrival")


def test_another_run_goes_on_behind_the_first():
    timeline = Timeline(BEGAN_S, epoch=4, end_s=100.0)

    [place] = place_all(timeline, picture(0.0, 250.0))

    assert (place.pts_s, place.epoch) == (250.0, 5)


def test_a_host_clock_set_back_does_not_set_the_stream_back():
    timeline = Timeline(BEGAN_S, epoch=4, end_s=100.0)

    [place] = place_all(timeline, picture(0.0, -3600.0))

    assert place.pts_s == 100.0


@pytest.mark.parametrize(("ppm", "bound_s"), [(-2000, 2.5), (2000, 11.5)])
def test_a_clock_that_runs_away_is_laid_anew(ppm, bound_s):
    timeline = Timeline(BEGAN_S)
    placed = [
        (i, place)
        for i in range(9000)
        if (place := timeline.place(0, picture(i * (1 + ppm / 1e6), i), interval_s=1.0))
    ]

    steps = np.diff([place.pts_s for _, place in placed])
    drifts = [place.wall_s - BEGAN_S - i for i, place in placed]
    assert placed[-1][1].epoch >= 1
    assert len(placed) > 8970
    assert steps.min() > 0
    assert max(map(abs, drifts)) < bound_s


def test_a_beginning_that_comes_all_at_once_is_no_drift():
    arrivals = [0.0] * 8 + [float(i) for i in range(1, 100)]

    places = place_all(Timeline(BEGAN_S), *(picture(i, at) for i, at in enumerate(arrivals)))

    assert {place.epoch for place in places} == {0}


def test_one_late_arrival_is_no_drift():
    timeline = Timeline(BEGAN_S)
    arrivals = [float(i) for i in range(3 * DRIFT_PICTURES)]
    arrivals[20] += 30.0

    places = place_all(timeline, *(picture(i, at) for i, at in enumerate(arrivals)))

    assert {place.epoch for place in places} == {0}
