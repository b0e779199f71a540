"""An untrained miniature on disk: everything but its answers is as in the trained one."""

from pathlib import Path

import pytest

from demo.model import build_model, export_model


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Path:
    """Folder of an exported, untrained checkpoint."""
    folder = tmp_path_factory.mktemp("miniature")
    export_model(build_model(seed=1), folder)
    return folder
