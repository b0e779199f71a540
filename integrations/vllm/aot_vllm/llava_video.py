"""LLaVA-Video in vLLM, which has all its parts under another name and knows no `llava_qwen`.

A plugin of vLLM (`vllm.general_plugins`), so that such a checkpoint is served as it lies. What it
reads are visual tokens that are stored: pictures and videos it is not sent, for which the
checkpoint would need a processor that it does not bring.
"""

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, LlavaOnevisionConfig
from vllm import ModelRegistry
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionMultiModalProcessor,
    LlavaOnevisionProcessingInfo,
)
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from workers.models.families.llava_qwen import as_onevision


class LlavaQwenConfig(LlavaOnevisionConfig):
    """A `config.json` of the LLaVA-NeXT repository, told as LLaVA-OneVision's."""

    model_type = "llava_qwen"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """See `PretrainedConfig.from_dict`."""
        config = as_onevision(config_dict, str(kwargs.get("name_or_path", "the model")), cls)
        config.architectures = config_dict.get("architectures")
        return (config, kwargs) if kwargs.pop("return_unused_kwargs", False) else config


class StoredTokensInfo(LlavaOnevisionProcessingInfo):
    """What vLLM asks of a processor before it has a request, without one."""

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        """A run may fill the context."""
        return dict.fromkeys(mm_counts, seq_len)


@MULTIMODAL_REGISTRY.register_processor(
    LlavaOnevisionMultiModalProcessor,
    info=StoredTokensInfo,
    dummy_inputs=LlavaOnevisionDummyInputsBuilder,
)
class LlavaQwenForCausalLM(LlavaOnevisionForConditionalGeneration):
    """vLLM's LLaVA-OneVision, with the names of the weights as they lie on disk."""

    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            "model.vision_tower.vision_tower.": "vision_tower.",
            "model.mm_projector.0.": "multi_modal_projector.linear_1.",
            "model.mm_projector.2.": "multi_modal_projector.linear_2.",
            "model.image_newline": "image_newline",
            "model.embed_tokens.": "language_model.model.embed_tokens.",
            "model.layers.": "language_model.model.layers.",
            "model.norm.": "language_model.model.norm.",
            "lm_head.": "language_model.lm_head.",
        }
    )


def register() -> None:
    """What vLLM calls in each of its processes."""
    AutoConfig.register("llava_qwen", LlavaQwenConfig, exist_ok=True)
    ModelRegistry.register_model("LlavaQwenForCausalLM", LlavaQwenForCausalLM)
