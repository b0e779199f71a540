"""`aot bench quality`: what every reducer costs in answers, at equal measured numbers of tokens.

    python -m demo.quality.bench --out docs --page docs/quality.md
    python -m demo.quality.bench --record tests/demo/quality_record.json

The vision half sees each scene once; every reducer works on the same features and every answer is
read from what it keeps. Scenes have the seeds for reporting, constants were chosen on others
(`demo.quality.choose`). The miniature is a toy: what is measured is relative. A table for people,
and one last line of JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.facts import measured_commit
from demo.quality import held
from demo.quality.contestants import CONTESTANTS, TOKENS_PER_CLIP, open_contestant
from demo.quality.evaluate import (
    WatchedScene,
    evaluate,
    report_seeds,
    watch_scenes,
)
from demo.quality.intervals import Bootstrap
from demo.quality.table import (
    FOCUS,
    Figures,
    Results,
    compare_all,
    read_row,
    update_page,
    write_record,
    write_table,
)

MODEL = Path(__file__).parents[1] / "weights"
RETENTIONS = (1.0, 0.5, 0.25, 0.15, 0.10, 0.05)
HELD_SCENES = 8
DEFAULT = "adaptive"
"""The shipped reducer."""

Say = Callable[[str], None]


def run(
    *,
    model: str | Path = MODEL,
    scenes: int = 200,
    names: Sequence[str] = CONTESTANTS,
    retentions: Sequence[float] = RETENTIONS,
    default: str = DEFAULT,
    out: str | Path | None = None,
    held_scenes: int = HELD_SCENES,
    on_progress: Say = lambda _: None,
) -> dict[str, object]:
    """Measure every reducer and return the bench's figures; plots go to `out` when given.

    `held_scenes`: of the part about still frames (`demo.quality.held`).
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
        from demo.quality.plot import plot

        summary["plots"] = [str(path) for path in plot(summary, Path(out))]
    if held_scenes:
        summary |= held.run(model=model, scenes=held_scenes, on_progress=on_progress)
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
        name: {f"{r:g}": read_row(figures, name, r) for r in by_retention}
        for name, by_retention in figures.results.items()
    }
    kinds = {
        name: {k: round(v, 4) for k, v in by_retention[FOCUS].by_kind().items()}
        for name, by_retention in figures.results.items()
        if FOCUS in by_retention
    }
    return {
        "bench": "quality",
        "commit": measured_commit(),
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
        "default_minus": compare_all(figures, default),
    }


def record(model: str | Path, path: Path, default: str = DEFAULT, scenes: int = 48) -> None:
    """Write what the default reaches on a few scenes, for the gate in the tests."""
    watched = watch_scenes(model, report_seeds(scenes))
    reduce = open_contestant(default, FOCUS, [scene.features for scene in watched])
    write_record(path, default, evaluate(model, watched, reduce), scenes)


def main() -> None:
    """Parse the command line, measure, print; or write the gate's record alone."""
    parser = argparse.ArgumentParser(prog="python -m demo.quality.bench", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--names", nargs="+", default=list(CONTESTANTS))
    parser.add_argument("--default", default=DEFAULT)
    parser.add_argument("--out", type=Path, default=None, help="folder for the plots")
    parser.add_argument("--page", type=Path, default=None, help="page to put the tables into")
    parser.add_argument("--record", type=Path, default=None, help="write the gate's record, end")
    given = vars(parser.parse_args())
    page, path = given.pop("page"), given.pop("record")
    if path is not None:
        record(given["model"], path, given["default"])
        return
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, file=sys.stderr)

    summary = run(**given, on_progress=say)
    if page is not None:
        update_page(page, [line for line in lines if line.startswith("|") or not line])
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
