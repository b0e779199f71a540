"""The curve is read from the log's own lines; a restart replaces what it repeats."""

from demo.training.curve import plot, read_log
from demo.world.questions import KINDS


def line(at, step, mean):
    kinds = " ".join(f"{kind}={mean:.2f}" for kind in KINDS)
    return f"2026-01-01 {at},000 language {step} 9 s loss=1.0 facts=0.2 mean={mean:.3f} {kinds}"


LOG = [
    line("10:00:00", 0, 0.0),
    line("10:01:00", 25, 0.3),
    line("10:01:30", 50, 0.1),
    "2026-01-01 10:01:31,000 tower 20 3 s {}",
    line("11:00:00", 25, 0.4),
    line("11:00:20", 50, 0.5),
]


def test_points_are_the_steps_in_order_and_the_later_run_counts():
    points = read_log(LOG)
    assert [(p.step, p.mean) for p in points] == [(0, 0.0), (25, 0.4), (50, 0.5)]
    assert points[-1].kinds["when"] == 0.5


def test_wall_time_leaves_out_the_wait_between_runs():
    assert read_log(LOG)[-1].wall_s == 60 + 30 + 20


def test_plot_is_a_picture(tmp_path):
    plot(read_log(LOG), tmp_path / "curve.svg")
    assert "<svg" in (tmp_path / "curve.svg").read_text()
