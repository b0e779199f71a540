"""One case a family: a tiny random checkpoint, and what the model itself makes of pixels.

A reference is made of transformers' own classes and of the tensors in the file, by nothing of the
product: that the product loads and joins the same parts rightly is what is tested with it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AttentionInterface,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.vision_utils import get_vision_window_index

from tests.checkpoints import (
    QWEN_FRAME,
    normalised_pixels,
    write_tiny_internvl,
    write_tiny_llava_video,
    write_tiny_qwen2_5_vl,
    write_tiny_qwen3_vl,
)

QUESTION = "what is the first shape ?"


class Reference(Protocol):
    """A whole model, asked by pixels."""

    def features(self, frames: np.ndarray) -> Tensor:
        """[t n d], before any pooling."""
        ...

    def attention(self, frames: np.ndarray, layer: int) -> Tensor:
        """Received by every cell in a layer, mean of the heads, by eager attention; [t n]."""
        ...

    def logits(self, clips: Sequence[np.ndarray], marks: Sequence[str]) -> Tensor:
        """Of every position of a prompt that shows the clips, each behind its mark."""
        ...

    def text(self, clips: Sequence[np.ndarray], marks: Sequence[str]) -> str:
        """The greedy answer."""
        ...


@dataclass(frozen=True)
class FamilyCase:
    """A family under test."""

    name: str
    write: Callable[..., Path]
    open_reference: Callable[[Path], Any]
    size: tuple[int, int]
    """Height and width of a frame."""
    marks: tuple[str, ...] = ("[00:00:12]", "[00:00:20]")
    """As the family has them, of a clip of 4 frames from 12 s and one of 3 from 20 s."""
    first_marks: tuple[str, ...] = ("",)
    """Of a clip of 4 frames alone, from 0 s: of families that always mark, or none."""
    has_cls: bool = False
    """Some attention goes to a token that is no patch."""

    def __repr__(self) -> str:
        return self.name


class LlavaVideoReference:
    """LLaVA-Video as its repository runs it."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        vision = SiglipVisionConfig(**config["vision_config"])
        vision._attn_implementation = "eager"
        self.tower = SiglipVisionModel(vision).eval()
        prefix = "model.vision_tower.vision_tower.vision_model."
        self.tower.load_state_dict(_under(weights, prefix))
        self.projector = _under(weights, "model.mm_projector.")
        self.newline = weights["model.image_newline"]
        text = Qwen2Config.from_dict({**config, "model_type": "qwen2"})
        self.language = Qwen2ForCausalLM(text).eval()
        own = {k: v for k, v in weights.items() if k.startswith(("model.embed", "model.layers"))}
        own |= {k: weights[k] for k in ("model.norm.weight", "lm_head.weight")}
        self.language.load_state_dict(own)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def _tower(self, frames):
        with torch.no_grad():
            return self.tower(
                normalised_pixels(frames)[0], output_hidden_states=True, output_attentions=True
            )

    def features(self, frames):
        hidden, p = self._tower(frames).hidden_states[-1], self.projector
        inner = F.gelu(F.linear(hidden, p["0.weight"], p["0.bias"]))
        return F.linear(inner, p["2.weight"], p["2.bias"])

    def attention(self, frames, layer):
        return self._tower(frames).attentions[layer].sum(2).mean(1)

    def video(self, frames):
        """Average pooling, and the newline behind every row."""
        tokens = self.features(frames)
        side = int(tokens.shape[1] ** 0.5)
        image = tokens.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        pooled = F.avg_pool2d(image, 2).permute(0, 2, 3, 1)
        ends = self.newline.expand(*pooled.shape[:2], 1, -1)
        return torch.cat([pooled, ends], dim=2).flatten(0, 2)

    def _embeddings(self, clips, marks):
        ids = lambda text: torch.tensor(self.tokenizer(text)["input_ids"], dtype=torch.long)  # noqa: E731
        embed = self.language.get_input_embeddings()
        head = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        parts = [embed(ids(head))]
        for number, (clip, mark) in enumerate(zip(clips, marks, strict=True)):
            parts += [embed(ids("\n" * bool(number) + mark)), self.video(clip)]
        parts.append(embed(ids(f"\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n")))
        return torch.cat(parts)[None]

    @torch.no_grad()
    def logits(self, clips, marks):
        return self.language(inputs_embeds=self._embeddings(clips, marks)).logits[0]

    @torch.no_grad()
    def text(self, clips, marks):
        output = self.language.generate(
            inputs_embeds=self._embeddings(clips, marks),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return self.tokenizer.decode(output[0], skip_special_tokens=True)


class QwenReference:
    """A whole model of transformers', asked by pixels as its processor cuts them."""

    def __init__(self, folder: Path) -> None:
        AttentionInterface.register("eager_recorded", self._attend)
        self.model = AutoModelForImageTextToText.from_pretrained(
            folder, attn_implementation={"vision_config": "eager_recorded", "text_config": "eager"}
        ).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        processor = json.loads((folder / "preprocessor_config.json").read_text())
        self.mean, self.std = (
            torch.tensor(processor[name]).view(3, 1, 1) for name in ("image_mean", "image_std")
        )
        self.received: dict[Any, list[Tensor]] = {}
        vision = self.model.config.vision_config
        self.patch, self.merge = vision.patch_size, vision.spatial_merge_size

    def _attend(self, module, query, key, value, attention_mask, scaling, **options):
        weights = torch.softmax(query.float() @ key.float().mT * scaling, dim=-1)
        self.received.setdefault(module, []).append(weights.sum(2).mean(1))
        return (weights @ value).transpose(1, 2), weights

    def pixels(self, clips) -> dict[str, Tensor]:
        """`pixel_values_videos` and `video_grid_thw` of clips."""
        patches, grids = [], []
        for clip in clips:
            values = torch.from_numpy(clip.copy()).permute(0, 3, 1, 2).float() / 255
            values = (values - self.mean) / self.std
            flat, grid = self._cut(values)
            patches.append(flat)
            grids.append(grid)
        return {"pixel_values_videos": torch.cat(patches), "video_grid_thw": torch.tensor(grids)}

    def _cut(self, values: Tensor) -> tuple[Tensor, list[int]]:
        """Patches of two frames in the order of the models' video processors (which need
        torchvision): by time, cell, patch of the cell.
        """
        if len(values) % 2:
            values = torch.cat([values, values[-1:]])
        size, unit = self.patch, self.patch * self.merge
        _, _, height, width = values.shape
        corners = [
            (top + down, left + right)
            for top in range(0, height, unit)
            for left in range(0, width, unit)
            for down in range(0, unit, size)
            for right in range(0, unit, size)
        ]
        patches = [
            values[time : time + 2, :, y : y + size, x : x + size].transpose(0, 1).flatten()
            for time in range(0, len(values), 2)
            for y, x in corners
        ]
        return torch.stack(patches), [len(values) // 2, height // size, width // size]

    @torch.no_grad()
    def _video(self, frames):
        self.received.clear()
        return self.model.model.get_video_features(**self.pixels([frames]), return_dict=True)

    def features(self, frames):
        output = self._video(frames)
        layers = [layer[0] for layer in getattr(output, "deepstack_features", None) or []]
        tokens = torch.cat([output.pooler_output[0], *layers], dim=1)
        return tokens.unflatten(0, (-(-len(frames) // 2), -1))

    def attention(self, frames, layer):
        self._video(frames)
        received = torch.cat(self.received[self.model.model.visual.blocks[layer].attn])
        cells = received.unflatten(1, (-1, self.merge**2)).mean(2)
        vision = self.model.config.vision_config
        if not hasattr(vision, "window_size"):
            return cells
        grid = self.pixels([frames])["video_grid_thw"]
        grid[:, 0] = 1
        order, _ = get_vision_window_index(grid, self.merge, vision.window_size, self.patch)
        placed = torch.empty_like(cells)
        placed[:, order] = cells
        return placed

    def _run(self, steps: int, cells: int, marks: list[str]) -> str:
        """One video behind one mark."""
        [mark] = marks
        return f"{mark}<|vision_start|>{'<|video_pad|>' * (steps * cells)}<|vision_end|>"

    separator = "\n"
    timed: ClassVar = {"second_per_grid_ts": 2.0}

    def inputs(self, clips, marks) -> dict[str, Any]:
        """Of a prompt that shows the clips, at a frame a second."""
        given = self.pixels(clips)
        marks, runs = list(marks), []
        for steps, rows, columns in given["video_grid_thw"].tolist():
            taken = self._marks_of(steps)
            run_marks, marks = marks[:taken], marks[taken:]
            runs.append(self._run(steps, rows * columns // self.merge**2, run_marks))
        text = (
            f"<|im_start|>user\n{self.separator.join(runs)}{QUESTION}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        ids = torch.tensor([self.tokenizer(text)["input_ids"]])
        is_video = ids == self.model.config.video_token_id
        given |= {name: torch.tensor([value] * len(clips)) for name, value in self.timed.items()}
        return given | {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": is_video.int() * 2,
        }

    def _marks_of(self, steps: int) -> int:
        return 1

    @torch.no_grad()
    def logits(self, clips, marks):
        self.model.model.rope_deltas = None
        return self.model(**self.inputs(clips, marks)).logits[0]

    @torch.no_grad()
    def text(self, clips, marks):
        self.model.model.rope_deltas = None
        inputs = self.inputs(clips, marks)
        output = self.model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
        return self.tokenizer.decode(output, skip_special_tokens=True)


class Qwen3Reference(QwenReference):
    """Its videos are temporal patches, each behind its time."""

    separator = ""
    timed: ClassVar = {}

    def _marks_of(self, steps):
        return steps

    def _run(self, steps, cells, marks):
        pads = "<|video_pad|>" * cells
        return "".join(f"{mark}<|vision_start|>{pads}<|vision_end|>" for mark in marks)


class InternReference:
    """A whole model of transformers', asked by pixels."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(
            folder, attn_implementation="eager"
        ).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def pixels(self, frames):
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        return (torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).float() / 255 - mean) / std

    @torch.no_grad()
    def features(self, frames):
        return self.model.model.get_image_features(
            self.pixels(frames), return_dict=True
        ).pooler_output

    @torch.no_grad()
    def attention(self, frames, layer):
        tower = self.model.model.vision_tower
        received = tower(self.pixels(frames), output_attentions=True).attentions[layer]
        patches = received.sum(2).mean(1)[:, 1:].unflatten(1, (12, 12))  # without CLS
        return F.avg_pool2d(patches, 2).flatten(1)

    def inputs(self, clips, marks):
        run = f"<img>{'<IMG_CONTEXT>' * 36}</img>"
        runs = "\n".join(mark + run for mark in marks)
        text = f"<|im_start|>user\n{runs}\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
        ids = torch.tensor([self.tokenizer(text)["input_ids"]])
        pixels = torch.cat([self.pixels(clip) for clip in clips])
        return {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids)}

    @torch.no_grad()
    def logits(self, clips, marks):
        return self.model(**self.inputs(clips, marks)).logits[0]

    @torch.no_grad()
    def text(self, clips, marks):
        inputs = self.inputs(clips, marks)
        output = self.model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
        return self.tokenizer.decode(output, skip_special_tokens=True)


def _under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


CASES = [
    FamilyCase("llava_qwen", write_tiny_llava_video, LlavaVideoReference, (120, 120)),
    FamilyCase(
        "internvl",
        write_tiny_internvl,
        InternReference,
        (96, 96),
        marks=tuple(f"Frame 00:00:{second}: " for second in (12, 13, 14, 15, 20, 21, 22)),
        first_marks=tuple(f"Frame 00:00:0{second}: " for second in range(4)),
        has_cls=True,
    ),
    FamilyCase("qwen2_5_vl", write_tiny_qwen2_5_vl, QwenReference, QWEN_FRAME),
    FamilyCase(
        "qwen3_vl",
        write_tiny_qwen3_vl,
        Qwen3Reference,
        QWEN_FRAME,
        marks=tuple(f"<{time_s} seconds>" for time_s in (12.5, 14.5, 20.5, 22.0)),
        first_marks=("<0.5 seconds>", "<2.5 seconds>"),
    ),
]
