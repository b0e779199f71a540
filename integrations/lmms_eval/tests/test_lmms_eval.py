"""`lmms-eval --model aot_stream` runs a task from its YAML to its table, from the store alone."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from demo.miniature.model import build_model, export_model
from integrations.lmms_eval.tests.task import NAME, write_task
from pipeline.store import StoreConfig, open_store
from pipeline.store.embedded import stop_embedded

ROOT = Path(__file__).resolve().parents[3]
HARNESS = Path(os.environ.get("AOT_LMMS_EVAL", ROOT / ".venv-lmms-eval" / "bin" / "python"))
LIMIT_S = 800


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if not HARNESS.is_file():
        pytest.skip(f"no lmms-eval at {HARNESS}: `make test-lmms-eval` makes an environment for it")
    folder = tmp_path_factory.mktemp("lmms")
    yield folder
    stop_embedded(folder / "store")


@pytest.fixture(scope="module")
def task(folder) -> tuple[Path, int]:
    (folder / "task").mkdir()
    return folder / "task", write_task(folder / "task")


def evaluate(folder: Path, task: Path, **arguments: object) -> tuple[dict, list[dict]]:
    """The table and the samples that the harness wrote."""
    given = {"store": f"embedded://{folder / 'store'}", **arguments}
    out = folder / f"out-{len(list(folder.glob('out-*')))}"
    command = [
        *(HARNESS, "-m", "lmms_eval", "--model", "aot_stream", "--tasks", NAME),
        *("--include_path", task, "--output_path", out, "--log_samples", "--batch_size", "1"),
        *("--model_args", ",".join(f"{name}={value}" for name, value in given.items())),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    ran = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    [table] = out.rglob("*results.json")
    [samples] = out.rglob(f"*samples_{NAME}.jsonl")
    lines = samples.read_text().splitlines()
    return json.loads(table.read_text())["results"][NAME], [json.loads(line) for line in lines]


def streams(folder: Path) -> list[str]:
    with open_store(StoreConfig(f"embedded://{folder / 'store'}")) as store:
        return store.list_streams()


def test_the_miniature_is_scored_and_the_next_run_reads_the_store_alone(folder, task):
    where, questions = task
    model = ROOT / "demo" / "weights"
    table, samples = evaluate(folder, where, model=model, retention=0.5)
    assert len(samples) == questions
    right = [sample["exact"] for sample in samples]
    assert table["exact,none"] == pytest.approx(sum(right) / questions)
    assert sum(right) > questions / 2  # the miniature knows such scenes
    assert len(streams(folder)) == 3
    for video in where.glob("*.mp4"):
        video.write_bytes(video.read_bytes())  # what it is, not when it was written, names it
    again, _ = evaluate(folder, where, model=model, retention=0.5)
    assert again["exact,none"] == table["exact,none"]
    assert len(streams(folder)) == 3


def test_a_random_checkpoint_runs_end_to_end_in_streams_of_its_own(folder, task):
    where, questions = task
    export_model(build_model(7), folder / "random")
    before = set(streams(folder))
    _, samples = evaluate(folder, where, model=folder / "random", retention=0.1)
    assert len(samples) == questions
    assert len(set(streams(folder)) - before) == 3
