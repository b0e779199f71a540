"""Fixtures for all tests: the folder of recorded outputs and footage, seeds; the rotation."""

import logging
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.rotation import Rotation, choose_seed

if not torch.cuda.is_available():
    # Triton reads it where a kernel is defined: from here on they run on a CPU, interpreted.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# No example has a time of its own: a limit of milliseconds fails on a machine that does other work.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

PACKAGES = ("aot", "workers", "pipeline", "bench", "demo")
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rotation", "a bounded part of the long tests")
    group.addoption("--rotation-s", type=float, help="start no more tests after so many seconds")
    group.addoption("--rotation-seed", type=int, help="the order of an earlier rotation")


def pytest_configure(config: pytest.Config) -> None:
    if budget_s := config.getoption("--rotation-s"):
        seed = config.getoption("--rotation-seed") or choose_seed()
        config.pluginmanager.register(Rotation(budget_s, seed), "rotation")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without an accelerator, what needs one is skipped on a laptop and fails where one is due."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        if os.environ.get("AOT_FAIL_WITHOUT_GPU"):
            pytest.fail("no accelerator, and AOT_FAIL_WITHOUT_GPU says that there is one")
        pytest.skip("no accelerator on this machine")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with recorded outputs and test footage, when it lies beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED}: recorded outputs and footage are not part of the repo")
    return SHARED


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_level_of_another_test() -> None:
    """A command that a test runs sets up logging for the whole process: not for the next test."""
    for name in PACKAGES:
        logging.getLogger(name).setLevel(logging.NOTSET)
