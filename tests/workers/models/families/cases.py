"""One case a family: a tiny random checkpoint, and what the model itself makes of pixels.

A reference is made of transformers' own classes and of the tensors in the file, by nothing of the
product: that the product loads and joins the same parts rightly is what is tested with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.checkpoints import normalised_pixels, write_tiny_llava_video

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
    marks: tuple[str, str] = ("[00:00:12]", "[00:00:20]")
    """As the family has them, of clips that begin at 12 and 20 s."""
    always_marked: bool = False
    """Every frame has a mark, also of one clip alone."""

    def __repr__(self) -> str:
        return self.name


class LlavaVideoReference:
    """LLaVA-Video as its repository runs it."""

    def __init__(self, folder: Path) -> None:
        import json

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


def _under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


CASES = [
    FamilyCase("llava_qwen", write_tiny_llava_video, LlavaVideoReference, (120, 120)),
]
