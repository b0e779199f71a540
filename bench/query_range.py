"""The fifth part of `aot bench query`: what a question costs by the length of its range.

A day of one stream's cache (clips of a generated scene with the bundled model's tokens, again and
again) with its levels, as they are made beside the writing. Questions over ten minutes, an hour and
the whole day, at places drawn by chance, in turns in one run, with one budget that all of them are
more than: told are milliseconds of the retrieval (index, values, re-compression) and of the whole
answer, and the day over the ten minutes. No prompt is kept.
"""

import os
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bench.folders import own_folder
from bench.query_crowd import DAY_S, filled_day, make_levels
from pipeline.ask.answer import Answer
from pipeline.ask.run import Question, ask
from pipeline.store import open_store
from workers.models import open_language_model

RANGES: Mapping[str, float] = {"10m": 600.0, "1h": 3600.0, "24h": DAY_S}
BUDGET = 1000
"""Visual tokens; ten minutes hold three times as many."""
ROUNDS = 60
QUESTIONS = ("What is seen?", "What is red?", "Is there a circle?", "How many are there?")


def measure_ranges(
    *,
    day_s: float = DAY_S,
    rounds: int = ROUNDS,
    budget: int = BUDGET,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """`range_...`: figures of each range, and the longest over the shortest."""
    with own_folder() as folder:
        settings = filled_day(folder, day_s, on_progress)
        with open_store(settings.store_config()) as store:
            on_progress("making its levels")
            began_s = time.perf_counter()
            made = make_levels(settings)
            level_ms = (time.perf_counter() - began_s) * 1000 / max(1, made)
            model, taken = open_language_model(settings.model.id), {of: [] for of in RANGES}
            rng = random.Random(3)
            for number in range(-1, rounds):
                on_progress(f"asking, round {number + 1} of {rounds}")
                for of, length_s in RANGES.items():
                    start_s = rng.uniform(0, max(0.0, day_s - length_s))
                    asked = Question(
                        QUESTIONS[number % len(QUESTIONS)],
                        ("day",),
                        start=start_s,
                        end=start_s + min(length_s, day_s),
                        max_visual_tokens=budget,
                        max_new_tokens=4,
                        fit="recompress",
                    )
                    answer = ask(store, model, asked)
                    if number >= 0:  # what is loaded at first use is not told
                        taken[of].append(answer)
    return _summarise(taken) | {
        "range_budget": budget,
        "range_levels": made,
        "range_level_ms": round(level_ms, 1),
        "range_load_average": round(os.getloadavg()[0], 1),
    }


def _summarise(taken: Mapping[str, list[Answer]]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    retrieval, whole = {}, {}
    for of, answers in taken.items():
        times = [answer.timings for answer in answers]
        retrieval[of] = [(one.index_s + one.load_s) * 1000 for one in times]
        whole[of] = [one.total_s * 1000 for one in times]
        figures[f"range_{of}_clips"] = answers[-1].streams[0].clips_read
        figures[f"range_{of}_mb_read"] = round(answers[-1].bytes_read / 1e6, 2)
        for name, values in (("retrieval", retrieval[of]), ("whole", whole[of])):
            for p in (50, 99):
                figures[f"range_{of}_{name}_ms_p{p}"] = round(float(np.percentile(values, p)), 1)
    first, *_, last = taken
    for name, values in (("retrieval", retrieval), ("whole", whole)):
        ratio = float(np.median(values[last]) / np.median(values[first]))
        figures[f"range_{last}_over_{first}_{name}"] = round(ratio, 2)
    return figures
