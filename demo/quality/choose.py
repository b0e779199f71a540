"""Choose the constants of `aot bench quality` on scenes apart from those reported on.

    python -m demo.quality.choose --model demo/weights --scenes 120

Every contestant gets candidates and keeps the one with the highest accuracy, averaged over
`RETENTIONS`; the project's own reducer is improved one constant at a time. What comes out goes into
`demo.quality.contestants.CHOSEN` and, for the own reducer, into the defaults of `AdaptiveRule`.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from demo.quality.bench import MODEL
from demo.quality.contestants import CONTESTANTS, Constants, open_contestant
from demo.quality.evaluate import WatchedScene, choose_seeds, evaluate, watch_scenes

logger = logging.getLogger(__name__)

RETENTIONS = (0.50, 0.25, 0.10, 0.05)

CANDIDATES: dict[str, list[Constants]] = {
    "visionzip": [{"contextual_share": share} for share in (10 / 64, 0.0, 0.3)],
    "tome": [{"step_share": share} for share in (0.5, 0.2, 0.05)],
    "temporal_difference": [
        {"first_share": share} for share in (0.25, 0.125, 0.375, 0.0625, 0.1875, 0.5)
    ],
    "holitom": [
        {"static_similarity": similarity, "contextual_share": share}
        for similarity in (0.8, 0.65, 0.9, 0.95)
        for share in (10 / 64, 0.0)
    ],
    "aot": [
        {"window": window, "distinct_fraction": fraction}
        for window in (9, 7)
        for fraction in (0.3, 0.1, 0.5)
    ],
    "aot_cost": [
        {"anchor_share": share, "temporal_scale": scale}
        for share in (1.5, 2.5, 4.0)
        for scale in (1.0, 0.0)
    ],
}
"""The first of each are the method's own constants, or what comes nearest."""

_POWERS = ((0.5, 1.0), (1.0, 1.0), (1.0, 0.5), (0.25, 1.0), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0))
"""Attention and novelty. Contrast is left out: on these scenes it is nearly an oracle, which it is
not known to be anywhere else."""

STEPS: dict[str, list[Any]] = {
    "powers": [{"attention": attention, "novelty": novelty} for attention, novelty in _POWERS],
    "keyframe_weight": [0.3, 0.5, 0.7, 1.0],
    "threshold": [0.15, 0.25, 0.35, 0.5],
    "novelty_floor": [0.03, 0.1, 0.2, 0.3],
    "arrears": [0.0, 0.05, 0.25, 0.5],
    "advance": [0.0, 0.1, 0.2, 0.4],
    "merge_similarity": [0.6, 0.75, 0.85],
    "position_weight": [0.1, 0.25, 0.5, 1.0],
    "spread": [0.0, 0.15, 0.3, 0.5],
}
"""Values the own reducer's constants try, in this order."""


@dataclass(frozen=True)
class Choice:
    """Constants and what they reached on the choosing scenes."""

    constants: Constants
    accuracy: tuple[float, ...]
    """At each of `RETENTIONS`."""

    @property
    def mean(self) -> float:
        """Over the retentions."""
        return float(np.mean(self.accuracy))


def try_constants(
    model: str | Path, scenes: Sequence[WatchedScene], name: str, constants: Constants
) -> Choice:
    """Accuracy of a contestant with these constants."""
    features = [scene.features for scene in scenes]
    accuracy = tuple(
        evaluate(model, scenes, open_contestant(name, r, features, constants)).accuracy
        for r in RETENTIONS
    )
    rounded = " ".join(f"{value:.3f}" for value in accuracy)
    logger.info("%s %s -> %s (%.4f)", name, dict(constants), rounded, np.mean(accuracy))
    return Choice(constants, accuracy)


def choose_peer(model: str | Path, scenes: Sequence[WatchedScene], name: str) -> Choice:
    """The best of a peer's candidates, the first among equals."""
    tried = [try_constants(model, scenes, name, c) for c in CANDIDATES.get(name, [{}])]
    return max(tried, key=lambda choice: choice.mean)


def improve_own(
    model: str | Path, scenes: Sequence[WatchedScene], start: Constants, rounds: int = 1
) -> Choice:
    """Try every value of every constant, one after the other, and keep what is better."""
    best = try_constants(model, scenes, "adaptive", start)
    for _ in range(rounds):
        for constant, values in STEPS.items():
            for value in values:
                if best.constants.get(constant) == value:
                    continue
                tried = try_constants(
                    model, scenes, "adaptive", {**best.constants, constant: value}
                )
                best = max(best, tried, key=lambda choice: choice.mean)
    return best


def main() -> None:
    """Parse the command line, choose, print one line of JSON a contestant."""
    parser = argparse.ArgumentParser(prog="python -m demo.quality.choose", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--scenes", type=int, default=120)
    parser.add_argument("--names", nargs="+", default=list(CONTESTANTS[1:]))
    parser.add_argument("--start", type=json.loads, default={}, help="of the own reducer, JSON")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    scenes = watch_scenes(options.model, choose_seeds(options.scenes))
    for name in options.names:
        if name == "adaptive":
            chosen = improve_own(options.model, scenes, options.start, options.rounds)
        else:
            chosen = choose_peer(options.model, scenes, name)
        print(json.dumps({"name": name, "constants": dict(chosen.constants), "mean": chosen.mean}))


if __name__ == "__main__":
    main()
