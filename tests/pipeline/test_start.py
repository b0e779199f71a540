"""What a command loads before it starts: whoever lists streams waits for no torch and no Ray."""

import json
import os
import subprocess
import sys

import pytest

from tests.pipeline.conftest import CLIPS

HEAVY = {"torch", "ray", "av", "transformers", "fastapi", "uvicorn", "mcp"}
RECORDS = {"pyarrow", "numpy"}
"""What reading and writing records takes."""


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Top-level packages in memory after some Python ran in a process of its own."""
    told = "import json as j, sys as s; s.stderr.write('\\n' + j.dumps(sorted(s.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{told}", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ},
        timeout=200,
        check=True,
    )
    return {name.split(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}


def loaded_by_command(*arguments: str, code: int = 0) -> set[str]:
    run = f"from pipeline.cli import main\nassert main(sys.argv[1:]) == {code}"
    return loaded_by(run, *map(str, arguments))


@pytest.mark.parametrize(
    "module", ["aot", "aot.errors", "workers.errors", "pipeline.values.errors"]
)
def test_errors_need_nothing(module):
    theirs = loaded_by(f"import {module}") - loaded_by("")
    assert theirs - set(sys.stdlib_module_names) <= {"aot", "workers", "pipeline"}


def test_a_store_needs_no_tensors_to_be_opened():
    loaded = loaded_by("import pipeline.store.redis, pipeline.settings")
    assert not loaded & (HEAVY | RECORDS)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--help",), 0),
        (("--version",), 0),
        (("ingest", "--help"), 0),
        (("ask", "what"), 2),
        (("fly",), 2),
        (("--config", "nowhere.yaml", "config"), 2),
        (("config",), 0),
        (("streams",), 0),
        (("streams", "show", "walk"), 0),
        (("streams", "show", "nobody"), 1),
        (("clips", "ls", "walk"), 0),
        (("clips", "ls", "walk", "--from", "4", "--to", "8"), 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_reads_no_record_loads_no_model_no_cluster_and_no_decoder(ingested, arguments, code):
    assert not loaded_by_command(*arguments, code=code) & (HEAVY | RECORDS)


@pytest.fixture
def ingested(run, video, opened):
    """The video as stream `walk`."""
    assert run("ingest", video).code == 0
    assert len(opened.list_spans("walk")) == CLIPS


@pytest.mark.parametrize("package", ["aot", "pipeline", "pipeline.store.arrow"])
def test_every_public_name_is_found_where_it_is_said_to_live(package):
    import importlib

    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(module._HOME_OF)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        module.nonsense  # noqa: B018
