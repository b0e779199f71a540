"""What the miniature can do with all tokens: `python -m demo.quality.report --model demo/weights`.

Prints accuracy by kind of question beside two baselines, and how well each signal finds content;
the last line is JSON. Majority answers every question of a kind with that kind's most frequent
answer; guess picks one of what is present. Seeds are those for reporting.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from demo.quality.evaluate import Evaluation, WatchedScene, evaluate, report_seeds, watch_scenes
from demo.quality.saliency import measure_saliency
from demo.world.questions import KINDS


def main() -> None:
    """Parse the command line, evaluate, print."""
    parser = argparse.ArgumentParser(prog="python -m demo.quality.report", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("demo/weights"))
    parser.add_argument("--scenes", type=int, default=400)
    options = parser.parse_args()
    begun_s = time.monotonic()
    scenes = watch_scenes(options.model, report_seeds(options.scenes))
    result = evaluate(options.model, scenes)
    rows = tabulate(result, scenes)
    saliency = measure_saliency(options.model, report_seeds(min(options.scenes, 60))).auc
    print("| kind | questions | accuracy | majority | guess |\n|---|---|---|---|---|")
    for kind, row in rows.items():
        numbers = " | ".join(f"{row[k]:.2f}" for k in ("accuracy", "majority", "guess"))
        print(f"| {kind} | {row['questions']:.0f} | {numbers} |")
    print(f"| mean of kinds | {len(result.kinds)} | {result.accuracy:.3f} | | |")
    print("\n| signal | surveillance | lecture |\n|---|---|---|")
    for name, by in saliency.items():
        print(f"| {name} | {by['surveillance']:.2f} | {by['lecture']:.2f} |")
    summary = {
        "bench": "demo",
        "full_accuracy": round(result.accuracy, 4),
        "kinds": {kind: round(row["accuracy"], 4) for kind, row in rows.items()},
        "saliency": saliency,
        "scenes": options.scenes,
        "seconds": round(time.monotonic() - begun_s, 1),
    }
    print(json.dumps(summary))


def tabulate(result: Evaluation, scenes: Sequence[WatchedScene]) -> dict[str, dict[str, float]]:
    """Questions, accuracy and both baselines of every kind that was asked."""
    asked = [q for scene in scenes for q in scene.questions]
    rows = {}
    for kind in KINDS:
        index = [k for k, name in enumerate(result.kinds) if name == kind]
        if not index:
            continue
        answers = Counter(asked[k].answer for k in index)
        rows[kind] = {
            "questions": float(len(index)),
            "accuracy": float(result.correct[index].mean()),
            "majority": answers.most_common(1)[0][1] / len(index),
            "guess": float(np.mean([asked[k].guess for k in index])),
        }
    return rows


if __name__ == "__main__":
    main()
