"""What a language half would say next, for comparisons with the whole model."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workers.models import VisualSegment


@torch.no_grad()
def scores(model: Any, question: str, segments: Sequence[VisualSegment]) -> Float[Tensor, "l v"]:
    """Next-token scores of a `CachedTokensLanguageModel` at every position, float32."""
    prompt = model._writer.write(question, segments)
    inputs = model._inputs(prompt, model._features(segments))
    return model._half(**inputs).logits[0].float()
