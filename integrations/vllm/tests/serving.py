"""A vLLM server of an environment of its own, with both doors open."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from integrations.vllm.tests.asking import MODEL, ROOT

VLLM = Path(os.environ.get("AOT_VLLM", ROOT / ".venv-vllm" / "bin" / "vllm"))
START_S = 800.0
STOP_S = 30.0


@dataclass(frozen=True)
class Server:
    """A running `vllm serve`."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]


@contextmanager
def serve(store_url: str, log: Path, model: Path = MODEL) -> Iterator[Server]:
    """`vllm serve` of a checkpoint, until the block ends.

    Raises:
        RuntimeError: it did not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    connector = {
        "ec_connector": "RecordConnector",
        "ec_connector_module_path": "aot_vllm.connector",
        "ec_role": "ec_consumer",
        "ec_connector_extra_config": {"store_url": store_url},
    }
    command = [
        *(VLLM, "serve", model, "--host", "127.0.0.1", "--port", port),
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
    with log.open("wb") as file:
        process = subprocess.Popen(
            list(map(str, command)),
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        server = Server(f"http://127.0.0.1:{port}", log, process)
        _await_start(server)
        yield server
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
    raise RuntimeError(f"vLLM did not start: {server.log.read_text()[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it with the processes it started."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_S)
