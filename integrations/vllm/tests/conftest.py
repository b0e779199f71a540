"""A store with a generated camera, the miniature, and a vLLM server that knows both."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from demo.miniature.model import build_model, export_model
from demo.world.scenes import generate_scene
from demo.world.video import write_video
from integrations.vllm.tests.asking import MODEL, ROOT
from pipeline import Pipeline
from pipeline.store import ClipStore, StoreConfig, open_store
from pipeline.store.embedded import start_embedded, stop_embedded

VLLM = Path(os.environ.get("AOT_VLLM", ROOT / ".venv-vllm" / "bin" / "vllm"))
START_S = 800.0
STOP_S = 30.0
SECONDS = 24.0


@dataclass(frozen=True)
class Server:
    """A running `vllm serve`."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def metric(self, name: str) -> float:
        """Sum of a counter of its metrics page."""
        lines = httpx.get(f"{self.url}/metrics", trust_env=False).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Iterator[Path]:
    """Of an embedded store, and of what else is made for all tests."""
    folder = tmp_path_factory.mktemp("vllm")
    yield folder
    stop_embedded(folder / "store")


@pytest.fixture(scope="session")
def config(folder) -> StoreConfig:
    """Three streams: `full` (nothing dropped), `tenth`, and `other` of another model."""
    video, other = folder / "camera.mp4", folder / "other"
    write_video(generate_scene("surveillance", 810_004, SECONDS), video)
    export_model(build_model(1), other)
    for stream, model, options in (
        ("full", MODEL, {"reducer": "none", "retention": 1.0}),
        ("tenth", MODEL, {"retention": 0.1}),
        ("other", other, {"retention": 0.1}),
    ):
        settings = {
            "model": {"id": str(model)},
            "ingest": options,
            "store": {"url": f"embedded://{folder / 'store'}"},
            "ray": {"enabled": False},
        }
        with Pipeline.open(None, settings) as pipeline:
            assert pipeline.ingest(str(video), stream=stream).clips == 3
    return StoreConfig(f"unix://{start_embedded(folder / 'store').socket}")


@pytest.fixture
def store(config, folder) -> Iterator[ClipStore]:
    """The store, running whatever a test before did to it."""
    start_embedded(folder / "store")
    with open_store(config) as opened:
        yield opened


@pytest.fixture(scope="session")
def server(config, folder) -> Iterator[Server]:
    """`vllm serve` of an environment of its own, with both doors open; never restarted."""
    if not VLLM.is_file():
        pytest.skip(f"no vLLM at {VLLM}: `make test-vllm` makes an environment for it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    connector = {
        "ec_connector": "RecordConnector",
        "ec_connector_module_path": "aot_vllm.connector",
        "ec_role": "ec_consumer",
        "ec_connector_extra_config": {"store_url": config.url},
    }
    command = [
        *(VLLM, "serve", MODEL, "--host", "127.0.0.1", "--port", port),
        *("--dtype", "float32", "--enforce-eager", "--enable-prompt-tokens-details"),
        *("--enable-prompt-embeds", "--trust-request-chat-template"),
        *("--enable-scale-out", "--mm-processor-cache-gb", 0),
        *("--limit-mm-per-prompt", json.dumps({"image": 0, "video": 0})),
        *("--ec-transfer-config", json.dumps(connector)),
    ]
    environment = {
        **os.environ,
        **{"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        **{"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "JAXTYPING_DISABLE": "1"},
    }
    log = folder / "vllm.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            list(map(str, command)),
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        running = Server(f"http://127.0.0.1:{port}", log, process)
        _await_start(running)
        yield running
    finally:
        _stop(process)


def _await_start(server: Server) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and server.process.poll() is None:
        try:
            if httpx.get(f"{server.url}/health", trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    pytest.fail(f"vLLM did not start: {server.log.read_text()[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it with the processes it started."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_S)
