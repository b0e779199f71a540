"""From an opened checkpoint to transformers' objects: config, tokenizer, one half's weights.

The library's many ways to fail come out as one line that names the file to mend. A weight that is
not in the checkpoint would be random: that is an error, never a warning.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from workers.errors import InvalidCheckpoint, NoVisionTower, one_line
from workers.models.base import ModelIdentity, ReadingStyle
from workers.models.checkpoint import Checkpoint
from workers.models.pixels import PixelSettings
from workers.models.prompt import PromptWriter
from workers.models.reader import TokenReader

TOWER_LAYERS = (".vision_tower.encoder.", ".visual.blocks.")
"""In the names of weights that only a vision half has."""
_ONE_AT_A_TIME = threading.Lock()
"""While it loads, transformers replaces functions of its classes and puts them back. Two that load
at once may put back what the other had put there: no model's embeddings are tied from then on."""


def load_config(checkpoint: Checkpoint, config_class: type[PretrainedConfig]) -> Any:
    """The checkpoint's config as an instance of its class."""
    try:
        return config_class.from_pretrained(checkpoint.folder, local_files_only=True)
    except Exception as error:  # the library's validation raises many types
        raise InvalidCheckpoint(
            f"{checkpoint.model_id}: config.json does not describe a {checkpoint.model_type} "
            f"({one_line(error)}); fetch the checkpoint again"
        ) from error


def load_half(
    half: type[PreTrainedModel],
    checkpoint: Checkpoint,
    config: PretrainedConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    attention: str = "sdpa",
    key_mapping: dict[str, str] | None = None,
) -> Any:
    """An instance of `half` in eval mode on a device, with every one of its weights read.

    Args:
        half: a class that, with this config, lacks the layers of the other half; weights without
            a place in it are not read.
        attention: an entry of transformers' attention interface.
        key_mapping: patterns of the weights' names on disk, and what they are in `half`.
    """
    try:
        with _ONE_AT_A_TIME, quiet():
            loaded: Any = half.from_pretrained(
                checkpoint.folder,
                config=config,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                dtype=dtype,
                attn_implementation=attention,
                key_mapping=key_mapping,
            )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise InvalidCheckpoint(
            f"{checkpoint.model_id}: the weights do not fit the config ({one_line(error)}); "
            "fetch the checkpoint again"
        ) from error
    model, report = loaded
    _check_complete(checkpoint, model, set(report["missing_keys"]))
    return model.to(device).eval().requires_grad_(False)


def open_prompt_writer(
    checkpoint: Checkpoint,
    video_token_id: int,
    *,
    bracket_ids: tuple[int, int] | None = None,
    **style: Any,
) -> PromptWriter:
    """Tokenizer and chat template, proved to have a token that stands for video.

    `bracket_ids` are tokens that stand around it; `style` takes the other fields of
    `PromptWriter`.
    """
    tokenizer = open_tokenizer(checkpoint)
    if not tokenizer.chat_template:  # older repositories keep it with the processor
        tokenizer.chat_template = checkpoint.read_json("chat_template.json").get("chat_template")
    if not tokenizer.chat_template:
        raise InvalidCheckpoint(
            f"{checkpoint.model_id} has no chat template, expected chat_template.jinja; "
            "fetch the checkpoint again"
        )
    video_token = tokenizer.convert_ids_to_tokens(video_token_id)
    if video_token not in tokenizer.get_added_vocab():
        raise InvalidCheckpoint(
            f"{checkpoint.model_id}: token {video_token_id} is {video_token!r} in the tokenizer, "
            "expected the special token that stands for video; mend the tokenizer"
        )
    if bracket_ids is not None:
        style["brackets"] = tuple(tokenizer.convert_ids_to_tokens(list(bracket_ids)))
    return PromptWriter(tokenizer, video_token, video_token_id, **style)


def open_tokenizer(checkpoint: Checkpoint) -> Any:
    """The checkpoint's tokenizer, as it stands."""
    try:
        return AutoTokenizer.from_pretrained(
            checkpoint.folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # missing and damaged files raise many types
        raise InvalidCheckpoint(
            f"{checkpoint.model_id} has no usable tokenizer ({one_line(error)}); "
            "fetch the checkpoint again"
        ) from error


def make_reader(
    checkpoint: Checkpoint,
    config: PretrainedConfig,
    settings: PixelSettings,
    writer: PromptWriter,
    reading: ReadingStyle,
    *,
    newline: bool = False,
) -> TokenReader:
    """What reads tokens to a language model elsewhere; of the weights only `newline` is read."""
    row = checkpoint.read_weight("image_newline") if newline else None
    given = config.dtype if row is None else row.dtype
    dtype = given if isinstance(given, torch.dtype) else torch.float32
    text: Any = config.get_text_config()
    return TokenReader(
        identity=identify(checkpoint, settings, dtype),
        reading=reading,
        writer=writer,
        newline=row,
        dim=text.hidden_size,
        context_length=text.max_position_embeddings,
    )


def identify(checkpoint: Checkpoint, settings: PixelSettings, dtype: torch.dtype) -> ModelIdentity:
    """The identity both halves of a checkpoint share, up to the dtype."""
    return ModelIdentity(
        model_id=checkpoint.model_id,
        revision=checkpoint.revision,
        model_type=checkpoint.model_type,
        weights=checkpoint.weights_digest(),
        processor=settings.digest(),
        dtype=str(dtype).removeprefix("torch."),
    )


def _check_complete(checkpoint: Checkpoint, model: torch.nn.Module, missing: set[str]) -> None:
    if not missing:
        return
    layers = {name for name in model.state_dict() if any(tower in name for tower in TOWER_LAYERS)}
    if layers and layers <= missing:
        raise NoVisionTower(
            f"{checkpoint.model_id} holds no weights of a vision tower, expected "
            f"{len(layers)} tensors; choose a checkpoint with its vision half"
        )
    raise InvalidCheckpoint(
        f"{checkpoint.model_id} lacks {len(missing)} tensors, such as {min(missing)}; "
        "fetch the checkpoint again"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's progress bars, and its report of the other half's weights, to itself."""
    bars = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
