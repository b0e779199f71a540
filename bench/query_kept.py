"""The third part of `aot bench query`: how soon a second question on one window is answered.

Ten minutes of stream at 1 fps and a tenth of the tokens (75 clips of 160) are read to a model of
Qwen2-0.5B's widths: for the first time, again with the prompt kept, and, for comparison, a question
of the same words about nothing. All in turns in one run; medians of wall seconds to the first
token, prompt and digest included, index and values not.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench.query_answer import MODEL, QUESTION
from bench.random_checkpoint import CheckpointSize, write_random_checkpoint
from workers.models import LanguageModel, VisualSegment, open_language_model
from workers.reading import format_mark

CLIPS, CLIP_S, TOKENS = 75, 8, 160
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
        plain = open_language_model(folder)
        window = [
            VisualSegment(format_mark(n * CLIP_S), torch.randn(TOKENS, size.llm_dim) * 0.02)
            for n in range(clips)
        ]
        _answer(model, QUESTION, window)  # warms all, and is kept from here on
        _answer(plain, QUESTION, [])
        cold, kept, text = [], [], []
        for number in range(rounds):
            on_progress(f"a kept prompt, round {number + 1} of {rounds}")
            question = OTHERS[number % len(OTHERS)]
            if number < 2:
                cold.append(_answer(plain, question, window))
            kept.append(_answer(model, question, window))
            text.append(_answer(plain, question, []))
    figures = {"cold": cold, "kept": kept, "text": text}
    median = {name: statistics.median(values) for name, values in figures.items()}
    return {
        **{f"{name}_first_token_s": round(value, 4) for name, value in median.items()},
        "kept_over_text": round(median["kept"] / median["text"], 2),
        "kept_speedup": round(median["cold"] / median["kept"], 1),
        "kept_window_s": float(clips * CLIP_S),
    }


def _answer(model: LanguageModel, question: str, window: list[VisualSegment]) -> float:
    """Seconds to the first token."""
    began_s = time.perf_counter()
    for _ in model.stream_answer(question, window, max_new_tokens=1):
        pass
    return time.perf_counter() - began_s
