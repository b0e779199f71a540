"""Checkpoints that are known to belong to a supported family, and what their tokens cost.

What a checkpoint on disk costs is read from its config (`measure`, of each family); these are the
same numbers of published ones, so that they can be compared before anything is fetched.
"""

import difflib
from dataclasses import dataclass
from functools import lru_cache

STORED_COLUMNS_BYTES = 9
"""Of a token beside its values: frame, cell, mass, kind."""
SECONDS_PER_HOUR = 3600
NEAREST = {
    "internvl_chat": "internvl",
    "llava": "llava_onevision",
    "llava_next": "llava_onevision",
    "llava_next_video": "llava_qwen",
    "qwen2_vl": "qwen2_5_vl",
    "qwen3_5": "qwen3_vl",
    "qwen3_vl_moe": "qwen3_vl",
    "smolvlm": "internvl",
    "video_llava": "llava_qwen",
}
"""Families by those that do about the same, where the name alone does not tell."""


@dataclass(frozen=True)
class TokenCost:
    """What a frame costs a store and a context."""

    cells: int
    """Tokens of a temporal patch before the reduction, as the language model reads them."""
    width: int
    """Values of a token."""
    context_length: int
    """Most tokens of a prompt and its answer."""
    frames: int = 1
    """Of a temporal patch."""
    row_newlines: int = 0
    """Most tokens that the prompt adds to a patch's own."""

    @property
    def tokens_per_frame(self) -> float:
        """Before the reduction."""
        return self.cells / self.frames

    def bytes_per_hour(self, retention: float, fps: float) -> float:
        """Stored as bfloat16, without what a record costs beside its tokens."""
        tokens = self.tokens_per_frame * fps * SECONDS_PER_HOUR * retention
        return tokens * (2 * self.width + STORED_COLUMNS_BYTES)

    def context_hours(self, retention: float, fps: float) -> float:
        """How much a context holds, without time marks, question and answer."""
        kept = self.cells * retention
        read = (kept + min(self.row_newlines, kept)) / self.frames
        return self.context_length / (read * fps * SECONDS_PER_HOUR)


@dataclass(frozen=True)
class KnownCheckpoint:
    """A published checkpoint."""

    model_id: str
    """Of the Hugging Face hub."""
    family: str
    """The `model_type` of its config."""
    cost: TokenCost


@lru_cache(maxsize=1)
def known_checkpoints() -> tuple[KnownCheckpoint, ...]:
    """Published ones; widths, contexts and deepstack layers as their configs have them."""
    onevision = {"0.5b-ov": 896, "7b-ov": 3584, "72b-ov": 8192}
    video = {"7B": 3584, "72B": 8192}
    qwen25 = {"3B": 2048, "7B": 3584, "72B": 8192}
    qwen3 = {"2B": 2048, "4B": 2560, "8B": 4096}
    intern = {"1B": 896, "2B": 1536, "8B": 3584}
    groups = (
        ("llava-hf/llava-onevision-qwen2-{}-hf", "llava_onevision", onevision, (196, 1, 32768, 1)),
        ("lmms-lab/LLaVA-Video-{}-Qwen2", "llava_qwen", video, (169, 1, 32768, 1)),
        ("Qwen/Qwen2.5-VL-{}-Instruct", "qwen2_5_vl", qwen25, (350, 1, 128000, 2)),
        ("Qwen/Qwen3-VL-{}-Instruct", "qwen3_vl", qwen3, (350, 4, 262144, 2)),
        ("OpenGVLab/InternVL3-{}-hf", "internvl", intern, (256, 1, 32768, 1)),
    )
    return tuple(
        KnownCheckpoint(
            name.format(size),
            family,
            TokenCost(cells, width * parts, context, frames, 13 if family == "llava_qwen" else 0),
        )
        for name, family, sizes, (cells, parts, context, frames) in groups
        for size, width in sizes.items()
    )


def nearest_family(model_type: str) -> str:
    """The supported family that is most like another."""
    families = sorted({known.family for known in known_checkpoints()})
    close = difflib.get_close_matches(model_type, families, n=1)
    return NEAREST.get(model_type) or (close[0] if close else known_checkpoints()[0].family)


def example_of(family: str) -> str:
    """A checkpoint of a family to take instead."""
    return next(known.model_id for known in known_checkpoints() if known.family == family)


def is_downloaded(model_id: str) -> bool:
    """Whether its weights lie in the hub's cache, as far as the cache knows."""
    import huggingface_hub

    files = ("model.safetensors", "model.safetensors.index.json")
    return any(
        isinstance(huggingface_hub.try_to_load_from_cache(model_id, name), str) for name in files
    )
