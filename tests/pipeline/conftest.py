"""A tiny model, a short video, a store of the test's own, and the command line in this process."""

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.settings import Settings, load_settings
from pipeline.store import ClipStore, StoreConfig, open_store
from pipeline.store.embedded import start_embedded, stop_embedded
from tests.checkpoints import write_tiny_checkpoint
from tests.pipeline.support import Ran
from tests.videos import write_video

FPS = 2.0
CLIP_FRAMES = 4
CLIPS = 10
"""Of `video`: 20 s, sampled twice a second, four frames a clip."""


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def other_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "other", seed=1)


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 s at 4 frames a second."""
    folder = tmp_path_factory.mktemp("video")
    return write_video(folder / "walk.mp4", frames=80, fps=4, gop=8)


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose embedded server runs for the whole session."""
    folder = tmp_path_factory.mktemp("embedded")
    start_embedded(folder)
    yield folder
    stop_embedded(folder)


@pytest.fixture
def environment(
    monkeypatch: pytest.MonkeyPatch, model_folder: Path, server_folder: Path
) -> StoreConfig:
    """AOT_ variables for the tiny model and a namespace of the test's own, without Ray."""
    for name in [name for name in os.environ if name.startswith("AOT_")]:
        monkeypatch.delenv(name)
    config = StoreConfig(f"embedded://{server_folder}", namespace=f"t-{uuid.uuid4().hex[:8]}")
    values = {
        "AOT_MODEL__ID": str(model_folder),
        "AOT_STORE__URL": config.url,
        "AOT_STORE__NAMESPACE": config.namespace,
        "AOT_INGEST__FPS": str(FPS),
        "AOT_INGEST__CLIP_FRAMES": str(CLIP_FRAMES),
        "AOT_RAY__ENABLED": "false",
        "AOT_ASK__MAX_NEW_TOKENS": "8",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return config


@pytest.fixture
def settings(environment: StoreConfig) -> Settings:
    return load_settings()


@pytest.fixture
def opened(environment: StoreConfig) -> Iterator[ClipStore]:
    """The store that the environment names."""
    with open_store(environment) as store:
        yield store
        for stream_id in store.list_streams():
            store.delete_stream(stream_id)


@pytest.fixture
def run(
    environment: StoreConfig, opened: ClipStore, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ran]]:
    """`run("streams", "ls")`: a command in this process."""
    before = signal.getsignal(signal.SIGTERM)

    def run_command(*arguments: str | Path) -> Ran:
        capsys.readouterr()
        code = main([os.fspath(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    yield run_command
    signal.signal(signal.SIGTERM, before)
