"""Every program of examples/ runs by itself and says what it is there to show."""

import os
import subprocess
import sys

import pytest

from tests.rooms import ROOT

SAYS = {
    "01_reduce_a_clip.py": "142 of 1568 tokens kept",
    "02_ingest_and_ask.py": "from camera, 8 to 16 s",
    "03_read_the_arrow.py": "78 tokens of width 192, float32",
    "04_two_streams.py": "156 tokens of 4 clips were read",
    "05_cluster.py": "complete: 16 s committed, 2 clips",
}


def test_every_program_is_run():
    assert sorted(SAYS) == sorted(path.name for path in (ROOT / "examples").glob("[0-9]*.py"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SAYS)
def test_a_program_runs_outside_the_clone(name, tmp_path):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AOT_")}
    ran = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        cwd=tmp_path,
        env={**kept, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert SAYS[name] in ran.stdout
