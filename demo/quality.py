"""`aot bench quality`: what every reducer costs in answers, at equal measured numbers of tokens.

    python -m demo.quality --model demo/model --out docs

The vision half sees each scene once; every reducer works on the same features and every answer is
read from what it keeps. Scenes have the seeds for reporting, constants were chosen on others
(`demo.choose`). The miniature is a toy: what is measured is relative. A table for people, and one
last line of JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from demo.contestants import CONTESTANTS, TOKENS_PER_CLIP, open_contestant
from demo.evaluate import (
    Evaluation,
    WatchedScene,
    evaluate,
    report_seeds,
    watch_scenes,
)
from demo.intervals import Bootstrap, Interval
from demo.questions import KINDS

MODEL = Path(__file__).parent / "model"
RETENTIONS = (1.0, 0.5, 0.25, 0.15, 0.10, 0.05)
DEFAULT = "aot"
"""The shipped reducer."""
FOCUS = 0.10
"""The retention at which reducers are compared in pairs and by kind."""

Results = dict[str, dict[float, Evaluation]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Figures:
    """All evaluations on one set of scenes, and the draws that judge them."""

    results: Results
    bootstrap: Bootstrap
    scenes: int

    def estimate(self, name: str, retention: float) -> Interval:
        """Accuracy of a reducer."""
        return self.bootstrap.estimate(self.results[name][retention])

    def compare(self, one: str, other: str, retention: float = FOCUS) -> Interval:
        """Accuracy of one reducer minus another's, paired by scene."""
        return self.bootstrap.compare(self.results[one][retention], self.results[other][retention])

    def count_tokens(self, name: str, retention: float) -> float:
        """Mean tokens kept of a clip, measured."""
        return self.results[name][retention].tokens_out / self.scenes


def run(
    *,
    model: str | Path = MODEL,
    scenes: int = 200,
    names: Sequence[str] = CONTESTANTS,
    retentions: Sequence[float] = RETENTIONS,
    default: str = DEFAULT,
    out: str | Path | None = None,
    on_progress: Say = lambda _: None,
) -> dict[str, object]:
    """Measure every reducer and return the bench's figures; plots go to `out` when given.

    `on_progress` is told what is being done, then the table, a line at a time.
    """
    begun_s = time.monotonic()
    on_progress(f"watching {scenes} scenes")
    watched = watch_scenes(model, report_seeds(scenes))
    figures = measure(model, watched, names, retentions, on_progress)
    for line in write_table(figures, default):
        on_progress(line)
    summary = summarise(figures, default)
    if out is not None:
        from demo.quality_plot import plot

        summary["plots"] = [str(path) for path in plot(summary, Path(out))]
    return {**summary, "seconds": round(time.monotonic() - begun_s, 1)}


def measure(
    model: str | Path,
    watched: Sequence[WatchedScene],
    names: Sequence[str],
    retentions: Sequence[float],
    on_progress: Say,
) -> Figures:
    """Ask every question of what every reducer keeps; at retention 1 all keep everything.

    Budgets are matched on the same clips: that takes no answers, and makes them equal here.
    """
    full = evaluate(model, watched)
    features = [scene.features for scene in watched]
    results: Results = {}
    for name in names:
        begun_s = time.monotonic()
        below = [r for r in retentions if r < 1 and name != "none"]
        results[name] = {1.0: full} | {
            r: evaluate(model, watched, open_contestant(name, r, features)) for r in below
        }
        on_progress(f"{name}: {time.monotonic() - begun_s:.0f} s")
    return Figures(results, Bootstrap(len(watched)), len(watched))


def summarise(figures: Figures, default: str) -> dict[str, object]:
    """The contract's keys, and beside them: every kind, and the default against each peer."""
    table = {
        name: {f"{r:g}": _row(figures, name, r) for r in by_retention}
        for name, by_retention in figures.results.items()
    }
    kinds = {
        name: {k: round(v, 4) for k, v in by_retention[FOCUS].by_kind().items()}
        for name, by_retention in figures.results.items()
        if FOCUS in by_retention
    }
    return {
        "bench": "quality",
        "commit": _commit(),
        "device": f"cpu, {torch.get_num_threads()} threads",
        "scenes": figures.scenes,
        "questions": len(next(iter(figures.results.values()))[1.0].kinds),
        "tokens_full": TOKENS_PER_CLIP,
        "full_accuracy": round(figures.estimate(next(iter(figures.results)), 1.0).mean, 4),
        "default": default,
        "table": table,
        "full_kinds": {
            k: round(v, 4) for k, v in next(iter(figures.results.values()))[1.0].by_kind().items()
        },
        "kinds": kinds,
        "default_minus": _differences(figures, default),
    }


def write_table(figures: Figures, default: str) -> list[str]:
    """Markdown: accuracy with its interval, the default against each, and each kind."""
    return [
        *_accuracy_lines(figures), "",
        *_difference_lines(figures, default), "",
        *_kind_lines(figures),
    ]  # fmt: skip


def _accuracy_lines(figures: Figures) -> list[str]:
    retentions = sorted({r for by in figures.results.values() for r in by}, reverse=True)
    lines = [
        "| reducer | " + " | ".join(f"{r:.0%}" for r in retentions) + " |",
        "|---" * (len(retentions) + 1) + "|",
    ]
    for name, by in figures.results.items():
        cells = []
        for r in retentions:
            if r not in by:
                cells.append("")
                continue
            value = figures.estimate(name, r)
            tokens = figures.count_tokens(name, r)
            cells.append(f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}] ({tokens:.1f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _difference_lines(figures: Figures, default: str) -> list[str]:
    lines = [f"| {default} at {FOCUS:.0%} minus | difference | |", "|---|---|---|"]
    for name, (mean, low, high) in _differences(figures, default).items():
        verdict = "wins" if low > 0 else "loses" if high < 0 else "undecided"
        lines.append(f"| {name} | {mean:+.3f} [{low:+.3f}, {high:+.3f}] | {verdict} |")
    return lines


def _kind_lines(figures: Figures) -> list[str]:
    names = [name for name, by in figures.results.items() if FOCUS in by]
    full = next(iter(figures.results.values()))[1.0].by_kind()
    lines = [
        f"| kind at {FOCUS:.0%} | full | " + " | ".join(names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    by_name = {name: figures.results[name][FOCUS].by_kind() for name in names}
    for kind in (k for k in KINDS if k in full):
        row = " | ".join(f"{by_name[name][kind]:.2f}" for name in names)
        lines.append(f"| {kind} | {full[kind]:.2f} | {row} |")
    return lines


def _row(figures: Figures, name: str, retention: float) -> dict[str, float]:
    value = figures.estimate(name, retention)
    return {
        "accuracy": round(value.mean, 4),
        "low": round(value.low, 4),
        "high": round(value.high, 4),
        "tokens": round(figures.count_tokens(name, retention), 2),
    }


def _differences(figures: Figures, default: str) -> dict[str, tuple[float, float, float]]:
    """The default minus every other at the focus; empty when the default took no part."""
    if FOCUS not in figures.results.get(default, {}):
        return {}
    others = [n for n, by in figures.results.items() if FOCUS in by and n != default]
    compared = {name: figures.compare(default, name) for name in others}
    return {n: (round(v.mean, 4), round(v.low, 4), round(v.high, 4)) for n, v in compared.items()}


def _commit() -> str:
    """The commit that is measured, `unknown` outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m demo.quality", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--names", nargs="+", default=list(CONTESTANTS))
    parser.add_argument("--default", default=DEFAULT)
    parser.add_argument("--out", type=Path, default=None, help="folder for the plots")
    given = vars(parser.parse_args())
    print(json.dumps(run(**given, on_progress=lambda line: print(line, file=sys.stderr))))


if __name__ == "__main__":
    main()
