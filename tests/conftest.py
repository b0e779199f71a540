"""Fixtures for all tests: the folder of recorded outputs and footage, seeds."""

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads it where a kernel is defined: from here on they run on a CPU, interpreted.
    os.environ.setdefault("TRITON_INTERPRET", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with recorded outputs and test footage, when it lies beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED}: recorded outputs and footage are not part of the repo")
    return SHARED


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
