"""Every example of docs/service.md is run against a service."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[3] / "docs" / "service.md"
EXAMPLES = re.findall(r"```(bash|python)\n(.*?)```", PAGE.read_text(), re.S)


def test_the_page_has_examples():
    assert {kind for kind, _ in EXAMPLES} == {"bash", "python"}


@pytest.mark.parametrize(("kind", "text"), EXAMPLES)
def test_an_example_runs(served, tmp_path, kind, text):
    script = text.replace("localhost:8400", served.url.removeprefix("http://"))
    command = ["bash", "-euc"] if kind == "bash" else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or (tmp_path / "clip.arrow").stat().st_size
