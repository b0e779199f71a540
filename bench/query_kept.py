"""The third part of `aot bench query`: how soon a second question on one window is answered.

Ten minutes of stream at 1 fps and a tenth of the tokens (75 clips of 160) are read to a model of
Qwen2-0.5B's widths: for the first time, again with the prompt kept, and, for comparison, a question
of the same words about nothing. All in turns in one run; medians of wall seconds to the first
token and of CPU seconds, prompt and digest included, index and values not. The ratios are those of
CPU seconds; of the layers a sixth is built, so that what a kept prompt costs beside them (digest,
tokens in a row) weighs six times what it does in the whole model.

    python -m bench.query_kept                       # the whole model, 24 layers, two windows

builds all of Qwen2-0.5B with random weights (2 GB) and asks of windows of 3,200 and 12,000 tokens,
beside what the ratio would be if nothing but arithmetic, or nothing but reading memory, took time.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.facts import measured_commit
from bench.query_answer import MODEL, QUESTION
from bench.random_checkpoint import CheckpointSize, write_random_checkpoint
from workers.models import LanguageModel, VisualSegment, open_language_model
from workers.reading import format_mark

CLIPS, CLIP_S, TOKENS = 75, 8.0, 160
OTHERS = ("What is on the table?", "Who is in the room?", "Which colour is the door?")
WHOLE = replace(MODEL, vision_layers=1, llm_layers=24, tie_embeddings=True, vocab_size=151_936)
"""Qwen2-0.5B as LLaVA-OneVision-0.5B has it; of its vision half next to nothing."""
LARGE = replace(
    WHOLE, llm_layers=28, llm_dim=3584, llm_heads=28, llm_kv_heads=4, llm_mlp_dim=18_944
)
"""Qwen2-7B, to reckon with."""

Taken = Mapping[str, Sequence[tuple[float, float]]]
"""Wall and CPU seconds to the first token, by what was asked."""
Report = Callable[[str], None]


def measure_kept_prompt(
    *,
    size: CheckpointSize = MODEL,
    clips: int = CLIPS,
    rounds: int = 5,
    on_progress: Report = lambda _: None,
) -> dict[str, float]:
    """`cold_first_token_s`, `kept_first_token_s`, `text_first_token_s`, `kept_over_text`."""
    with _opened(size) as model:
        [taken] = _ask_in_turns(model, [make_window(clips, size)], rounds, on_progress)
    return _summarise(taken) | {"kept_window_s": clips * CLIP_S}


def measure_windows(
    *,
    size: CheckpointSize = WHOLE,
    windows: Sequence[int] = (20, CLIPS),
    rounds: int = 5,
    on_progress: Report = lambda _: None,
) -> dict[str, Any]:
    """`windows`: the same figures of each number of clips, and what is expected of them."""
    with _opened(size) as model:
        shown = [make_window(clips, size) for clips in windows]
        lengths = [model.count_tokens(QUESTION, window) for window in shown]
        words = model.count_tokens(QUESTION, [])
        taken = _ask_in_turns(model, shown, rounds, on_progress)
    told = [
        {"clips": clips, "tokens": clips * TOKENS, "positions": length}
        | _summarise(of)
        | {f"expected_{name}": one for name, one in expected_ratios(size, length, words).items()}
        for clips, length, of in zip(windows, lengths, taken, strict=True)
    ]
    return {"layers": size.llm_layers, "width": size.llm_dim, "words": words, "windows": told}


def expected_ratios(size: CheckpointSize, keys: int, words: int) -> dict[str, float]:
    """A question of `words` tokens behind so many keys over one about nothing, by what takes time.

    `arithmetic`: a word takes two operations a weight of the layers, four a key and unit of width;
    the last one two a weight of the head. `traffic`: the weights and all keys and values are read
    once, two bytes each, as where an accelerator has arithmetic to spare.
    """
    width, layers = size.llm_dim, size.llm_layers
    shared = width * size.llm_kv_heads // size.llm_heads
    weights = layers * (2 * width * (width + shared) + 3 * width * size.llm_mlp_dim)
    head = (size.vocab_size or 0) * width
    plain = words * 2 * weights + 2 * head
    return {
        "arithmetic": round(1 + words * 4 * keys * width * layers / plain, 2),
        "traffic": round(1 + 2 * keys * shared * layers / (weights + head), 2),
    }


def make_window(clips: int, size: CheckpointSize) -> list[VisualSegment]:
    """So many clips as they are read to the model, of seeded tokens."""
    seeded = torch.Generator().manual_seed(clips)
    return [
        VisualSegment(
            format_mark(n * CLIP_S), torch.randn(TOKENS, size.llm_dim, generator=seeded) * 0.02
        )
        for n in range(clips)
    ]


@contextmanager
def _opened(size: CheckpointSize) -> Iterator[LanguageModel]:
    with tempfile.TemporaryDirectory(prefix="aot-bench-") as name:
        folder = str(write_random_checkpoint(Path(name) / "model", size))
        yield open_language_model(folder, kept_bytes=1 << 30)


def _ask_in_turns(
    model: LanguageModel,
    windows: Sequence[list[VisualSegment]],
    rounds: int,
    on_progress: Report,
) -> list[Taken]:
    """Of each window `cold` once, then `kept` of all and `text` in turns."""
    _answer(model, QUESTION, [])  # warms both ways
    cold, kept, text = [], [[] for _ in windows], []
    for window in windows:
        on_progress(f"a prompt of {len(window)} clips for the first time")
        cold.append(_answer(model, QUESTION, window))
    for number in range(rounds):
        on_progress(f"a kept prompt, round {number + 1} of {rounds}")
        question = OTHERS[number % len(OTHERS)]
        for window, taken in zip(windows, kept, strict=True):
            taken.append(_answer(model, question, window))
        text.append(_answer(model, question, []))
    return [{"cold": [c], "kept": k, "text": text} for c, k in zip(cold, kept, strict=True)]


def _summarise(figures: Taken) -> dict[str, float]:
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


def main(given: Sequence[str]) -> None:
    """Measure the whole model, or fewer of its layers; one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.query_kept")
    parser.add_argument("--layers", type=int, default=WHOLE.llm_layers)
    parser.add_argument("--clips", type=int, nargs="+", default=[20, CLIPS])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(given)
    figures = measure_windows(
        size=replace(WHOLE, llm_layers=options.layers),
        windows=options.clips,
        rounds=options.rounds,
        on_progress=lambda line: print(line, file=sys.stderr, flush=True),
    )
    positions = [one["positions"] for one in figures["windows"]]
    large = [expected_ratios(LARGE, keys, figures["words"]) for keys in positions]
    facts = {"bench": "query_kept", "commit": measured_commit(), "device": "cpu"}
    print(json.dumps(facts | figures | {"expected_of_7b": large}))


if __name__ == "__main__":
    main(sys.argv[1:])
