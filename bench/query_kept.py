"""The third part of `aot bench query`: how soon a second question on one window is answered.

Ten minutes of stream at 1 fps and a tenth of the tokens (75 clips of 160) are read to a model of
Qwen2-0.5B's widths: for the first time, again with the prompt kept, and, for comparison, a question
of the same words about nothing. All in turns in one run; medians of wall seconds to the first
token and of CPU seconds, prompt and digest included, index and values not. The ratios are those of
CPU seconds; of the layers a sixth is built, so that what a kept prompt costs beside them (digest,
tokens in a row) weighs six times what it does in the whole model.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from bench.query_answer import MODEL, QUESTION
from bench.random_checkpoint import CheckpointSize, write_random_checkpoint
from workers.models import LanguageModel, VisualSegment, open_language_model
from workers.reading import format_mark

CLIPS, CLIP_S, TOKENS = 75, 8.0, 160
OTHERS = ("What is on the table?", "Who is in the room?", "Which colour is the door?")


def measure_kept_prompt(
    *,
    size: CheckpointSize = MODEL,
    clips: int = CLIPS,
    rounds: int = 5,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """`cold_first_token_s`, `kept_first_token_s`, `text_first_token_s`, `kept_over_text`."""
    with tempfile.TemporaryDirectory(prefix="aot-bench-") as name:
        folder = str(write_random_checkpoint(Path(name) / "model", size))
        model = open_language_model(folder, kept_bytes=1 << 30)
        window = [
            VisualSegment(format_mark(n * CLIP_S), torch.randn(TOKENS, size.llm_dim) * 0.02)
            for n in range(clips)
        ]
        _answer(model, QUESTION, [])  # warms both ways
        on_progress("a long prompt for the first time")
        figures = {"cold": [_answer(model, QUESTION, window)], "kept": [], "text": []}
        for number in range(rounds):
            on_progress(f"a kept prompt, round {number + 1} of {rounds}")
            question = OTHERS[number % len(OTHERS)]
            figures["kept"].append(_answer(model, question, window))
            figures["text"].append(_answer(model, question, []))
    return _summarise(figures) | {"kept_window_s": clips * CLIP_S}


def _summarise(figures: Mapping[str, list[tuple[float, float]]]) -> dict[str, float]:
    result: dict[str, float] = {}
    for name, taken in figures.items():
        wall_s, cpu_s = (statistics.median(column) for column in zip(*taken, strict=True))
        result |= {f"{name}_first_token_s": round(wall_s, 4), f"{name}_cpu_s": round(cpu_s, 4)}
    return result | {
        "kept_over_text": round(result["kept_cpu_s"] / result["text_cpu_s"], 2),
        "kept_speedup": round(result["cold_cpu_s"] / result["kept_cpu_s"], 1),
    }


def _answer(
    model: LanguageModel, question: str, window: list[VisualSegment]
) -> tuple[float, float]:
    """Wall and CPU seconds to the first token."""
    began_s, cpu_s = time.perf_counter(), time.process_time()
    for _ in model.stream_answer(question, window, max_new_tokens=1):
        pass
    return time.perf_counter() - began_s, time.process_time() - cpu_s
