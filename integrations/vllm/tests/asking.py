"""A question asked of the model itself and by both doors, with ids and log-probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from aot_vllm.engine import VllmEngine

from pipeline.ask.fitting import load_clips, plan_reading
from pipeline.ask.prompt import Reading
from pipeline.ask.question import Question
from pipeline.ask.run import prepare
from pipeline.store import ClipStore
from workers.models import VisualSegment
from workers.models.language import CachedTokensLanguageModel
from workers.seams import Answerer

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "demo" / "weights"
TOP = 5


@dataclass(frozen=True)
class Written:
    """What was written, token by token."""

    ids: list[int]
    logprobs: list[float]
    top: list[list[float]]
    """Of the likeliest tokens at each place, falling."""
    cached: int = 0
    """Tokens of the prompt that the server had read before."""


def read_segments(store: ClipStore, model: Answerer, question: Question) -> Sequence[VisualSegment]:
    """What is read for a question."""
    parts = tuple(part for part in prepare(store, question).parts if part.to_read)
    reading = Reading(question, parts, model)
    return load_clips(store, reading, plan_reading(reading)).segments


def ask_here(
    model: CachedTokensLanguageModel, text: str, segments: Sequence[VisualSegment], length: int
) -> Written:
    """By transformers in this process."""
    inputs = model._inputs(model._writer.write(text, segments), model._features(segments))
    out = model._half.generate(
        **inputs,
        max_new_tokens=length,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    scores = torch.cat(out.logits).float().log_softmax(1)
    ids = out.sequences[0, -len(scores) :]
    chosen = scores.gather(1, ids[:, None])[:, 0]
    return Written(ids.tolist(), chosen.tolist(), scores.topk(TOP).values.tolist())


def ask_there(
    engine: VllmEngine, text: str, segments: Sequence[VisualSegment], length: int
) -> Written:
    """By a server."""
    ids: list[int] = []
    told: list[dict] = []
    cached = 0
    for part in engine.stream_parts(text, segments, max_new_tokens=length, logprobs=TOP):
        usage = part["raw"].get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or cached
        for choice in part["raw"]["choices"]:
            ids += choice.get("token_ids") or []
            told += (choice.get("logprobs") or {}).get("content") or []
    logprobs = [one["logprob"] for one in told]
    top = [sorted((t["logprob"] for t in one["top_logprobs"]), reverse=True)[:TOP] for one in told]
    return Written(ids, logprobs, top, cached)
