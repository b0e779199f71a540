"""A store with a generated camera, the miniature, and a vLLM server that knows both."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.miniature.model import build_model, export_model
from demo.world.scenes import generate_scene
from demo.world.video import write_video
from integrations.vllm.tests.asking import MODEL
from integrations.vllm.tests.serving import VLLM, Server, serve
from pipeline import Pipeline
from pipeline.store import ClipStore, StoreConfig, open_store
from pipeline.store.embedded import start_embedded, stop_embedded

SECONDS = 24.0


def ingest_three_clips(folder: Path, stream: str, model: Path, retention: float) -> None:
    """A generated camera into the embedded store of a folder."""
    video = folder / "camera.mp4"
    if not video.exists():
        write_video(generate_scene("surveillance", 810_004, SECONDS), video)
    options = {"reducer": "none"} if retention == 1.0 else {}
    settings = {
        "model": {"id": str(model)},
        "ingest": {**options, "retention": retention},
        "store": {"url": f"embedded://{folder / 'store'}"},
        "ray": {"enabled": False},
    }
    with Pipeline.open(None, settings) as pipeline:
        assert pipeline.ingest(str(video), stream=stream).clips == 3


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Iterator[Path]:
    """Of an embedded store, and of what else is made for all tests."""
    folder = tmp_path_factory.mktemp("vllm")
    yield folder
    stop_embedded(folder / "store")


@pytest.fixture(scope="session")
def config(folder) -> StoreConfig:
    """Three streams: `full` (nothing dropped), `tenth`, and `other` of another model."""
    other = folder / "other"
    export_model(build_model(1), other)
    for stream, model, retention in (
        ("full", MODEL, 1.0),
        ("tenth", MODEL, 0.1),
        ("other", other, 0.1),
    ):
        ingest_three_clips(folder, stream, model, retention)
    return StoreConfig(f"unix://{start_embedded(folder / 'store').socket}")


@pytest.fixture
def store(config, folder) -> Iterator[ClipStore]:
    """The store, running whatever a test before did to it."""
    start_embedded(folder / "store")
    with open_store(config) as opened:
        yield opened


@pytest.fixture(scope="session")
def server(config, folder) -> Iterator[Server]:
    """One for all tests; never restarted."""
    if not VLLM.is_file():
        pytest.skip(f"no vLLM at {VLLM}: `make test-vllm` makes an environment for it")
    with serve(config.url, folder / "vllm.log") as running:
        yield running
