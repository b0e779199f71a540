"""Accuracy of the miniature in memory: watched scenes, any reducer, every kind of question.

    scenes = watch_scenes("demo/weights", report_seeds(200))
    full = evaluate("demo/weights", scenes)
    few = evaluate("demo/weights", scenes, make_reducer("aot", 0.1, grid=(14, 14)).compress_clips)

The vision half runs once per scene, on the product's own encoder with its attention sums; every
reducer then works on the same features and every answer is read off one batched pass. Answers are
closed, so a question counts as right when every word of its answer is the most likely one after
those before it: exactly when greedy decoding would give it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import Qwen2Model

from aot import ClipTokens, FrameFeatures, make_reducer
from demo.miniature.model import IMAGE_SIZE, PATCHES, load_model
from demo.miniature.pixels import shrink
from demo.miniature.reading import Layout, Order, gather, lay_out, sort_clip
from demo.miniature.sequence import SLOT_LENGTH, Slots, open_vocabulary, write_slots
from demo.world.labels import IGNORE, choose_owner, cover_cells
from demo.world.questions import KINDS, Question, ask, open_window
from demo.world.render import render
from demo.world.scenes import Scene, generate_scene
from workers.models import open_vision_encoder

Reduce = Callable[[Sequence[FrameFeatures]], list[ClipTokens]]
"""Clips in, kept tokens out: `Reducer.compress_clips` is one."""

FRAMES = 8
VIDEOS_PER_PASS = 16
_CHOOSE, _REPORT = 100_000, 500_000
"""First seeds for choosing settings and for reporting; training uses seeds from 1,000,000 on."""


def choose_seeds(count: int) -> list[int]:
    """Seeds to choose settings on."""
    return list(range(_CHOOSE, _CHOOSE + count))


def report_seeds(count: int) -> list[int]:
    """Seeds to report on, never to choose on."""
    return list(range(_REPORT, _REPORT + count))


@dataclass(frozen=True)
class WatchedScene:
    """A scene as the vision half sees it, and what is asked about it."""

    scene: Scene
    features: FrameFeatures
    times_s: Float[np.ndarray, " t"]
    """What the time marks say."""
    questions: tuple[Question, ...]
    content: Bool[np.ndarray, "t n"]
    """Patches that show an item."""
    ignored: Bool[np.ndarray, "t n"]
    """Patches an item merely touches."""


@dataclass(frozen=True)
class Evaluation:
    """One answer a question, in the order of scenes and their questions."""

    kinds: tuple[str, ...]
    scene: tuple[int, ...]
    """Index of the scene each question is about, for bootstraps by scene."""
    correct: Bool[np.ndarray, " q"]
    tokens_in: int
    """Pooled tokens before the reduction."""
    tokens_out: int

    @property
    def retention(self) -> float:
        """Tokens kept over tokens before reduction, measured."""
        return self.tokens_out / self.tokens_in

    def by_kind(self) -> dict[str, float]:
        """Accuracy of every kind that was asked."""
        kinds = np.array(self.kinds)
        return {k: float(self.correct[kinds == k].mean()) for k in KINDS if k in self.kinds}

    @property
    def accuracy(self) -> float:
        """Mean over the kinds, each counting alike."""
        return float(np.mean(list(self.by_kind().values())))


def watch_scenes(
    model: str | Path,
    seeds: Sequence[int],
    *,
    size: int = IMAGE_SIZE,
    kinds: Sequence[str] = KINDS,
) -> list[WatchedScene]:
    """Render and encode scenes, surveillance for even seeds and lectures for odd ones.

    Rendered larger than the model's size (`size`), frames are scaled down as real ones are.
    """
    encoder = open_vision_encoder(model)
    watched = []
    for seed in seeds:
        scene = generate_scene("lecture" if seed % 2 else "surveillance", seed)
        times_s = np.arange(FRAMES, dtype=np.float64)
        shown = render(scene, times_s, size)
        rng = np.random.default_rng([seed, 5])
        window = open_window(scene, shown.visible, times_s, float(rng.integers(36_000)))
        owner = choose_owner(cover_cells(shown.items, len(scene.items), PATCHES), 0.3, 0.04)
        watched.append(
            WatchedScene(
                scene=scene,
                features=encoder.encode(shrink(shown.pixels)),
                times_s=window.times_s,
                questions=tuple(ask(window, rng, kinds)),
                content=owner >= 0,
                ignored=owner == IGNORE,
            )
        )
    return watched


def evaluate(
    model: str | Path,
    scenes: Sequence[WatchedScene],
    reduce: Reduce | None = None,
    *,
    order: Order = "frame",
    bfloat16: bool = True,
) -> Evaluation:
    """Ask every question about every scene, of all tokens or of those `reduce` keeps."""
    reduce = reduce or make_reducer("none", 1.0, grid=(PATCHES, PATCHES)).compress_clips
    clips = reduce([scene.features for scene in scenes])
    if order == "frame":
        clips = [sort_clip(clip) for clip in clips]
    correct = answer_clips(model, clips, scenes, bfloat16=bfloat16)
    kinds = [q.kind for scene in scenes for q in scene.questions]
    index = [k for k, scene in enumerate(scenes) for _ in scene.questions]
    pooled = [len(s.features.tokens) * len(s.features.tokens[0]) // 4 for s in scenes]
    kept = sum(len(clip) for clip in clips)
    return Evaluation(tuple(kinds), tuple(index), correct, sum(pooled), kept)


@torch.inference_mode()
def answer_clips(
    model: str | Path,
    clips: Sequence[ClipTokens],
    scenes: Sequence[WatchedScene],
    *,
    bfloat16: bool = True,
) -> Bool[np.ndarray, " q"]:
    """Whether each question is answered rightly from its scene's clip."""
    llava = load_model(Path(model)).model
    vocabulary = open_vocabulary()
    layouts = [lay_out(c, s.times_s, vocabulary) for c, s in zip(clips, scenes, strict=True)]
    slots = [write_slots(list(s.questions), vocabulary) for s in scenes]
    right: list[np.ndarray] = [np.zeros(0, bool)] * len(scenes)
    by_length = sorted(range(len(scenes)), key=lambda k: len(layouts[k].ids))
    for start in range(0, len(scenes), VIDEOS_PER_PASS):
        batch = by_length[start : start + VIDEOS_PER_PASS]
        prefixes = [
            gather(
                layouts[k], clips[k].tokens.float(), llava.image_newline,
                llava.language_model.embed_tokens.weight,
            )
            for k in batch
        ]  # fmt: skip
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            results = answer_batch(
                llava.language_model, prefixes, [layouts[k] for k in batch],
                [slots[k] for k in batch],
            )  # fmt: skip
        for k, result in zip(batch, results, strict=True):
            right[k] = result
    return np.concatenate(right)


def answer_batch(
    language: Qwen2Model, prefixes: list[Tensor], layouts: list[Layout], slots: list[Slots]
) -> list[np.ndarray]:
    """Right prefixes are padded on the left, so that all slots start at one place."""
    longest = max(len(prefix) for prefix in prefixes)
    most = max(len(slot.ids) for slot in slots)
    length = longest + most * SLOT_LENGTH
    words = language.embed_tokens.weight
    embedded = torch.zeros(len(prefixes), length, words.shape[1])
    positions = torch.zeros(len(prefixes), length, dtype=torch.int64)
    mask = torch.zeros(len(prefixes), 1, length, length, dtype=torch.bool)
    ids = torch.zeros(len(prefixes), most, SLOT_LENGTH, dtype=torch.int64)
    targets = torch.full_like(ids, IGNORE)
    causal = _slot_mask(longest, most)
    for row, (prefix, layout, slot) in enumerate(zip(prefixes, layouts, slots, strict=True)):
        blank = longest - len(prefix)
        embedded[row, blank:longest] = prefix
        positions[row, blank:longest] = torch.from_numpy(layout.positions)
        positions[row, longest:] = torch.arange(SLOT_LENGTH).repeat(most) + layout.end
        ids[row, : len(slot.ids)] = torch.from_numpy(slot.ids)
        targets[row, : len(slot.ids)] = torch.from_numpy(slot.targets)
        mask[row, 0] = causal
        mask[row, 0, :, :blank] = False
    # A padded row has to see something: itself.
    mask |= torch.eye(length, dtype=torch.bool)
    embedded[:, longest:] = words[ids.flatten(1)]
    hidden = language(
        inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state[:, longest:]
    best = (hidden.float() @ words.float().T).argmax(-1).unflatten(1, (most, SLOT_LENGTH))
    right = ((best == targets) | (targets == IGNORE)).all(-1).numpy()
    return [right[row, : len(slot.ids)] for row, slot in enumerate(slots)]


def _slot_mask(prefix: int, slots: int) -> Tensor:
    length = prefix + slots * SLOT_LENGTH
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    for slot in range(slots):
        start = prefix + slot * SLOT_LENGTH
        mask[start : start + SLOT_LENGTH, prefix:start] = False
    return mask
