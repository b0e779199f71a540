"""A task in lmms-eval's format: generated videos, questions whose answers are known.

Written as benchmarks of the harness are: a YAML file, functions beside it, a dataset of JSON lines.
"""

import json
from pathlib import Path

import numpy as np

from demo.world.questions import ask, open_window
from demo.world.render import render
from demo.world.scenes import generate_scene
from demo.world.video import write_video

NAME = "generated_scenes"
SECONDS = 16.0
TASK = f"""\
task: {NAME}
dataset_path: json
dataset_kwargs:
  data_files:
    test: FOLDER/questions.jsonl
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answer
process_results: !function utils.process_results
generation_kwargs:
  max_new_tokens: 12
  temperature: 0
  do_sample: false
  until: ["\\n"]
metric_list:
  - metric: exact
    aggregation: mean
    higher_is_better: true
metadata:
  version: 0.0
"""
UTILS = """\
def doc_to_visual(doc, lmms_eval_specific_kwargs=None):
    return [doc["video"]]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def process_results(doc, results):
    return {"exact": float(results[0].lower().split() == doc["answer"].lower().split())}
"""


def write_task(folder: Path, *, videos: int = 3, questions: int = 4) -> int:
    """Write it; how many questions it has."""
    documents = []
    for number in range(videos):
        scene = generate_scene(("surveillance", "lecture")[number % 2], 810_100 + number, SECONDS)
        path = folder / f"{number}.mp4"
        write_video(scene, path)
        times_s = np.arange(SECONDS)
        window = open_window(scene, render(scene, times_s).visible, times_s, 0.0)
        for asked in ask(window, np.random.default_rng(number))[:questions]:
            documents.append({"video": str(path), "question": asked.text, "answer": asked.answer})
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / f"{NAME}.yaml").write_text(TASK.replace("FOLDER", str(folder)))
    (folder / "utils.py").write_text(UTILS)
    return len(documents)
