"""A checkpoint on disk: found, proved safe to load, and named by its content.

A checkpoint is a folder in the Hugging Face layout, or a hub id that is resolved to one. Before a
class of transformers sees it: the weights are safetensors (pickle runs code while it loads), every
file of them is complete, and the config names a family without asking for code of its own.
"""

import fnmatch
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
from safetensors import SafetensorError, safe_open
from torch import Tensor

from workers.errors import (
    InvalidCheckpoint,
    ModelNotFound,
    NoVisionTower,
    UnsafeWeights,
    UnsupportedModel,
    one_line,
)

logger = logging.getLogger(__name__)

HUB_TIMEOUT_S = 10.0
"""Longest wait for the hub to say which commit and files there are."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
HUB_FILES = ("*.json", "*.jinja", "*.safetensors", "*.model", "merges.txt", "vocab.txt")
"""What is fetched from a hub repository: never pickle, never code."""
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
WHOLE_DIGEST_BYTES = 256 * 1024**2
"""Weights up to this size are digested whole, larger ones by samples."""
SAMPLE_BYTES = 64 * 1024
NUM_SAMPLES = 256


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose weights are safe to load."""

    folder: Path
    model_id: str
    revision: str
    config: dict[str, Any] = field(repr=False)
    """`config.json` as it stands."""
    weight_files: tuple[Path, ...] = field(repr=False)

    @property
    def model_type(self) -> str:
        """The family's name in its config."""
        return str(self.config.get("model_type"))

    def read_json(self, name: str) -> dict[str, Any]:
        """A settings file of the folder; empty when there is none."""
        path = self.folder / name
        return _read_json(path) if path.is_file() else {}

    def weights_digest(self) -> str:
        """Digest of names, sizes and content of the weights, the same wherever they lie.

        Above `WHOLE_DIGEST_BYTES` the content is the header and evenly spaced samples: reading
        15 GB takes half a minute, and a changed training run changes every sample.
        """
        digest = hashlib.blake2b(digest_size=16)
        sizes = [path.stat().st_size for path in self.weight_files]
        for path, size in zip(self.weight_files, sizes, strict=True):
            digest.update(f"{path.name}:{size};".encode())
            for piece in _pieces(path, size, whole=sum(sizes) <= WHOLE_DIGEST_BYTES):
                digest.update(piece)
        return digest.hexdigest()

    def read_weight(self, suffix: str) -> Tensor:
        """The one weight whose name ends so; nothing else is read.

        Raises:
            InvalidCheckpoint: there is none.
        """
        for path in self.weight_files:
            with safe_open(path, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - no dict
                    if name.endswith(suffix):
                        return weights.get_tensor(name)
        raise InvalidCheckpoint(
            f"{self.model_id} has no weight {suffix!r}, which its prompts need; fetch the "
            "checkpoint again"
        )

    def require_vision(self) -> None:
        """Raise NoVisionTower unless the config describes a vision half."""
        if not isinstance(self.config.get("vision_config"), dict):
            raise NoVisionTower(
                f"{self.model_id} (model_type {self.model_type!r}) has no vision_config, expected "
                "a video-language checkpoint; choose one that has a vision half"
            )

    def require_full_precision(self) -> None:
        """Raise UnsupportedModel for quantised weights."""
        text = self.config.get("text_config")
        given = self.config.get("quantization_config") or (
            text.get("quantization_config") if isinstance(text, dict) else None
        )
        if given:
            method = given.get("quant_method") if isinstance(given, dict) else given
            raise UnsupportedModel(
                f"{self.model_id} is quantised ({method}), expected float32, bfloat16 or float16, "
                "as each half is loaded alone; choose the checkpoint it was made from"
            )

    def is_text_only(self) -> bool:
        """True for a type that transformers knows and that has no vision half."""
        from transformers import CONFIG_MAPPING  # seconds to import

        has_vision = any("vision" in name or "visual" in name for name in self.config)
        return not has_vision and self.model_type in CONFIG_MAPPING


def open_checkpoint(model: str | Path, revision: str | None = None) -> Checkpoint:
    """Find a checkpoint by folder or hub id and check that it can be loaded safely.

    Args:
        model: a folder, or a hub id such as `llava-hf/llava-onevision-qwen2-0.5b-ov-hf`.
        revision: commit, tag or branch of a hub repository; a folder has none.

    Raises:
        ModelNotFound: no such folder; not in the hub or the hub is out of reach and not cached.
        UnsafeWeights: the weights are not safetensors.
        InvalidCheckpoint: files are missing or damaged.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        model_id, resolved = folder.resolve().name, "local"
    else:
        folder = _fetch(str(model), revision)
        model_id, resolved = str(model), folder.name
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ModelNotFound(
            f"{model} has no config.json, expected a checkpoint in the Hugging Face layout; "
            "check the path"
        )
    config = _read_json(config_path)
    return Checkpoint(folder, model_id, resolved, config, _weight_files(folder))


def _fetch(model: str, revision: str | None) -> Path:
    """The snapshot of a hub repository: fetched, or from the cache when the hub gives no answer."""
    if not HUB_ID.fullmatch(model):
        raise ModelNotFound(f"no folder {model!r}, and it is not a hub id; check the path")
    try:
        info = huggingface_hub.HfApi().model_info(model, revision=revision, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # transport, hub and offline mode raise unrelated types
        return _cached(model, revision, error)
    names = [file.rfilename for file in info.siblings or ()]
    wanted = [name for name in names if any(fnmatch.fnmatch(name, p) for p in HUB_FILES)]
    try:
        # By its name, so that the cache knows which commit a branch or tag was.
        huggingface_hub.hf_hub_download(
            model, "config.json", revision=revision, etag_timeout=HUB_TIMEOUT_S
        )
        paths = [
            huggingface_hub.hf_hub_download(
                model, name, revision=info.sha, etag_timeout=HUB_TIMEOUT_S
            )
            for name in wanted
            if "/" not in name
        ]
    except Exception as error:  # as above
        raise _not_found(model, revision, error) from error
    return Path(paths[0]).parent


def _cached(model: str, revision: str | None, reason: Exception) -> Path:
    try:
        folder = huggingface_hub.snapshot_download(
            model, revision=revision, allow_patterns=list(HUB_FILES), local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise _not_found(model, revision, reason) from error
    logger.warning("the hub gave no answer (%s): %s comes from the cache", one_line(reason), model)
    return Path(folder)


def _not_found(model: str, revision: str | None, reason: Exception) -> ModelNotFound:
    at = f" at revision {revision!r}" if revision else ""
    return ModelNotFound(
        f"{model!r}{at} is no folder, not cached and not to be had from the hub "
        f"({type(reason).__name__}); check the name, or pass the path of a folder"
    )


def _weight_files(folder: Path) -> tuple[Path, ...]:
    files = tuple(sorted(folder.glob("*.safetensors")))
    if not files:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES)
        found = f"only {pickles[0]}" if pickles else "no weights"
        raise UnsafeWeights(
            f"{folder.name} has {found}, expected *.safetensors, because loading pickle runs code; "
            "convert the checkpoint, or choose a revision with safetensors"
        )
    names = {path.name for path in files}
    index = folder / "model.safetensors.index.json"
    shards = set(_read_json(index).get("weight_map", {}).values()) if index.is_file() else set()
    if missing := sorted(shards - names):
        raise InvalidCheckpoint(
            f"{folder.name} lacks {len(missing)} of {len(shards)} weight files, such as "
            f"{missing[0]}; fetch the checkpoint again"
        )
    used = tuple(path for path in files if path.name in shards) if shards else files
    for path in used:
        _check_header(path)
    return used


def _check_header(path: Path) -> None:
    """The header must be readable and promise as many bytes as the file has."""
    try:
        with safe_open(path, framework="pt") as weights:
            weights.keys()
    except (SafetensorError, OSError) as error:
        raise InvalidCheckpoint(
            f"{path.name} is damaged or cut off ({one_line(error)}); fetch the checkpoint again"
        ) from error


def _pieces(path: Path, size: int, *, whole: bool) -> Iterator[bytes]:
    with path.open("rb") as file:
        if whole:
            while piece := file.read(1024**2):
                yield piece
            return
        header_bytes = int.from_bytes(file.read(8), "little")
        yield file.read(header_bytes)
        for sample in range(NUM_SAMPLES):
            file.seek(sample * max(0, size - SAMPLE_BYTES) // (NUM_SAMPLES - 1))
            yield file.read(SAMPLE_BYTES)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidCheckpoint(
            f"{path.name} cannot be read as JSON ({one_line(error)}); fetch the checkpoint again"
        ) from error
    if not isinstance(value, dict):
        raise InvalidCheckpoint(
            f"{path.name} holds a {type(value).__name__}, expected an object; "
            "fetch the checkpoint again"
        )
    return value
