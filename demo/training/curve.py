"""The training curve of the language half, out of the run's log: `python -m demo.training.curve`.

    python -m demo.training.curve runs/demo/train.log --out docs/training.svg

One line a kind, the mean over it; the step of a restarted run counts on. Prints the steps and the
wall time of the run, waits between restarts left out.
"""

import argparse
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from demo.world.questions import KINDS

_LINE = re.compile(r"^(\S+ \S+) language (\d+) \d+ s .*? mean=(\S+) (.*)$")
_LONGEST_PAUSE_S = 120.0
"""Between two lines of one run; more is a restart."""


@dataclass(frozen=True)
class Point:
    """One line of the log."""

    step: int
    wall_s: float
    """Since the first line, without pauses."""
    mean: float
    kinds: dict[str, float]


def read_log(lines: Iterable[str]) -> list[Point]:
    """Points of a log in order; where a restart went back, the later run counts."""
    points: list[Point] = []
    wall_s, before = 0.0, None
    for match in filter(None, map(_LINE.match, lines)):
        at = datetime.fromisoformat(match[1].replace(",", "."))
        passed_s = (at - before).total_seconds() if before else 0.0
        wall_s += passed_s if passed_s < _LONGEST_PAUSE_S else 0.0
        before, step = at, int(match[2])
        kinds = {k: float(v) for k, v in (pair.split("=") for pair in match[4].split())}
        points = [point for point in points if point.step < step]
        points.append(Point(step, wall_s, float(match[3]), kinds))
    return points


def plot(points: list[Point], path: Path) -> None:
    """Accuracy while training against the step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    steps = [point.step for point in points]
    for kind in KINDS:
        curve = [point.kinds.get(kind, 0.0) for point in points]
        axes.plot(steps, curve, lw=0.8, alpha=0.6)
        axes.annotate(kind, (steps[-1], curve[-1]), fontsize=6, xytext=(3, -2),
                      textcoords="offset points")  # fmt: skip
    axes.plot(steps, [point.mean for point in points], "k", lw=2, label="mean of the kinds")
    axes.set_xlabel("step of the language half")
    axes.set_ylabel("answers right while training")
    axes.set_xlim(0, steps[-1] * 1.15)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Parse the command line, draw, print where the run ended."""
    parser = argparse.ArgumentParser(prog="python -m demo.training.curve", description=__doc__)
    parser.add_argument("log", type=Path, nargs="?", default=Path("runs/demo/train.log"))
    parser.add_argument("--out", type=Path, default=Path("docs/training.svg"))
    options = parser.parse_args()
    points = read_log(options.log.read_text().splitlines())
    if not points:
        raise SystemExit(f"{options.log} holds no line of the language half; train first")
    plot(points, options.out)
    last = points[-1]
    print(f"{last.step + 1} steps, {last.wall_s / 60:.0f} minutes, mean {last.mean:.3f}")


if __name__ == "__main__":
    main()
