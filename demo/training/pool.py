"""Scenes seen once by the frozen vision half: cached pooled tokens with their ground truth.

The language half trains for many passes on the same scenes with ever new questions and windows,
so the tower's work is done once per scene and kept in shards. A shard depends on its index, the
seed and the tower alone; whoever needs one that is not there makes it.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import BFloat16, Float, Int64
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from aot.pooling import pool_grid
from demo.miniature.model import CELLS, IMAGE_SIZE, PATCHES
from demo.miniature.pixels import normalise, shrink
from demo.training.loading import map_ahead
from demo.world.labels import choose_owner, cover_cells
from demo.world.render import render
from demo.world.scenes import Scene, generate_scene, scatter_scene

logger = logging.getLogger(__name__)

FRAMES = 8
"""Frames of a scene, one a second."""
SHARD_SCENES = 250
TRAIN_SEEDS = 2_000_000
"""First seed of the pool's scenes; evaluation uses seeds below 1,000,000."""
SCATTERED_SEEDS = 4_000_000
_MAX_ITEMS = 8
_FORMAT = b"3"
"""Of scenes and shards: another one has another folder."""


@dataclass(frozen=True)
class SeenScene:
    """A scene, what its frames show, and what the vision half made of them."""

    scene: Scene
    tokens: BFloat16[Tensor, "t n d"] | Float[Tensor, "t n d"]
    """Projected and pooled."""
    visible: Float[np.ndarray, "t items"]
    owner: Int64[np.ndarray, "t n"]
    """Item a pooled cell shows, -1 nothing, IGNORE a mere touch."""
    share: Float[np.ndarray, "t n"]
    """Of a cell's pixels, how many show the item that shows most there."""


def see_scene(
    model: LlavaOnevisionForConditionalGeneration,
    scene: Scene,
    size: int = IMAGE_SIZE,
    frames: int = FRAMES,
) -> SeenScene:
    """Render a scene at one frame a second and encode it."""
    shown = render(scene, np.arange(frames, dtype=np.float64), size)
    cover = cover_cells(shown.items, len(scene.items), CELLS)
    owner = choose_owner(cover, owns=0.12, touches=0.02)
    tokens = encode_frames(model, torch.from_numpy(shrink(shown.pixels)))
    share = cover.max(1, initial=0.0)
    return SeenScene(scene, tokens, shown.visible, owner, share)


@torch.no_grad()
def encode_frames(
    model: LlavaOnevisionForConditionalGeneration, pixels: Tensor
) -> Float[Tensor, "t n d"]:
    """Tower, projector and the family's pooling, without the attention sums; tokens on the host."""
    pixels = pixels.to(model.device)
    with torch.autocast(pixels.device.type, torch.bfloat16):
        outputs = model.model.vision_tower(
            pixel_values=normalise(pixels), output_hidden_states=True
        )
        tokens = model.model.multi_modal_projector(outputs.hidden_states[-1])
    return pool_grid(tokens.float(), (PATCHES, PATCHES), "bilinear").cpu()


def pool_folder(model: LlavaOnevisionForConditionalGeneration, runs: Path) -> Path:
    """Where the shards of this vision half lie: another tower or projector has another folder."""
    digest = hashlib.blake2b(_FORMAT, digest_size=4)
    for part in (model.model.vision_tower, model.model.multi_modal_projector):
        for value in part.state_dict().values():
            digest.update(value.cpu().numpy().tobytes())
    return runs / f"pool-{digest.hexdigest()}"


def load_shard(
    model: LlavaOnevisionForConditionalGeneration,
    folder: Path,
    index: int,
    *,
    scattered: bool = False,
) -> list[SeenScene]:
    """Scenes of one shard: read from `folder`, made first when it is not there.

    `scattered` shards hold single frames of `scatter_scene`.
    """
    scenes = _scattered_scenes(index) if scattered else _natural_scenes(index)
    columns = load_file(_make_shard(model, folder, index, scattered=scattered))
    return [
        SeenScene(
            scene,
            columns["tokens"][k],
            columns["visible"][k, :, : len(scene.items)].numpy(),
            columns["owner"][k].long().numpy(),
            columns["share"][k].float().numpy(),
        )
        for k, scene in enumerate(scenes)
    ]


def fill_pool(
    model: LlavaOnevisionForConditionalGeneration,
    folder: Path,
    indexes: Sequence[int],
    processes: int,
    *,
    scattered: bool = False,
) -> None:
    """Make the shards that are not there, several at a time; the model is on the host."""
    make = partial(_make_shard, model, folder, scattered=scattered)
    for _, path in map_ahead(make, indexes, processes):
        logger.info("%s is there", path)


def _make_shard(
    model: LlavaOnevisionForConditionalGeneration, folder: Path, index: int, *, scattered: bool
) -> Path:
    """Where a shard lies, made when it is not there."""
    name = "scattered" if scattered else "shard"
    path = folder / f"{name}-{index:04d}.safetensors"
    if not path.is_file():
        scenes = _scattered_scenes(index) if scattered else _natural_scenes(index)
        frames = 1 if scattered else FRAMES
        _save_shard(path, [see_scene(model, scene, frames=frames) for scene in scenes])
    return path


def _natural_scenes(index: int) -> list[Scene]:
    """Surveillance and lectures in turn."""
    seeds = [TRAIN_SEEDS + index * SHARD_SCENES + k for k in range(SHARD_SCENES)]
    return [generate_scene("lecture" if s % 2 else "surveillance", s) for s in seeds]


def _scattered_scenes(index: int) -> list[Scene]:
    seeds = [SCATTERED_SEEDS + index * SHARD_SCENES + k for k in range(SHARD_SCENES)]
    return [scatter_scene(s, 1.0) for s in seeds]


def _save_shard(path: Path, seen: list[SeenScene]) -> None:
    visible = torch.zeros(len(seen), len(seen[0].visible), _MAX_ITEMS)
    for k, one in enumerate(seen):
        visible[k, :, : one.visible.shape[1]] = torch.from_numpy(one.visible)
    columns = {
        "tokens": torch.stack([one.tokens for one in seen]).bfloat16(),
        "visible": visible,
        "owner": torch.stack([torch.from_numpy(one.owner) for one in seen]).to(torch.int16),
        "share": torch.stack([torch.from_numpy(one.share) for one in seen]).to(torch.float16),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial")
    save_file(columns, partial)
    os.replace(partial, path)
