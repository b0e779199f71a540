"""Models in two halves: frames to tokens, tokens to answers. The family is told by the config.

    encoder = open_vision_encoder("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", device="cuda")
    features = encoder.encode(frames)                       # tokens, attention received
    model = open_language_model("path/to/the/same/checkpoint")
    "".join(model.stream_answer("What happens?", [VisualSegment("[00:12:30]", tokens)]))

Knows of no cluster, no decoder and no store. transformers, which takes seconds to import, is
imported when a checkpoint is opened.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from workers.errors import ModelError, NoVisionTower, UnsupportedModel, one_line
from workers.imports import collector_paused
from workers.models.base import (
    LanguageModel,
    Marks,
    ModelIdentity,
    Places,
    ReadingStyle,
    VisionEncoder,
    VisualSegment,
)
from workers.models.catalog import (
    KnownCheckpoint,
    TokenCost,
    example_of,
    is_downloaded,
    known_checkpoints,
    nearest_family,
)
from workers.models.checkpoint import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    from workers.models.reader import TokenReader

__all__ = [
    "FAMILIES",
    "Family",
    "KnownCheckpoint",
    "LanguageModel",
    "Marks",
    "ModelIdentity",
    "Places",
    "ReadingStyle",
    "TokenCost",
    "VisionEncoder",
    "VisualSegment",
    "is_downloaded",
    "known_checkpoints",
    "measure_model",
    "open_language_model",
    "open_token_reader",
    "open_vision_encoder",
]

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@runtime_checkable
class Family(Protocol):
    """What an adapter module has: both halves, loaded from an opened checkpoint."""

    def open_vision(
        self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype
    ) -> VisionEncoder:
        """Load the vision half."""
        ...

    def open_language(
        self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype
    ) -> LanguageModel:
        """Load the language half."""
        ...

    def measure(self, checkpoint: Checkpoint) -> TokenCost:
        """What its tokens cost, by its config alone."""
        ...


FAMILIES = {
    "internvl": "workers.models.families.internvl",
    "llava_onevision": "workers.models.families.llava_onevision",
    "llava_qwen": "workers.models.families.llava_qwen",
    "qwen2_5_vl": "workers.models.families.qwen2_5_vl",
    "qwen3_vl": "workers.models.families.qwen3_vl",
}
"""Adapter modules by the `model_type` of the config; imported when first needed."""
READ_ELSEWHERE = ("internvl", "llava_onevision", "llava_qwen")
"""Those with an `open_reader`: all that their language model needs are rows of embeddings."""


def open_vision_encoder(
    model: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
) -> VisionEncoder:
    """Load the vision half of a checkpoint; of the language half nothing is read.

    Args:
        model: a folder in the Hugging Face layout, or a hub id.
        revision: commit, tag or branch of a hub repository.
        device: as torch names it.
        dtype: `float32`, `bfloat16` or `float16`.

    Raises:
        ModelNotFound, UnsupportedModel, NoVisionTower, UnsafeWeights, InvalidCheckpoint: what is
            wrong with the checkpoint.
        ModelError: there is no such device or dtype.
    """
    checkpoint, family = _open(model, revision)
    return family.open_vision(checkpoint, _device(device), _dtype(dtype))


def open_language_model(
    model: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    kept_bytes: int = 0,
) -> LanguageModel:
    """Load the language half of a checkpoint; of the vision tower's layers nothing is read.

    `kept_bytes`: of prompts that were read and are kept for further questions on them, where the
    family can. Other arguments and errors are those of `open_vision_encoder`.
    """
    from workers.models.language import CachedTokensLanguageModel

    checkpoint, family = _open(model, revision)
    half = family.open_language(checkpoint, _device(device), _dtype(dtype))
    if isinstance(half, CachedTokensLanguageModel):
        half.kept.max_bytes = kept_bytes
    return half


def open_token_reader(model: str | Path, *, revision: str | None = None) -> "TokenReader":
    """What asks a language model that runs elsewhere; no layer of it is read.

    Errors are those of `open_vision_encoder`.

    Raises:
        UnsupportedModel: a family whose tokens cannot be told by rows of embeddings alone.
    """
    checkpoint, family = _open(model, revision)
    opened = getattr(family, "open_reader", None)
    if opened is None:
        raise UnsupportedModel(
            f"{checkpoint.model_id} is a {checkpoint.model_type}, whose tokens have places or "
            f"columns of their own, expected one of {', '.join(READ_ELSEWHERE)}; ask it here"
        )
    return opened(checkpoint)


def measure_model(model: str | Path, *, revision: str | None = None) -> tuple[str, TokenCost]:
    """The family of a checkpoint and what its tokens cost; no weight is read.

    Raises:
        ModelNotFound, UnsupportedModel, NoVisionTower, UnsafeWeights, InvalidCheckpoint: as when it
            is opened.
    """
    checkpoint, family = _open(model, revision)
    return checkpoint.model_type, family.measure(checkpoint)


def _open(model: str | Path, revision: str | None) -> tuple[Checkpoint, Family]:
    checkpoint = open_checkpoint(model, revision)
    checkpoint.require_full_precision()
    module = FAMILIES.get(checkpoint.model_type)
    if module is not None:
        with collector_paused():
            family: Any = importlib.import_module(module)
        return checkpoint, family
    if checkpoint.is_text_only():
        raise NoVisionTower(
            f"{checkpoint.model_id} is a {checkpoint.model_type} without a vision tower, expected "
            f"a video-language model ({', '.join(FAMILIES)}); choose another"
        )
    nearest = nearest_family(checkpoint.model_type)
    raise UnsupportedModel(
        f"{checkpoint.model_id} has model_type {checkpoint.model_type!r}, expected one of "
        f"{', '.join(FAMILIES)}; the nearest is {nearest}, such as {example_of(nearest)}; `aot "
        "models` lists more"
    )


def _device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"got device {str(device)!r}, which this machine cannot use ({one_line(error)}); "
            "pass 'cpu', or install a torch built for the accelerator"
        ) from error
    return found


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ModelError(f"got dtype {str(dtype)!r}, expected one of {', '.join(DTYPES)}")
    return found
