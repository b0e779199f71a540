"""What the kernels take of a card, told by the compiler alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("compile_kernels.py")
ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_no_kernel_spills_registers():
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    output = subprocess.run(
        [sys.executable, PROGRAM],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert output.returncode == 0, output.stderr
    taken = json.loads(output.stdout)
    assert taken
    for kernel, resources in taken.items():
        assert resources["spilled_bytes"] == 0, kernel
        most = 112 if kernel.startswith("multiply") else 64  # two, or three, a multiprocessor
        assert resources["shared_bytes"] <= most * 1024, kernel
