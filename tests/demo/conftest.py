"""An untrained miniature on disk: everything but its answers is as in the trained one."""

from pathlib import Path

import pytest
import torch

from demo.miniature.model import build_model, export_model


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Path:
    """Folder of an exported, untrained checkpoint."""
    folder = tmp_path_factory.mktemp("miniature")
    export_model(build_model(seed=1), folder)
    return folder


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Small tensors gain nothing from more, and where cores are busy threads spin for each other:
    a test of four seconds then takes minutes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
