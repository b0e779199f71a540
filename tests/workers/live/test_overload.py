"""The ladder: down after being late for some time, up after a longer calm."""

from workers.live.overload import LADDER, OverloadLadder


def climb(*waits, away_s=0.0):
    """The rung after frames a second apart that waited so long; the first one as no worker was
    there for so long."""
    ladder = OverloadLadder()
    for now_s, waited_s in enumerate(waits):
        ladder.observe(waited_s, float(now_s), away_s=0.0 if now_s else away_s)
    return ladder.rung.name


def test_one_late_frame_changes_nothing():
    assert climb(0.1, 9.0, 0.1, 9.0, 0.1) == "full"


def test_being_late_for_some_time_is_a_step_down():
    assert climb(*[5.0] * 4) == "half-rate"


def test_steps_go_down_to_the_last_rung_and_no_further():
    assert climb(*[5.0] * 100) == LADDER[-1].name


def test_a_step_up_takes_a_longer_calm():
    assert climb(*[5.0] * 4, *[0.1] * 20) == "half-rate"
    assert climb(*[5.0] * 4, *[0.1] * 40) == "full"


def test_a_late_frame_begins_the_calm_anew():
    assert climb(*[5.0] * 4, *[0.1] * 25, 5.0, *[0.1] * 25) == "half-rate"


def test_what_piled_up_is_caught_up_with_and_costs_nothing():
    """As after a start, while the model was loaded."""
    assert climb(*(20.0 - 0.6 * second for second in range(60))) == "full"


def test_catching_up_too_slowly_is_being_late():
    assert climb(*(20.0 - 0.3 * second for second in range(4))) == "half-rate"


def test_one_that_stops_catching_up_is_late_from_then_on():
    waits = [*(20.0 - second for second in range(9)), *[12.0] * 6]
    assert climb(*waits[:10]) == "full"
    assert climb(*waits) == "half-rate"


def test_what_piled_up_without_a_worker_may_be_caught_up_with_slowly():
    waits = [max(0.1, 10.0 - 0.2 * second) for second in range(80)]
    assert climb(*waits) != "full"
    assert climb(*waits, away_s=9.8) == "full"


def test_without_being_caught_up_with_it_is_being_late():
    assert climb(*[10.0] * 16, away_s=9.8) == "full"
    assert climb(*[10.0] * 40, away_s=9.8) != "full"


def test_a_worker_that_was_away_does_not_begin_the_calm_anew():
    """Killed every eight seconds, each time for five: what was read less is read again."""
    ladder, now_s, rungs = OverloadLadder(), 0.0, []
    for waited_s in [5.0] * 4:
        now_s += 1.0
        ladder.observe(waited_s, now_s)
    assert ladder.rung.name == "half-rate"
    for _ in range(6):
        for waited_s, away_s in [(5.0, 5.0), (3.5, 0.0), (2.0, 0.0), (0.1, 0.0)]:
            now_s += 5.0 if away_s else 1.0
            ladder.observe(waited_s, now_s, away_s=away_s)
        rungs.append(ladder.rung.name)
    assert set(rungs) == {"half-rate", "full"}
    assert rungs[-1] == "full"


def test_workers_that_die_all_the_time_are_overload():
    """Away for six seconds of ten, and no faster between than pictures come."""
    ladder, waited_s, now_s = OverloadLadder(), 0.0, 0.0
    for second in range(200):
        now_s, away_s = float(second), 6.0 if second % 10 == 0 else 0.0
        waited_s += away_s
        ladder.observe(waited_s, now_s, away_s=away_s)
    assert ladder.rung.name == LADDER[-1].name
