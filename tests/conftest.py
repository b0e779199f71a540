"""Fixtures for all tests: the folder of recorded outputs and footage, seeds; skips that may not be.

With AOT_FAIL_WITHOUT_GPU set (`make test-gpu`) a test that is skipped for want of an accelerator
fails: a run that was to show something on a card must not pass without one.
"""

import os
from collections.abc import Iterator
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A skipped GPU test fails where the environment says that there is to be a GPU."""
    report = yield
    if report.skipped and item.get_closest_marker("gpu") and os.environ.get("AOT_FAIL_WITHOUT_GPU"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"AOT_FAIL_WITHOUT_GPU is set, and the test was skipped: {reason}"
    return report
