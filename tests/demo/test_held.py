"""Whether holding changes answers: what is counted, and a scene of it from camera to answer."""

import numpy as np
import pytest

from demo.quality.held import MODEL, Difference, Script, Tally, measure
from demo.quality.held_footage import FOOTAGE, quiet_scene, staying_scene
from demo.world.scenes import BLOCK_S


def differing(truth, encoded, moved, held):
    return Difference(1, 0.0, "exist", "?", truth, encoded=encoded, moved=moved, held=held)


def test_changed_answers_are_counted_by_way_and_lost_ones_among_them():
    tally = Tally(
        differences=[
            differing("yes", "yes", "yes", "no"),
            differing("yes", "no", "no", "yes"),
            differing("no", "no", "yes", "no"),
        ]
    )

    assert (tally.count("held"), tally.count("held", lost=True)) == (2, 1)
    assert (tally.count("moved"), tally.count("moved", lost=True)) == (1, 1)


@pytest.mark.parametrize("seed", [510_000, 510_002])
def test_nothing_begins_in_every_other_stretch(seed):
    items = quiet_scene(seed).items

    assert {int(item.start_s // BLOCK_S) % 2 for item in items} == {(seed // 2) % 2}


@pytest.mark.parametrize("seed", [700_000, 700_002])
def test_two_things_stay_and_one_passes_at_a_time(seed):
    items = staying_scene(seed).items
    staying = [item for item in items if item.end_s == 64.0 and item.start_s < 3.0]

    assert 1 <= len(staying) <= 2
    blocks = [int(item.start_s // BLOCK_S) for item in items if item not in staying]
    assert len(blocks) == len(set(blocks)) > 3
    assert FOOTAGE["staying"].starts_s[0] > max(item.start_s for item in staying)


def test_a_cut_begins_another_connection_and_no_second_is_left_out():
    pictures = [np.zeros((4, 4, 3), np.uint8)] * 5

    events = list(Script(pictures, cut_s=3).events())

    assert [connection for connection, _ in events] == [0, 0, 0, 1, 1]
    assert [picture.media_s for _, picture in events] == [0.0, 1.0, 2.0, 0.0, 1.0]
    assert len({picture.arrived_s for _, picture in events}) == 5


@pytest.mark.slow
def test_held_frames_change_no_more_answers_than_where_clips_begin():
    tally = measure(MODEL, [510_000, 510_004], lambda _: None)

    assert tally.questions > 30
    assert tally.wrongly_held == 0
    assert 0 < tally.same < tally.stretches
    assert tally.encoded < tally.frames
    assert tally.count("held") <= max(1, tally.count("moved"))
