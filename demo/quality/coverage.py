"""Can the kept tokens still tell what was there? Measured without the language half.

    python -m demo.quality.coverage --model demo/weights --scenes 200

A pooled token of the miniature decodes to its words through the tied embeddings (`train_align`).
An item counts as told of at a frame when a token kept of that frame decodes to its colour and
shape, or its letter. What no token tells cannot be answered; whether it is answered is another
matter (`demo.quality.bench`). Seeds are those for reporting.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aot import ClipTokens
from demo.miniature.model import IMAGE_SIZE, load_model
from demo.miniature.sequence import open_vocabulary
from demo.quality.bench import MODEL
from demo.quality.contestants import CONTESTANTS, open_contestant
from demo.quality.evaluate import FRAMES, WatchedScene, report_seeds, watch_scenes
from demo.world.labels import CLASSES
from demo.world.questions import SEEN
from demo.world.render import render
from demo.world.scenes import Item

RETENTIONS = (0.25, 0.10, 0.05)

Words = Mapping[str, Float[Tensor, "words d"]]
"""Embeddings of "none" and of every colour, shape and letter."""


@dataclass(frozen=True)
class Coverage:
    """Shares of items told of, and the tokens that took."""

    first: float
    """At the first frame that shows the item."""
    last: float
    """At the last one."""
    any: float
    """At any of them."""
    tokens: float
    """Mean tokens of a clip."""


def read_words(model: str | Path) -> Words:
    """The embeddings that tokens are compared with."""
    vocabulary = open_vocabulary().words
    table = load_model(Path(model)).model.language_model.embed_tokens.weight.float()
    return {
        name: table[[vocabulary[word] for word in ("none", *values)]]
        for name, values in CLASSES.items()
    }


def find_visible(scenes: Sequence[WatchedScene]) -> list[Float[np.ndarray, "t items"]]:
    """How much of every item the frames show."""
    times_s = np.arange(FRAMES, dtype=np.float64)
    return [render(watched.scene, times_s, IMAGE_SIZE).visible for watched in scenes]


def measure_coverage(
    clips: Sequence[ClipTokens],
    scenes: Sequence[WatchedScene],
    visible: Sequence[Float[np.ndarray, "t items"]],
    words: Words,
) -> Coverage:
    """Over all items of all scenes."""
    told: list[tuple[bool, bool, bool]] = []
    for clip, watched, shown in zip(clips, scenes, visible, strict=True):
        decoded = {
            name: (clip.tokens.float() @ table.T).argmax(dim=1).numpy()
            for name, table in words.items()
        }
        frame = clip.frame.numpy()
        for index, item in enumerate(watched.scene.items):
            seen = np.flatnonzero(shown[:, index] >= SEEN)
            if len(seen):
                right = _tells(item, decoded)
                hits = [bool((right & (frame == at)).any()) for at in seen]
                told.append((hits[0], hits[-1], any(hits)))
    shares = np.array(told, float).mean(axis=0).tolist()
    return Coverage(*shares, tokens=float(np.mean([len(clip) for clip in clips])))


def _tells(item: Item, decoded: Mapping[str, np.ndarray]) -> Bool[np.ndarray, " m"]:
    """Which tokens decode to the item."""
    if item.letter is not None:
        return decoded["letter"] == CLASSES["letter"].index(item.letter) + 1
    colour = decoded["colour"] == CLASSES["colour"].index(str(item.colour)) + 1
    return colour & (decoded["shape"] == CLASSES["shape"].index(str(item.shape)) + 1)


def main() -> None:
    """Parse the command line, measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m demo.quality.coverage", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--names", nargs="+", default=list(CONTESTANTS))
    parser.add_argument("--constants", type=json.loads, default=None, help="of all, JSON")
    options = parser.parse_args()
    scenes = watch_scenes(options.model, report_seeds(options.scenes))
    visible, words = find_visible(scenes), read_words(options.model)
    features = [scene.features for scene in scenes]
    table: dict[str, dict[str, dict[str, float]]] = {}
    print("| reducer | retention | first | last | any | tokens |\n|---|---|---|---|---|---|")
    with torch.inference_mode():
        for name in options.names:
            for retention in RETENTIONS if name != "none" else (1.0,):
                reduce = open_contestant(name, retention, features, options.constants)
                value = measure_coverage(reduce(features), scenes, visible, words)
                row = [f"{value.first:.3f}", f"{value.last:.3f}", f"{value.any:.3f}"]
                print(
                    f"| {name} | {retention:.0%} | {' | '.join(row)} | {value.tokens:.1f} |",
                    flush=True,
                )
                numbers = {k: round(v, 4) for k, v in vars(value).items()}
                table.setdefault(name, {})[f"{retention:g}"] = numbers
    print(json.dumps({"bench": "coverage", "scenes": options.scenes, "table": table}))


if __name__ == "__main__":
    main()
