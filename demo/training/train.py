"""Trains the miniature from nothing: `python -m demo.training.train`, or `make train-demo`.

Four stages (tower, alignment, refining, language), each seeded and resumed from its last checkpoint
under `--runs`; then the weights are written to `--out`. One dial, `--scale`, stretches every stage:
1 is the recipe of docs/tiny-model.md. Runs on one CPU thread; more cores help as more workers:

    python -m torch.distributed.run --nproc-per-node 2 -m demo.training.train

With an accelerator, `--device cuda --loaders N --width 4`: `N` processes draw scenes and batches
while steps run, and a step has four times as many.

`--weights` goes on from exported weights: the vision half is refined for `--refine-steps`, and the
language half takes up the curriculum at `--phase`.
"""

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path

import torch
from transformers import LlavaOnevisionForConditionalGeneration

from demo.miniature.model import build_model, export_model, load_model
from demo.training.align import train_align
from demo.training.batches import PoolShare
from demo.training.curriculum import plan_phases
from demo.training.language import train_language
from demo.training.parallel import find_share, joined
from demo.training.pool import fill_pool, pool_folder
from demo.training.refine import train_refine
from demo.training.tower import train_tower

logger = logging.getLogger(__name__)

TOWER, ALIGN, REFINE = (1100, 24), (180, 48), (1400, 48)
"""Steps of the vision half's stages, and frames a step."""


def main() -> None:
    """Parse the command line, train what is left to train, export."""
    options = _parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    with joined():
        _train(options)


def _train(options: argparse.Namespace) -> None:
    begun_s = time.monotonic()
    model = load_model(options.weights) if options.weights else build_model(options.seed)
    _train_vision(model.requires_grad_(True).to(options.device), options)
    phases = plan_phases(options.language_scale or options.scale)[options.phase :]
    phases = tuple(replace(phase, videos=phase.videos * options.width) for phase in phases)
    shards = PoolShare(options.first_shards, options.shards, options.met_shards)
    if options.loaders:
        folder, met = pool_folder(model, options.runs), shards.met
        fill_pool(model.cpu(), folder, range(met, met + shards.most), options.loaders)
        if any(phase.scattered for phase in phases):
            fill_pool(model, folder, range(met, met + 4), options.loaders, scattered=True)
    done = train_language(
        model.to(options.device),
        options.runs,
        phases=phases,
        seed=options.seed,
        shards=shards,
        rate=options.rate,
        stop_s=None if options.stop_s is None else options.stop_s - (time.monotonic() - begun_s),
        loaders=options.loaders,
    )
    if find_share()[0]:
        return
    size_bytes = export_model(model.cpu(), options.out)
    logger.info(
        "%d language steps done; %.1f MB in %s; %.0f s",
        done, size_bytes / 1e6, options.out, time.monotonic() - begun_s,
    )  # fmt: skip


def _train_vision(
    model: LlavaOnevisionForConditionalGeneration, options: argparse.Namespace
) -> None:
    common = {"seed": options.seed, "loaders": options.loaders}

    def scale(stage: tuple[int, int]) -> dict[str, int]:
        steps, scenes = stage
        steps = max(round(steps * options.scale), 1)
        return {"steps": steps, "scenes_per_step": scenes * options.width, **common}

    if not options.weights:
        train_tower(model.model.vision_tower, options.runs, **scale(TOWER))
        train_align(model, options.runs, **scale(ALIGN))
    refine = scale(REFINE)
    if options.weights or options.refine_steps is not None:
        refine["steps"] = options.refine_steps or 0
    train_refine(model, options.runs, rate=options.refine_rate, **refine)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo.training.train", description=__doc__)
    add = parser.add_argument
    add("--runs", type=Path, default=Path("runs/demo"), help="checkpoints and cached tokens")
    add("--out", type=Path, default=Path("runs/demo/weights"), help="folder of the exported model")
    add("--scale", type=float, default=1.0, help="stretches every stage")
    add(
        "--language-scale",
        type=float,
        default=None,
        help="stretches the language stage alone: to go on with the tower as it is",
    )
    add("--weights", type=Path, default=None, help="folder of exported weights to go on from")
    add("--refine-steps", type=int, default=None, help="of that stage; 0 with --weights")
    add("--refine-rate", type=float, default=1.0, help="scales its learning rates")
    add("--phase", type=int, default=0, help="phase of the language half's curriculum to begin at")
    add("--rate", type=float, default=1.0, help="scales the language half's learning rates")
    add("--seed", type=int, default=0)
    add("--shards", type=int, default=100, help="scenes in the pool, in units of 250")
    add("--first-shards", type=int, default=4, help="of those, drawn from at once")
    add("--met-shards", type=int, default=0, help="of the pool, passed over: met before")
    add("--device", default="cpu", help="as torch names it")
    add("--loaders", type=int, default=0, help="processes that draw ahead of the steps")
    add("--width", type=int, default=1, help="times as many scenes and videos a step")
    add("--threads", type=int, default=1)
    add("--stop-s", type=float, default=None, help="save and export after so many seconds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
